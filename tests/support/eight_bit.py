"""What the tests of the kernels share: the device they run on, and when two quantized tensors are the same.

Where there is a GPU the Triton kernels run on it, else in Triton's interpreter.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused import _jit

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

needs_triton = pytest.mark.skipif(_jit.triton is None, reason="Triton is not installed")


def target() -> Target:
    return (
        Target.of(DEVICE) if DEVICE.type == "cuda" else Target(kind="cpu", capability=None, interpreted=True)
    )


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, size: float = 1.0) -> Tensor:
    """Normal values, the same on every machine."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * size
    return values.to(dtype).to(DEVICE)


def rank(x8: Tensor) -> Tensor:
    """The place of each value among the values of its format: neighbours differ by 1."""
    if x8.dtype == torch.int8:
        return x8.int()
    bits = x8.view(torch.uint8).int()
    return torch.where(bits < 128, bits, 128 - bits)


def assert_same_codes(actual: Tensor, expected: Tensor, *, differing: float = 0.01) -> None:
    """Equal but for a few values that fell on the other side of a tie."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    difference = (rank(actual) - rank(expected)).abs()
    assert difference.max().item() <= 1, f"codes differ by up to {difference.max().item()}"
    assert (difference > 0).float().mean().item() <= differing


def assert_within_twice(actual: Tensor, plain: Tensor, exact: Tensor) -> None:
    """The error against fp32 is at most twice that of plain torch in the same dtype."""
    error = (actual.float() - exact).abs().max().item()
    neighbour = (plain.float() - exact).abs().max().item()
    tiny = 1e-6 * exact.abs().max().item()  # sums in another order
    assert error <= 2 * neighbour + tiny, f"error {error}, plain torch {neighbour}"


def errors(actual: Tensor, exact: Tensor) -> tuple[float, float]:
    """(relative Frobenius error, cosine)."""
    a, b = actual.double().flatten(), exact.double().flatten()
    return ((a - b).norm() / b.norm()).item(), (a @ b / (a.norm() * b.norm())).item()
