"""Dense attention in Triton against the reference: sizes around the tiles, strides, NaN in padding."""

from __future__ import annotations

import pytest
import torch
from attention_cases import (
    ADA,
    CPU,
    GPU_SIZES,
    SIZES,
    TRITON_DTYPES,
    TRITON_TARGET,
    TURING,
    check,
    fill_padding,
    lengths,
    problem,
    tensors,
)

pytest.importorskip("triton")

from kernels import reference
from kernels.attention import triton_dense
from kernels.descriptors import Target

DTYPES = pytest.mark.parametrize("dtype", TRITON_DTYPES, ids=str)


@DTYPES
@pytest.mark.parametrize(("q_len", "kv_len"), SIZES)
def test_sizes_around_the_tiles(q_len: int, kv_len: int, dtype: torch.dtype) -> None:
    check(triton_dense, *tensors(q_len, kv_len, dtype=dtype))


@DTYPES
@pytest.mark.parametrize("head_dim", [16, 32, 128])
def test_head_sizes(head_dim: int, dtype: torch.dtype) -> None:
    check(triton_dense, *tensors(33, 47, head_dim, dtype))


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("q_len", "kv_len"), GPU_SIZES)
def test_sizes_around_the_tiles_of_gpus(q_len: int, kv_len: int, head_dim: int, dtype: torch.dtype) -> None:
    check(triton_dense, *tensors(q_len, kv_len, head_dim, dtype))


@DTYPES
@pytest.mark.parametrize("short", [40, 33, 32, 31, 1, 0])
def test_lengths_with_nan_in_padding(short: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(33, 40, dtype=dtype)
    valid = lengths(37, short)
    check(triton_dense, q, fill_padding(k, valid), fill_padding(v, valid), kv_lengths=valid)


def test_large_scores_do_not_overflow() -> None:
    q, k, v = tensors(33, 40)
    out = triton_dense.run(q * 30, k * 30, v, scale=1.0)
    expected = reference.attention(q * 30, k * 30, v, scale=1.0)
    assert reference.compare(out, expected).relative < 1e-3


def test_the_result_has_tokens_before_heads_in_memory() -> None:
    q, k, v = tensors(33, 40)
    assert triton_dense.run(q, k, v, scale=0.1).transpose(1, 2).is_contiguous()


def test_supports_says_what_is_wrong() -> None:
    dtype = "fp16"
    assert triton_dense.supports(problem(dtype=dtype, target=TRITON_TARGET)) is None
    assert triton_dense.supports(problem(dtype=dtype, mask="lengths", target=ADA)) is None
    reasons = {
        "head size 80": problem(head_dim=80),
        "dtype fp32": problem(dtype="fp32"),
        "capability 7.5": problem(target=TURING),
        "needs a CUDA GPU": problem(target=CPU),
    }
    for text, asked in reasons.items():
        assert text in (triton_dense.supports(asked) or ""), asked


def test_supports_knows_the_limits_of_the_interpreter() -> None:
    interpreted = Target(kind="cpu", capability=None, interpreted=True)
    reason = triton_dense.supports(problem(dtype="bf16", target=interpreted))
    assert reason is not None and ("bf16" in reason or "TRITON_INTERPRET" in reason)


def test_without_triton_the_reason_is_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.attention._checks.find_spec", lambda name: None)
    assert triton_dense.supports(problem()) == "the package triton is not installed"


@pytest.mark.gpu
def test_torch_compile_sees_through_it() -> None:
    q, k, v = tensors(129, 77, 64, torch.bfloat16)

    def block(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return triton_dense.run(q * 1.5, k, v, scale=0.125) + 1

    compiled = torch.compile(block, fullgraph=True)
    assert (compiled(q, k, v) - block(q, k, v)).abs().max() < 0.05


@pytest.mark.gpu
def test_it_can_be_captured_in_a_graph() -> None:
    q, k, v = tensors(129, 77, 64, torch.bfloat16)
    expected = triton_dense.run(q, k, v, scale=0.125)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = triton_dense.run(q, k, v, scale=0.125)
    out.zero_()
    graph.replay()
    assert torch.equal(out, expected)
