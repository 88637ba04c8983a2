"""A step of the critic's decoding: one token of one or eight replies behind a prompt of 2300 tokens.

Compared with the library's forward over the whole prompt before it is timed; on a CPU a tiny model.
"""

from __future__ import annotations

import pytest
import torch

from bench.perf.benchmark_tools import HAS_GPU, Benchmark, assert_close, measure, need, sizes
from bench.perf.critic_steps import WEIGHTS, critic, decode_step, expected_logits, missing
from bench.perf.vlm_decode import cache_bytes, weight_bytes

REPLIES = (1, 8)
CLOSE = 0.12 if HAS_GPU else 0.02
"""Of logits: 36 random layers in bf16 are 0.06 apart (bench/results/vlm_decode_h200.json); fp32 on a CPU, but
for NF4 layers, which compute in bf16."""


@sizes("8b")
@pytest.mark.parametrize("replies", REPLIES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_decode_step(benchmark: Benchmark, weights: str, replies: int, size: str) -> None:
    need(weights, missing(weights))
    of = critic(weights, size)
    step, logits = decode_step(of, replies)
    step()
    assert torch.equal(logits, logits[:1].expand_as(logits)) or not HAS_GPU, "a reply feels its neighbours"
    errors = assert_close(logits[-1], expected_logits(of), relative=CLOSE, cosine=1 - CLOSE**2)
    measure(
        benchmark,
        step,
        group=f"decode step {size}",
        num_bytes=weight_bytes(of.model) + replies * cache_bytes(of.size),
        errors=errors,
    )
    benchmark.extra_info["tokens_per_s"] = 1e3 * replies / benchmark.extra_info["device_ms"]["median"]
