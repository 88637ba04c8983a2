"""The sums of an FP8 GEMM as tensor cores keep them."""

from __future__ import annotations

import pytest
import torch
from eight_bit import DEVICE, normal

from engine.quant.accumulation import sums
from kernels.fused.formats import FP8, to_format


def e4m3(*shape: int, seed: int = 0) -> torch.Tensor:
    return to_format(normal(*shape, seed=seed, size=8.0), FP8).float()


def outlier() -> torch.Tensor:
    x = torch.ones(1, 4096)
    x[0, 0] = 448.0
    return x


def test_ones_vanish_beside_an_outlier() -> None:
    """As an H200 answers, to the bit: with torch._scaled_mm of 2.11, use_fast_accum True and False."""
    x = outlier()
    assert sums(x, x, fast=True).item() == 448.0**2
    assert sums(x, x, fast=False).item() == 448.0**2 + 4096 - 128
    assert (x @ x.t()).item() == 448.0**2 + 4095


def test_short_sums_and_sums_of_like_values_are_close() -> None:
    for size_k in (1, 31, 100, 1024):
        x, w = e4m3(5, size_k), e4m3(7, size_k, seed=1)
        exact = x @ w.t()
        fast, full = ((sums(x, w, fast=f) - exact).norm() / exact.norm() for f in (True, False))
        assert full <= fast < 2e-3, size_k
        assert fast > 0 or size_k == 1


def test_zeros_and_cancelling_sums() -> None:
    assert not sums(torch.zeros(2, 64), torch.ones(3, 64), fast=True).any()
    x = torch.tensor([[448.0, -448.0, 1.0]])
    assert sums(x, torch.tensor([[448.0, 448.0, 1.0]]), fast=True).item() == 0.0, "cut off before it is added"


def test_different_lengths_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="w "):
        sums(torch.ones(1, 3), torch.ones(1, 4), fast=True)


@pytest.mark.gpu
@pytest.mark.skipif(
    DEVICE.type != "cuda" or torch.cuda.get_device_capability()[0] != 9, reason="a model of Hopper"
)
@pytest.mark.parametrize("fast", [True, False])
def test_gpu_sums_so(fast: bool) -> None:
    x, w = to_format(e4m3(128, 4096), FP8), to_format(e4m3(128, 4096, seed=1), FP8)
    one = torch.ones(128, 1, device=DEVICE)
    found = torch._scaled_mm(
        x, w.t(), scale_a=one, scale_b=one.t(), out_dtype=torch.float32, use_fast_accum=fast
    )
    exact = (x.double() @ w.double().t()).float()
    loss, model = found - exact, sums(x, w, fast=fast) - exact
    assert (loss - model).norm() < 0.4 * loss.norm()
