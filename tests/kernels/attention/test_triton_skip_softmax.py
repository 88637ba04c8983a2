"""Skipping tiles of keys: nothing skipped equals dense, what is skipped is bounded and really left out."""

from __future__ import annotations

import math

import pytest
import torch
from attention_cases import DEVICE, SIZES, TRITON_DTYPES, check, fill_padding, lengths, problem, tensors

pytest.importorskip("triton")

from kernels import reference
from kernels.attention import triton_dense, triton_skip_softmax

DTYPES = pytest.mark.parametrize("dtype", TRITON_DTYPES, ids=str)


@DTYPES
@pytest.mark.parametrize(("q_len", "kv_len"), SIZES)
def test_without_a_threshold_it_is_dense(q_len: int, kv_len: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(q_len, kv_len, dtype=dtype)
    out = triton_skip_softmax.run(q, k, v, scale=0.125, threshold=None)
    assert torch.equal(out, triton_dense.run(q, k, v, scale=0.125))


@DTYPES
@pytest.mark.parametrize(("q_len", "kv_len"), SIZES)
def test_the_default_keeps_its_bound(q_len: int, kv_len: int, dtype: torch.dtype) -> None:
    check(triton_skip_softmax, *tensors(q_len, kv_len, dtype=dtype))


def with_one_loud_tile(num_keys: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every query points at the first 32 keys (scores 12 or more above the rest), whose values are small."""
    q, k, v = tensors(33, num_keys)
    axis = torch.zeros(64, dtype=q.dtype, device=DEVICE)
    axis[0] = 1.0
    q, k = q * 0.1 + axis * 10, k * 0.1
    loud = k.clone()
    loud[:, :, :32] += axis * 12
    values = v.clone()
    values[:, :, 32:] += 3
    return q, loud, values


def test_a_negligible_tile_is_left_out() -> None:
    """Tiles of the interpreter are 32 keys and of GPUs up to 128: with 512 keys some lie beyond the first."""
    q, k, v = with_one_loud_tile(512 if DEVICE.type == "cuda" else 128)
    dense = triton_dense.run(q, k, v, scale=0.1)
    kept = triton_skip_softmax.run(q, k, v, scale=0.1, threshold=30.0)
    skipped = triton_skip_softmax.run(q, k, v, scale=0.1, threshold=4.0)
    assert torch.equal(kept, dense)
    assert not torch.equal(skipped, dense)
    only = reference.attention(q, k[:, :, :32], v[:, :, :32], scale=0.1)
    if DEVICE.type == "cpu":
        assert torch.allclose(skipped.float(), only, atol=2e-3)


def test_what_is_left_out_is_bounded() -> None:
    """A weight left out is below exp(-threshold) of the largest: M keys change a row by M times that."""
    q, k, v = with_one_loud_tile(128)
    expected = reference.attention(q, k, v, scale=0.1)
    for threshold in (4.0, 6.0, 8.0):
        out = triton_skip_softmax.run(q, k, v, scale=0.1, threshold=threshold)
        bound = 2 * 128 * math.exp(-threshold) * float(v.abs().max())
        assert float((out.float() - expected).abs().max()) <= bound + 2e-3


def test_rows_past_the_end_do_not_keep_a_tile() -> None:
    """33 queries leave a tile of rows nearly empty; what those rows would hold must not decide."""
    q, k, v = with_one_loud_tile(128)
    whole = triton_skip_softmax.run(q, k, v, scale=0.1, threshold=4.0)
    last = triton_skip_softmax.run(q[:, :, 32:], k, v, scale=0.1, threshold=4.0)
    if DEVICE.type == "cpu":  # there the 33rd query has a tile of its own in both
        assert torch.equal(whole[:, :, 32:], last)


@DTYPES
@pytest.mark.parametrize("short", [33, 1, 0])
def test_lengths_with_nan_in_padding(short: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(33, 40, dtype=dtype)
    valid = lengths(37, short)
    check(triton_skip_softmax, q, fill_padding(k, valid), fill_padding(v, valid), kv_lengths=valid)


def test_wrong_arguments_are_refused() -> None:
    q, k, v = tensors(16, 16)
    with pytest.raises(AssertionError, match="threshold"):
        triton_skip_softmax.run(q, k, v, scale=0.1, threshold=0.0)


def test_supports_says_what_is_wrong() -> None:
    assert triton_skip_softmax.supports(problem()) is None
    assert "head size" in (triton_skip_softmax.supports(problem(head_dim=256)) or "")


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("threshold", [None, 9.0])
def test_long_sequences_on_a_gpu(threshold: float | None, dtype: torch.dtype) -> None:
    q, k, v = tensors(1000, 3333, 128, dtype)
    check(triton_skip_softmax, q, k, v, threshold=threshold)
