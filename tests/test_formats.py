"""The two 8-bit formats in plain torch."""

from __future__ import annotations

import pytest
import torch
from eight_bit import DEVICE, normal

from kernels.fused.formats import FORMATS, FP8, INT8, dequantize, format_of, quantize_rows, to_format


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)
def test_error_of_normal_rows(fmt) -> None:
    x = normal(64, 1536)
    x8, scale = quantize_rows(x, fmt)
    error = ((dequantize(x8, scale) - x).norm() / x.norm()).item()
    assert fmt.relative_error / 4 < error <= fmt.relative_error


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)
def test_largest_value_is_the_largest_code(fmt) -> None:
    x = normal(5, 33) * torch.tensor([1e-6, 1.0, 1e4, 1e20, 3e-13], device=DEVICE)[:, None]
    x8, scale = quantize_rows(x, fmt)
    assert x8.float().isfinite().all() and scale.shape == (5, 1) and scale.dtype == torch.float32
    assert (x8.float().abs().amax(dim=1) == fmt.max)[:4].all()


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)
def test_zeros_stay_zeros(fmt) -> None:
    x8, scale = quantize_rows(torch.zeros(3, 8), fmt)
    assert not x8.float().any() and scale.isfinite().all() and (scale > 0).all()


def test_rounding_saturates_and_ties_go_to_even() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -300.0, 300.0])
    assert to_format(x, INT8).tolist() == [0, 2, 2, -127, 127]
    assert to_format(torch.tensor([17.0, 19.0, 1e9]), FP8).float().tolist() == [16.0, 20.0, 448.0]


def test_unknown_format_is_refused() -> None:
    with pytest.raises(AssertionError, match="one of fp8, int8"):
        format_of("fp4")
