"""Use, clock, power and memory of the GPU while something runs, by NVML on a thread of its own."""

from __future__ import annotations

import statistics
import threading
from types import TracebackType
from typing import Any, Self

import torch

from bench.perf.nvml import Gpu, NoReading

EVERY_S = 0.25
READINGS = ("gpu_percent", "memory_percent", "sm_clock_mhz", "power_w", "used_gib")
"""In a sample's order, see `bench.perf.nvml.Gpu`."""


class GpuSampler:
    """A context; afterwards `summary` has mean, median and largest value of each reading.

    Empty without a GPU; `missing` says why where NVML could not be asked.
    """

    def __init__(self) -> None:
        self.missing: str | None = None
        self._samples: list[tuple[float, ...]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-samples", daemon=True)

    def __enter__(self) -> Self:
        if torch.cuda.is_available():
            self._thread.start()
        else:
            self.missing = "no GPU"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def summary(self) -> dict[str, Any]:
        if not self._samples:
            return {}
        columns = dict(zip(READINGS, zip(*self._samples, strict=True), strict=True))
        found: dict[str, Any] = {
            name: {"mean": statistics.fmean(v), "median": statistics.median(v), "max": max(v)}
            for name, v in columns.items()
        }
        return found | {"num_samples": len(self._samples), "every_s": EVERY_S}

    def _run(self) -> None:
        try:
            gpu = Gpu.current()
            while not self._over.wait(EVERY_S):
                self._samples.append((*gpu.use(), gpu.sm_clock_mhz(), gpu.power_w(), gpu.used_gib()))
        except NoReading as error:
            self.missing = str(error)
