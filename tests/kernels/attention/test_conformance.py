"""Where causal and masked attention go wrong in libraries: every kernel that runs here is asked.

torch and ONNX Runtime align a causal mask to the upper left: one query with past keys sees the first key;
a row without keys is zeros in most backends of torch and something else in others.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_cases import DEVICE, HAS_GPU, TRITON_DTYPES, TRITON_TARGET, check, lengths, problem, tensors

from kernels import dispatch
from kernels.descriptors import MASKS, AttentionProblem, KernelError, Target, dtype_name
from kernels.fused._jit import HAS_TRITON

DTYPE = TRITON_DTYPES[0] if not HAS_GPU else torch.bfloat16
EVERY = pytest.mark.parametrize("name", dispatch.names())


def asked(kernel: Any, mask: str) -> AttentionProblem:
    """One query and 40 keys, on the device of this process or in Triton's interpreter."""
    target = TRITON_TARGET if hasattr(kernel, "TABLE") else Target.of(DEVICE)  # tiles: one of ours
    return problem(
        batch=2, heads=3, q_len=1, kv_len=40, head_dim=64, dtype=dtype_name(DTYPE), mask=mask, target=target
    )


def runnable(name: str, mask: str) -> Any:
    kernel = dispatch.load(name)
    if reason := kernel.supports(asked(kernel, mask)):
        pytest.skip(reason)
    return kernel


@EVERY
def test_one_query_sees_all_past_keys(name: str) -> None:
    kernel = runnable(name, "none")
    q, k, v = tensors(1, 40, 64, DTYPE)
    k[:, :, 1:] *= 2  # the first key has not the largest weight
    check(kernel, q, k, v)


@EVERY
def test_a_row_without_keys_is_zeros(name: str) -> None:
    kernel = runnable(name, "lengths")
    q, k, v = tensors(1, 40, 64, DTYPE)
    valid = lengths(0, 23)
    out = kernel.run(q, k, v, scale=0.1, kv_lengths=valid)
    assert not out[0].any() and out[1].abs().sum() > 0
    check(kernel, q, k, v, kv_lengths=valid)


@EVERY
def test_lengths_that_a_kernel_does_not_take_are_refused(name: str) -> None:
    kernel = runnable(name, "none")
    if kernel.supports(asked(kernel, "lengths")) is None:
        pytest.skip("it takes lengths")
    with pytest.raises(KernelError, match="lengths"):
        kernel.run(*tensors(1, 40, 64, DTYPE), scale=0.1, kv_lengths=lengths(0, 23))


def test_no_kernel_is_asked_for_a_causal_mask() -> None:
    """A decoding step needs none: its one query may see every key there is."""
    assert MASKS == ("none", "lengths")


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
def test_kernels_run_here() -> None:
    found = {
        name for name in dispatch.names() if (k := dispatch.load(name)).supports(asked(k, "none")) is None
    }
    assert {"sdpa_math", "triton_dense", "triton_int8", "triton_skip_softmax"} <= found
