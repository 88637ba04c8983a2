"""torch's memory-efficient attention: numbers on a GPU, reasons everywhere."""

from __future__ import annotations

import pytest
import torch
from attention_cases import (
    CPU,
    GPU_SIZES,
    HOPPER,
    SIZES,
    check,
    fill_padding,
    lengths,
    problem,
    tensors,
)

from kernels.attention import sdpa_efficient

DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("q_len", "kv_len"), SIZES + GPU_SIZES)
def test_sizes(q_len: int, kv_len: int, head_dim: int, dtype: torch.dtype) -> None:
    check(sdpa_efficient, *tensors(q_len, kv_len, head_dim, dtype))


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("short", [129, 1])
def test_lengths_with_nan_in_padding(short: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(33, 200, 128, dtype)
    valid = lengths(177, short)
    check(sdpa_efficient, q, fill_padding(k, valid), fill_padding(v, valid), kv_lengths=valid)


def test_supports_says_what_is_wrong() -> None:
    assert sdpa_efficient.supports(problem(mask="lengths", target=HOPPER)) is None
    reasons = {
        "head size 20": problem(head_dim=20),
        "needs a CUDA GPU": problem(target=CPU),
    }
    for text, asked in reasons.items():
        assert text in (sdpa_efficient.supports(asked) or ""), asked


@pytest.mark.gpu
def test_fp32() -> None:
    assert sdpa_efficient.supports(problem(dtype="fp32")) is None
    check(sdpa_efficient, *tensors(129, 77, 64, torch.float32))
