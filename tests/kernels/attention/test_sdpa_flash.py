"""torch's FlashAttention-2: on the CPU with every mask, on CUDA without."""

from __future__ import annotations

import pytest
import torch
from attention_cases import (
    CPU,
    HAS_GPU,
    HOPPER,
    TURING,
    check,
    fill_padding,
    lengths,
    problem,
    tensors,
)

from kernels.attention import sdpa_flash
from kernels.descriptors import KernelError

DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
ONLY_CPU = pytest.mark.skipif(HAS_GPU, reason="masks are for the CPU's kernel")


@DTYPES
@pytest.mark.parametrize(("q_len", "kv_len"), [(1, 1), (17, 17), (33, 70), (257, 129)])
def test_sizes(q_len: int, kv_len: int, dtype: torch.dtype) -> None:
    check(sdpa_flash, *tensors(q_len, kv_len, dtype=dtype))


@ONLY_CPU
def test_fp32_on_the_cpu() -> None:
    check(sdpa_flash, *tensors(33, 70, 40, torch.float32))


@ONLY_CPU
@pytest.mark.parametrize("short", [40, 1, 0])
def test_lengths_with_nan_in_padding(short: int) -> None:
    q, k, v = tensors(33, 40, dtype=torch.bfloat16)
    valid = lengths(37, short)
    check(sdpa_flash, q, fill_padding(k, valid), fill_padding(v, valid), kv_lengths=valid)


@pytest.mark.gpu
def test_masks_are_refused_on_cuda() -> None:
    q, k, v = tensors(16, 16)
    with pytest.raises(KernelError, match="sdpa_flash on CUDA"):
        sdpa_flash.run(q, k, v, scale=0.1, kv_lengths=lengths(3, 4))


def test_supports_says_what_is_wrong() -> None:
    assert sdpa_flash.supports(problem()) is None
    assert sdpa_flash.supports(problem(target=CPU, dtype="fp32", mask="lengths")) is None
    reasons = {
        "mask 'lengths'": problem(mask="lengths"),
        "fp32": problem(dtype="fp32"),
        "head size 264": problem(head_dim=264),
        "head size 20": problem(head_dim=20),
        "capability 7.5": problem(target=TURING),
    }
    for text, asked in reasons.items():
        assert text in (sdpa_flash.supports(asked) or ""), asked
    assert sdpa_flash.supports(problem(target=HOPPER, head_dim=256)) is None
