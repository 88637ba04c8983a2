"""One forward of a random-weight transformer: the library, then ours with one part more each time.

Every variant is compared with the library's velocity on the same weights before it is timed. On a CPU nothing
is compiled and a tiny transformer is used.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.perf import variants
from bench.perf.benchmark_tools import DEVICE, HAS_GPU, TINY, Benchmark, assert_close, measure, sizes
from bench.perf.denoiser import CLOSE
from bench.perf.denoisers.by_name import SUBJECTS
from engine.settings.environment import cache_folder

SUBJECT_OF = {"480p": "1.3b", "draft": "draft", TINY: "tiny"}
VARIANTS = {variant.name: variant for variant in variants.EVERYWHERE}
LIBRARY = variants.EVERYWHERE[0]


@functools.cache
def transformer(subject: str) -> Any:
    """Made once: variants that change it work on copies of its modules."""
    return SUBJECTS[subject].build(DEVICE)


@functools.cache
def expected(size: str) -> Tensor:
    """The library's velocity, kept on the host."""
    subject = SUBJECTS[SUBJECT_OF[size]]
    forward, _ = variants.build(LIBRARY, transformer(SUBJECT_OF[size]), subject, None)
    with torch.inference_mode():
        return forward().cpu()


@sizes("480p", "draft")
@pytest.mark.parametrize("name", VARIANTS)
def test_denoise_step(benchmark: Benchmark, name: str, size: str) -> None:
    subject = SUBJECTS[SUBJECT_OF[size]]
    cache = cache_folder() / "kernels" if HAS_GPU else None
    forward, notes = variants.build(VARIANTS[name], transformer(SUBJECT_OF[size]), subject, cache)
    start_s = time.perf_counter()
    velocity = forward().cpu()
    benchmark.extra_info |= {"first_call_s": time.perf_counter() - start_s, "choices": dict(notes)}
    errors = assert_close(velocity, expected(size), relative=CLOSE, cosine=1 - CLOSE**2)
    if HAS_GPU:
        torch.cuda.reset_peak_memory_stats()
    measure(
        benchmark,
        forward,
        group=f"denoise step {subject.name}",
        flops=subject.flops,
        errors=errors,
        repeats=10 if HAS_GPU else 3,
    )
    if HAS_GPU:
        benchmark.extra_info["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
