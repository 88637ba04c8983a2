"""Every attention kernel of the folder: self-test, error at full size, time, TFLOP/s.

The error at full size is that of the last queries, since a whole reference of 32760 x 32760 scores is not to
be had.
"""

from __future__ import annotations

import pytest

from bench.perf.benchmark_tools import TARGET, TINY, Benchmark, measure, sizes
from engine.settings.environment import cache_folder
from kernels import dispatch, reference
from kernels.descriptors import AttentionProblem, torch_dtype

SHAPES = {"480p": (12, 32760, 128), "draft": (12, 8190, 128), TINY: (2, 192, 64)}
"""Heads, tokens, head size: Wan2.1-1.3B at 480x832x81 and at the draft's 240x416x81."""
CHECKED_QUERIES = 64


def problem_of(name: str, size: str) -> AttentionProblem:
    """Without a mask; skips where the kernel does not take it."""
    heads, tokens, head_dim = SHAPES[size]
    problem = AttentionProblem(
        batch=1,
        heads=heads,
        q_len=tokens,
        kv_len=tokens,
        head_dim=head_dim,
        dtype="bf16",
        mask="none",
        target=TARGET,
    )
    reason = dispatch.load(name).supports(problem)
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    return problem


@sizes("480p", "draft")
@pytest.mark.parametrize("name", dispatch.names())
def test_attention(benchmark: Benchmark, name: str, size: str) -> None:
    problem, kernel = problem_of(name, size), dispatch.load(name)
    failure = dispatch.self_test(name, problem).failure
    assert failure is None, f"self-test: {failure}"
    q, k, v, options = dispatch.example(problem, seed=1)
    tiles = dispatch.tuned_tiles(name, problem, cache_folder() / "kernels")
    more = options if tiles is None else options | {"tiles": tiles}

    last = q[:, :, -CHECKED_QUERIES:]
    expected = reference.attention(last, k, v, **options)
    plain = reference.compare(reference.plain(last, k, v, **options), expected)
    errors = reference.compare(kernel.run(q, k, v, **more)[:, :, -CHECKED_QUERIES:], expected)
    allowed = reference.allowed_error(
        plain.largest, expected, torch_dtype(problem.dtype), kernel.ERROR_FACTOR
    )
    if not hasattr(kernel, "expected"):  # else its error is told: the self-test is the check
        assert errors.largest <= allowed, f"largest error {errors.largest:.3g}, allowed {allowed:.3g}"
        assert errors.cosine >= getattr(kernel, "COSINE_BOUND", 0.999), errors

    benchmark.extra_info |= {"accuracy": kernel.ACCURACY, "tiles": str(tiles)}
    measure(
        benchmark,
        lambda: kernel.run(q, k, v, **more),
        group=f"attention {problem}",
        flops=problem.flops,
        errors=errors,
    )
