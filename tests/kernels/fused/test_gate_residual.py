"""The last residual of a block."""

from __future__ import annotations

import pytest
import torch
from eight_bit import assert_within_twice, needs_triton, normal

from kernels.descriptors import Target
from kernels.fused import gate_residual


@needs_triton
@pytest.mark.parametrize(
    ("tokens", "split", "rows"), [(1, 0, 1), (17, 0, 2), (17, 6, 2), (17, 17, 2), (9, 3, 1)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernel_is_plain_torch(tokens: int, split: int, rows: int, dtype: torch.dtype) -> None:
    h, y = (normal(2, tokens, 97, dtype=dtype, seed=seed) for seed in (1, 2))
    gate = normal(2, rows, 6, 97, seed=3)[:, :, 5]
    actual = gate_residual.launch(h, y, gate, split=split)
    exact = gate_residual.plain(h.float(), y.float(), gate, split=split)
    assert actual.dtype == dtype
    assert_within_twice(actual, gate_residual.plain(h, y, gate, split=split), exact)


@needs_triton
def test_without_a_gate_it_is_a_sum() -> None:
    h, y = (normal(1, 5, 33, dtype=torch.bfloat16, seed=seed) for seed in (1, 2))
    assert torch.equal(gate_residual.launch(h, y), h + y)
    assert torch.equal(gate_residual.run(h, y), h + y)


def test_supports_says_no() -> None:
    assert gate_residual.supports(Target(kind="cpu", capability=None), channels=64) is not None


@pytest.mark.gpu
def test_wan_shape() -> None:
    h, y = (normal(1, 32760, 1536, dtype=torch.bfloat16, seed=seed) for seed in (1, 2))
    gate = normal(1, 2, 1536, seed=3)
    actual = gate_residual.run(h, y, gate, split=7801)
    exact = gate_residual.plain(h.float(), y.float(), gate, split=7801)
    assert_within_twice(actual, gate_residual.plain(h, y, gate, split=7801), exact)
