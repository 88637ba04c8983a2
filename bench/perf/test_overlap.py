"""A forward of the denoiser and steps of the critic's decoding: each alone, and both at once on two lanes.

Each way to share the GPU of bench/perf/overlap/sharing.py; one stream is what they are compared with. A whole
run of product jobs is bench.perf.overlap. What both compute is compared with what they compute alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench.perf import test_denoise_step, variants
from bench.perf.benchmark_tools import DEVICE, HAS_GPU, Benchmark, assert_close, measure, need, sizes
from bench.perf.critic_steps import critic, decode_step, missing
from bench.perf.denoisers.base import Forward
from bench.perf.denoisers.by_name import SUBJECTS
from bench.perf.overlap import sharing
from bench.perf.overlap.sharing import CRITIQUE, GENERATE, SHARINGS, STREAMS, OnLane, shared
from engine.machine.streams import LaneStreams
from engine.settings.environment import cache_folder

ALONE = {"generator alone": (GENERATE,), "critic alone": (CRITIQUE,)}
WAYS = {one.name: one for one in SHARINGS}
WHOLE = variants.EVERYWHERE[-1]
assert WHOLE.settings is not None
EAGER = replace(WHOLE, name="8-bit, not compiled", settings=replace(WHOLE.settings, compile="off"))
"""So that a suite of many ways compiles nothing."""
TOKENS = 32 if HAS_GPU else 2
WEIGHTS = "nf4" if HAS_GPU else "bf16"
CLOSE = 0.02
"""Another sharing may pick other kernels."""


@functools.lru_cache(maxsize=1)
def denoiser(size: str) -> tuple[Forward, Tensor]:
    """A forward, and what it computes while nothing else runs."""
    name = test_denoise_step.SUBJECT_OF[size]
    cache = cache_folder() / "kernels" if HAS_GPU else None
    forward, _ = variants.build(EAGER, test_denoise_step.transformer(name), SUBJECTS[name], cache)
    return forward, forward().clone()


def both(
    work: dict[str, Callable[[], object]], lanes: tuple[str, ...], on_lane: OnLane
) -> Callable[[], None]:
    """Launches each lane's work behind what is enqueued now, and has the caller's stream wait for it."""

    def call() -> None:
        before = torch.cuda.current_stream() if HAS_GPU else None
        for lane in lanes:
            with on_lane(lane):
                if before is not None:
                    torch.cuda.current_stream().wait_stream(before)
                work[lane]()
        for lane in lanes:
            with on_lane(lane):
                if before is not None:
                    before.wait_stream(torch.cuda.current_stream())

    return call


@sizes("480p")
@pytest.mark.parametrize("way", [*ALONE, *WAYS])
def test_overlap(benchmark: Benchmark, way: str, size: str) -> None:
    chosen = WAYS.get(way, STREAMS)
    need(way, sharing.missing(chosen, DEVICE))
    need(WEIGHTS, missing(WEIGHTS))
    forward, velocity = denoiser(size)
    of, lanes = critic(WEIGHTS, "8b" if HAS_GPU else size), ALONE.get(way, (GENERATE, CRITIQUE))
    with shared(chosen, LaneStreams(DEVICE)) as on_lane:
        if chosen not in SHARINGS[:2]:
            need(way, sharing.self_test(on_lane, DEVICE))
        with on_lane(CRITIQUE):  # a graph keeps the priority of the stream of its capture
            step, logits = decode_step(of, 1)
        if HAS_GPU:
            torch.cuda.synchronize()
        alone, made = logits.clone(), torch.zeros_like(velocity)
        work: dict[str, Callable[[], object]] = {
            GENERATE: lambda: made.copy_(forward()),
            CRITIQUE: lambda: [step() for _ in range(TOKENS)],
        }
        call = both(work, lanes, on_lane)
        logits.zero_()
        call()
        found = {GENERATE: (made, velocity), CRITIQUE: (logits, alone)}
        errors = [assert_close(*found[lane], relative=CLOSE, cosine=1 - CLOSE**2) for lane in lanes]
        measure(benchmark, call, group=f"overlap {size}, {TOKENS} tokens", errors=errors[-1])
    benchmark.extra_info |= {"lanes": lanes, "tokens": TOKENS * (CRITIQUE in lanes)}
