"""torch's plain attention behind our interface: every mask, dtype and device."""

from __future__ import annotations

import pytest
import torch
from attention_cases import CPU, HOPPER, check, fill_padding, lengths, problem, tensors

from kernels.attention import sdpa_math

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)


@DTYPES
@pytest.mark.parametrize(("q_len", "kv_len"), [(1, 1), (17, 17), (33, 70)])
@pytest.mark.parametrize("head_dim", [8, 40, 64])
def test_sizes(q_len: int, kv_len: int, head_dim: int, dtype: torch.dtype) -> None:
    check(sdpa_math, *tensors(q_len, kv_len, head_dim, dtype))


@DTYPES
@pytest.mark.parametrize("short", [40, 1, 0])
def test_lengths_with_nan_in_padding(short: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(33, 40, dtype=dtype)
    valid = lengths(37, short)
    check(sdpa_math, q, fill_padding(k, valid), fill_padding(v, valid), kv_lengths=valid)


def test_supports_all_but_too_many_scores() -> None:
    for target in (CPU, HOPPER):
        for mask in ("none", "lengths"):
            assert sdpa_math.supports(problem(target=target, mask=mask, head_dim=37)) is None
    assert "12878611200 scores" in (sdpa_math.supports(problem(q_len=32760, kv_len=32760)) or "")
