"""The current GPU as NVML sees it: use, clock, power, memory. The one place that asks NVML.

A context of its own per reading would cost more than the reading: a `Gpu` is kept by whoever samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch


class NoReading(Exception):
    """NVML cannot be asked, or does not answer; the text says why."""


class Use(NamedTuple):
    """Of the time some kernel ran, and some memory was read or written; not of the card's capacity."""

    gpu_percent: float
    memory_percent: float


class Gpu:
    """Each reading raises NoReading where NVML has none."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    @classmethod
    def current(cls) -> Self:
        """That of torch in this thread. Raises NoReading: no library, no driver, or no such card."""
        try:
            import pynvml
        except ImportError as error:
            raise NoReading("nvidia-ml-py is not installed") from error
        try:
            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        except pynvml.NVMLError as error:
            raise NoReading(f"NVML: {error}") from error

    def use(self) -> Use:
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        return Use(gpu_percent=float(rates.gpu), memory_percent=float(rates.memory))

    def sm_clock_mhz(self) -> float:
        return float(self._ask("nvmlDeviceGetClockInfo", self._library.NVML_CLOCK_SM))

    def power_w(self) -> float:
        return float(self._ask("nvmlDeviceGetPowerUsage")) / 1e3

    def power_limit_w(self) -> float:
        return float(self._ask("nvmlDeviceGetEnforcedPowerLimit")) / 1e3

    def used_gib(self) -> float:
        """By all processes together."""
        return float(self._ask("nvmlDeviceGetMemoryInfo").used) / 2**30

    def _ask(self, function: str, *arguments: object) -> Any:
        try:
            return getattr(self._library, function)(self._handle, *arguments)
        except self._library.NVMLError as error:
            raise NoReading(f"NVML: {error}") from error
