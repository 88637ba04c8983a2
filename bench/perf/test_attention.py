"""Every attention kernel of the folder: self-test, error at full size, time, TFLOP/s.

The error at full size is that of the last queries, since a whole reference of 32760 x 32760 scores is not to
be had.
"""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from bench.perf.benchmark_tools import TARGET, TINY, Benchmark, measure, sizes
from engine.settings.environment import cache_folder
from kernels import dispatch, reference
from kernels.attention._blocks import BlockMask
from kernels.descriptors import AttentionProblem, torch_dtype

SHAPES = {"480p": (12, 32760, 128), "draft": (12, 8190, 128), TINY: (2, 192, 64)}
"""Heads, tokens, head size: Wan2.1-1.3B at 480x832x81 and at the draft's 240x416x81."""
CHECKED_QUERIES = 64


def problem_of(name: str, size: str) -> AttentionProblem:
    """Without a mask, or with blocks for a kernel that takes nothing else; skips where it takes neither."""
    heads, tokens, head_dim = SHAPES[size]
    reasons: dict[str, None] = {}
    for mask in ("none", "blocks"):
        problem = AttentionProblem(
            batch=1,
            heads=heads,
            q_len=tokens,
            kv_len=tokens,
            head_dim=head_dim,
            dtype="bf16",
            mask=mask,
            target=TARGET,
        )
        reason = dispatch.load(name).supports(problem)
        if reason is None:
            return problem
        reasons[reason] = None
    pytest.skip(f"{name}: {'; '.join(reasons)}")


def last_queries(q: Tensor, options: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """The end of q [B, A, N, D] and the options that belong to it; with blocks, the last block."""
    blocks = options.get("blocks")
    if blocks is None:
        return q[:, :, -CHECKED_QUERIES:], options
    count = blocks.q_len - (len(blocks.counts) - 1) * blocks.block
    last = BlockMask(
        indices=blocks.indices[-1:],
        counts=blocks.counts[-1:],
        q_len=count,
        kv_len=blocks.kv_len,
        block=blocks.block,
    )
    return q[:, :, -count:], options | {"blocks": last}


@sizes("480p", "draft")
@pytest.mark.parametrize("name", dispatch.names())
def test_attention(benchmark: Benchmark, name: str, size: str) -> None:
    problem, kernel = problem_of(name, size), dispatch.load(name)
    failure = dispatch.self_test(name, problem).failure
    assert failure is None, f"self-test: {failure}"
    q, k, v, options = dispatch.example(problem, seed=1)
    tiles = dispatch.tuned_tiles(name, problem, cache_folder() / "kernels")
    more = options if tiles is None else options | {"tiles": tiles}

    part, masks = last_queries(q, options)
    expected = reference.attention(part, k, v, **masks)
    plain = reference.compare(reference.plain(part, k, v, **masks), expected)
    errors = reference.compare(kernel.run(q, k, v, **more)[:, :, -part.shape[2] :], expected)
    allowed = reference.allowed_error(
        plain.largest, expected, torch_dtype(problem.dtype), kernel.ERROR_FACTOR
    )
    assert errors.largest <= allowed, f"largest error {errors.largest:.3g}, allowed {allowed:.3g}"
    assert errors.cosine >= getattr(kernel, "COSINE_BOUND", 0.999), errors

    density = options["blocks"].density if "blocks" in options else 1.0
    benchmark.extra_info |= {"accuracy": kernel.ACCURACY, "density": density, "tiles": str(tiles)}
    measure(
        benchmark,
        lambda: kernel.run(q, k, v, **more),
        group=f"attention {problem}",
        flops=problem.flops * density,
        errors=errors,
    )
