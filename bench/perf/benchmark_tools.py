"""What the pytest-benchmark suites share: where they run, how a function is timed, what is recorded.

Knows no kernel. pytest-benchmark's own figures are wall times with the wait for the device; the rates in
`extra_info` come from the device's events (kernels/timing.py), with a cold L2 cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor

from kernels import reference, timing
from kernels.descriptors import Target

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
TARGET = Target.of(DEVICE)
DTYPE = torch.bfloat16
REPEATS = 20 if HAS_GPU else 3
WARMUP = 3 if HAS_GPU else 1
TINY = "tiny"


class Benchmark(Protocol):
    """The part of pytest-benchmark's fixture that the suites use."""

    extra_info: dict[str, Any]
    group: str | None

    def pedantic(self, target: Callable[[], Any], *, rounds: int, warmup_rounds: int) -> Any: ...


def sizes(*full: str) -> pytest.MarkDecorator:
    """Parametrizes `size`: the full sizes on a GPU, the tiny one without, each of the others a skip that says
    why."""
    on_gpu, without = "the tiny size is for machines without a GPU", "needs an NVIDIA GPU; torch sees none"
    marks = [pytest.param(size, marks=pytest.mark.skipif(not HAS_GPU, reason=without)) for size in full]
    tiny = pytest.param(TINY, marks=pytest.mark.skipif(HAS_GPU, reason=on_gpu))
    return pytest.mark.parametrize("size", [*marks, tiny])


def need(name: str, reason: str | None) -> None:
    """Skip with what `supports` said of `name`; None goes on."""
    if reason is not None:
        pytest.skip(f"{name}: {reason}")


def line_of(extra_info: dict[str, Any]) -> str:
    """The device's time, rate and error of one benchmark, for the terminal."""
    found = extra_info["device_ms"]
    text = f"{found['median']:10.3f} ms [{found['p10']:.3f} to {found['p90']:.3f}] n={found['n']}"
    for key, label, digits in (
        ("tflops", "TFLOP/s", 1),
        ("gb_per_s", "GB/s", 0),
        ("frames_per_s", "frames/s", 1),
        ("tokens_per_s", "tokens/s", 0),
    ):
        if key in extra_info:
            text += f" {extra_info[key]:9.{digits}f} {label}"
    return text + (f" error {extra_info['relative_error']:.4f}" if "relative_error" in extra_info else "")


def normal(*shape: int, seed: int, dtype: torch.dtype = DTYPE) -> Tensor:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=DEVICE, dtype=dtype)


def assert_close(actual: Tensor, expected: Tensor, *, relative: float, cosine: float) -> reference.Errors:
    """Both bounds fail on NaN."""
    errors = reference.compare(actual, expected)
    assert errors.relative <= relative, f"relative error {errors.relative:.3g}, allowed {relative:.3g}"
    assert errors.cosine >= cosine, f"cosine {errors.cosine:.6f} is below {cosine}"
    return errors


def measure(
    benchmark: Benchmark,
    function: Callable[[], Any],
    *,
    group: str,
    flops: float | None = None,
    num_bytes: int | None = None,
    errors: reference.Errors | None = None,
    repeats: int = REPEATS,
    warmup: int = WARMUP,
) -> None:
    """Times `function` twice, by events and by pytest-benchmark, and records rates and errors."""
    benchmark.group = group
    found = timing.summary(timing.time_gpu(function, repeats=repeats, warmup=warmup, device=DEVICE.type))
    benchmark.extra_info |= {"target": str(TARGET), "device_ms": asdict(found)}
    if flops is not None:
        benchmark.extra_info["tflops"] = flops / found.median / 1e9
    if num_bytes is not None:
        benchmark.extra_info["gb_per_s"] = num_bytes / found.median / 1e6
    if errors is not None:
        benchmark.extra_info |= {"relative_error": errors.relative, "cosine": errors.cosine}

    def whole() -> None:
        function()
        if HAS_GPU:
            torch.cuda.synchronize()

    benchmark.pedantic(whole, rounds=repeats, warmup_rounds=1)


def size_bytes(*tensors: Tensor | None) -> int:
    """What the tensors hold; the traffic of a kernel that reads or writes each once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
