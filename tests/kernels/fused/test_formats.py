"""The two 8-bit formats in plain torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from eight_bit import DEVICE, normal
from safetensors.torch import load_file
from torch import Tensor

from kernels.fused.formats import (
    FORMATS,
    FP8,
    INT8,
    dequantize,
    format_of,
    hadamard,
    quantize_rows,
    to_format,
)


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


def test_mixing_is_orthogonal_and_its_own_inverse() -> None:
    x = normal(3, 5, 24)
    torch.testing.assert_close(hadamard(hadamard(x)), x)
    torch.testing.assert_close(hadamard(x).norm(dim=-1), x.norm(dim=-1))


def test_mixing_shares_the_rounding_errors_of_large_channels() -> None:
    """On queries and keys of one head of the bundled generator (layer 5, middle of a take, every 4th token)
    with the static scales of its layer: a few of the 64 channels make most of the scores."""
    head = load_file(Path(__file__).parents[2] / "data" / "attention_head.safetensors")
    q, k, q_scale, k_scale = (head[name].float().to(DEVICE) for name in ("q", "k", "q_scale", "k_scale"))
    v = normal(len(k), 64)

    def rounded(x: Tensor, scale: Tensor) -> Tensor:
        return dequantize(to_format(x / scale, FP8), scale)

    def attend(q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.T / 8).softmax(dim=-1) @ v

    def error(q: Tensor, k: Tensor) -> float:
        exact = attend(q, k)
        difference = attend(rounded(q, q_scale), rounded(k, k_scale)) - exact
        return (difference.norm() / exact.norm()).item()

    assert error(hadamard(q), hadamard(k)) < 0.7 * error(q, k)
