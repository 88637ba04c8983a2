"""How long a function takes on the device: lists of times, never one mean.

Knows no kernel. On CUDA by events on the current stream, each run with a cold L2 cache; on the CPU by
perf_counter. All times are milliseconds.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Function = Callable[[], object]

HEAD_START_CYCLES = 2_000_000
"""Of the SM clock: about 1 ms, in which the host enqueues a kernel or two behind several layers of Python."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Of a list of times in milliseconds."""

    median: float
    p10: float
    p90: float
    n: int


def summary(times_ms: Sequence[float]) -> Summary:
    assert times_ms, "no times to sum up"
    ordered = sorted(times_ms)
    return Summary(
        median=statistics.median(ordered),
        p10=_quantile(ordered, 0.1),
        p90=_quantile(ordered, 0.9),
        n=len(ordered),
    )


def time_gpu(
    function: Function, *, repeats: int, warmup: int, cold_l2: bool = True, device: str | None = None
) -> list[float]:
    """Times of `repeats` runs after `warmup` untimed ones, on `device` (default: CUDA where there is one)."""
    assert repeats >= 1 and warmup >= 0, (repeats, warmup)
    timer = _timer(device, cold_l2)
    for _ in range(warmup):
        function()
    return timer([function] * repeats)


def alternate(
    functions: Mapping[str, Function], rounds: int, *, warmup: int = 3, device: str | None = None
) -> dict[str, list[float]]:
    """Times of several functions, one run of each in turn, so that clocks and heat hit all alike."""
    assert functions and rounds >= 1, (list(functions), rounds)
    timer = _timer(device, cold_l2=True)
    for function in functions.values():
        for _ in range(warmup):
            function()
    names = list(functions)
    # Every second round runs backwards: nobody always follows the same neighbour.
    order = [name for i in range(rounds) for name in (names if i % 2 == 0 else names[::-1])]
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    for name, ms in zip(order, timer([functions[name] for name in order]), strict=True):
        times_ms[name].append(ms)
    return times_ms


def machine() -> dict[str, str]:
    """What a stored time depends on besides the problem: GPU, driver, torch and Triton versions."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    known = {"torch": torch.__version__, "triton": triton, "machine": platform.machine()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        known |= {
            "gpu": properties.name,
            "memory_bytes": str(properties.total_memory),
            "driver": driver_version(),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
        }
    return known


def driver_version() -> str:
    """Of the NVIDIA driver, as its own library reports it; "unknown" where that cannot be asked."""
    import ctypes

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "unknown"
    text = ctypes.create_string_buffer(96)
    if nvml.nvmlInit_v2() != 0 or nvml.nvmlSystemGetDriverVersion(text, len(text)) != 0:
        return "unknown"
    return text.value.decode()


def _timer(device: str | None, cold_l2: bool) -> Callable[[Sequence[Function]], list[float]]:
    use_cuda = torch.cuda.is_available() if device is None else device == "cuda"
    if not use_cuda:
        return _time_on_cpu
    return lambda functions: _time_on_cuda(functions, cold_l2)


def _time_on_cpu(functions: Sequence[Function]) -> list[float]:
    times_ms = []
    for function in functions:
        start = time.perf_counter()
        function()
        times_ms.append((time.perf_counter() - start) * 1e3)
    return times_ms


def _time_on_cuda(functions: Sequence[Function], cold_l2: bool) -> list[float]:
    flush = None
    if cold_l2:
        num_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        flush = torch.empty(4 * max(num_bytes, 2**24), dtype=torch.int8, device="cuda")
    pairs = []
    torch.cuda.synchronize()
    for function in functions:
        if flush is not None:
            flush.zero_()
        # Keeps the device busy while the host enqueues: the events bracket the device's work alone, not the
        # time in which a small kernel waits for Python.
        torch.cuda._sleep(HEAD_START_CYCLES)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]


def _quantile(ordered: Sequence[float], fraction: float) -> float:
    """Linear between the two nearest of the sorted values."""
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
