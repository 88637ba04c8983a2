"""A value that is no number reaches the scale of its row in every kernel that rounds to 8 bits.

The device's maximum leaves NaN out, and clamping makes it 448: a broken take would look
like a good one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from eight_bit import DEVICE, needs_triton, normal
from torch import Tensor

from kernels.fused import head_quant, residual_norm, rms_norm, row_quant, swiglu

CHANNELS = 48  # two tiles
BAD_ROW = 2


def given(bad: float, width: int = CHANNELS) -> Tensor:
    """[1, 5, width] with one bad value, in the second tile of its row."""
    x = normal(1, 5, width)
    x[0, BAD_ROW, width - 3] = bad
    return x


def rows_of(module: ModuleType, form: str, x: Tensor, quantize: str) -> Tensor:
    """The scales of the five rows."""
    run: Callable[..., Any] = getattr(module, form)
    if module is row_quant:
        return run(x, quantize=quantize)[1].flatten()
    if module is swiglu:
        return run(torch.cat([x, torch.ones_like(x)], dim=-1), quantize=quantize)[-1].flatten()
    if module is rms_norm:
        weight = torch.ones(CHANNELS, device=DEVICE)
        return run(x, None, weight, eps=1e-6, quantize=quantize)[-1].flatten()
    return run(x, eps=1e-6, quantize=quantize)[-1].flatten()


@needs_triton
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("form", ["launch", "plain"])
@pytest.mark.parametrize("quantize", ["fp8", "int8"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("module", [row_quant, swiglu, rms_norm, residual_norm], ids=lambda m: m.__name__)
def test_the_scale_of_its_row_is_not_finite(module: ModuleType, bad: float, quantize: str, form: str) -> None:
    scale = rows_of(module, form, given(bad), quantize)
    assert scale.isfinite().tolist() == [row != BAD_ROW for row in range(5)]


@needs_triton
@pytest.mark.parametrize("form", ["launch", "plain"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_scale_of_its_head_is_not_finite(bad: float, form: str) -> None:
    v = normal(1, 70, 3, 16)
    v[0, 40, 1, 3] = bad
    scale = getattr(head_quant, form)(v)[1]
    assert scale.isfinite().tolist() == [[True, False, True]]


@needs_triton
@pytest.mark.parametrize("per_row", [True, False])
def test_int8_attention_keeps_it(per_row: bool) -> None:
    from kernels.attention._triton_quantize import int8_rows

    x = normal(1, 1, 32, 16).half()
    x[0, 0, 20, 3] = math.nan
    _, scales = int8_rows(x, None, None, 1.0, 16, per_row)
    expected = [row != 20 for row in range(32)] if per_row else [True, False]
    assert scales.flatten().isfinite().tolist() == expected
