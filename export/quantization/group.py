"""Linears that read one tensor as Q/DQ modules: one quantizer for all of them, and one product where asked.

Knows no model and no file. Invariant: every output channel of a merged product has the weights, the scale and
the bias that its own linear would have had, bit for bit; activations have one scale for the group either way.
SmoothQuant: Xiao et al. 2023 (arXiv 2211.10438).
I input features . O output features
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.quantization.quantized import (
    FP4_MAX,
    FP8,
    FP8_MAX,
    INT8_MAX,
    ActivationQuantizer,
    Columns,
    Fp4ActivationQuantizer,
    Fp4Linear,
    Int4Linear,
    QuantizedLinear,
    fp4_quantize,
    int4_quantize,
    quantize_linear,
    scale_of,
)

STORED = {"fp8": (FP8, FP8_MAX), "int8": (torch.int8, INT8_MAX)}
"""Kind of an 8-bit linear -> type of its weights and the largest magnitude of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupModules:
    """What takes the place of a group: `front` runs once, and each of `linears` on what it gives.

    front: the quantizer; or the product of all, of which every linear takes its columns; None when
    activations stay as they are, or the only linear owns the quantizer.
    """

    front: nn.Module | None
    linears: tuple[nn.Module, ...]


def quantize_group(
    kind: str,
    weights: tuple[Tensor, ...],
    biases: tuple[Tensor | None, ...],
    input_amax: Tensor | None,
    *,
    dtype: torch.dtype,
    shared: bool,
    merged: bool = False,
) -> GroupModules:
    """Linears of `kind` (see Recipe.linear) for weights [O, I] that read one tensor.

    input_amax float32 [I] is the largest magnitude seen per input feature (int4 needs none). `shared`: the
    caller runs the front once; else the only linear owns the quantizer. `merged`: the front multiplies for
    all of them, 8-bit kinds alone. Works on meta tensors.
    """
    assert shared or len(weights) == 1, f"{len(weights)} linears cannot each own the quantizer"
    assert not merged or (shared and kind in STORED), f"{len(weights)} linears of {kind} in one product"
    bias = tuple(None if b is None else b.to(dtype) for b in biases)
    if kind == "int4":
        pairs = [int4_quantize(weight.t().float(), dtype) for weight in weights]
        return GroupModules(
            front=None, linears=tuple(Int4Linear(w, s, b) for (w, s), b in zip(pairs, bias, strict=True))
        )
    assert input_amax is not None, f"{kind} needs the magnitudes of its input"
    amax = input_amax.to(weights[0].device).float()
    if kind == "nvfp4":
        return _in_fp4(weights, bias, amax, dtype, shared)
    assert kind in STORED, f"unknown kind of linear {kind}"
    factor = _smoothing(weights, amax, dtype) if kind == "int8" else None
    stored, largest = STORED[kind]
    seen = amax if factor is None else amax * factor.float()
    quantizer = ActivationQuantizer(scale_of(seen.amax(), largest, dtype), stored, factor)
    # one at a time: the float weights of a whole group are four times what it is stored in
    made = (_in_eight_bits(weight, factor, kind, dtype) for weight in weights)
    if merged:
        widths = [len(weight) for weight in weights]
        product = _product(made, widths, _joined(bias, widths, dtype), quantizer)
        return GroupModules(front=product, linears=_columns(widths))
    own = nn.Identity() if shared else quantizer
    linears = tuple(QuantizedLinear(w, s, b, own) for (w, s), b in zip(made, bias, strict=True))
    return GroupModules(front=quantizer if shared else None, linears=linears)


def smoothing_of(input_amax: Tensor, weight_amax: Tensor, *, alpha: float = 0.5) -> Tensor:
    """What to multiply each input feature [I] with: weight_amax^(1 - alpha) / input_amax^alpha.

    Features that are never used or never weighted stay as they are.
    """
    floor = torch.finfo(torch.float16).tiny
    factor = weight_amax.clamp(min=floor) ** (1.0 - alpha) / input_amax.clamp(min=floor) ** alpha
    return torch.where((input_amax > floor) & (weight_amax > floor), factor, torch.ones_like(factor))


def _smoothing(weights: tuple[Tensor, ...], amax: Tensor, dtype: torch.dtype) -> Tensor:
    """Of the group [I], in what the graph multiplies with, so that the weights undo just that."""
    largest = torch.stack([weight.abs().amax(dim=0).float() for weight in weights]).amax(dim=0)
    return smoothing_of(amax, largest).to(dtype)


def _in_eight_bits(
    weight: Tensor, factor: Tensor | None, kind: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Weight [O, I] -> [I, O] in 8 bits, and its scales [O]."""
    columns = weight.t().float()
    if factor is not None:
        columns = columns / factor.float()[:, None]
    stored, largest = STORED[kind]
    scale = scale_of(columns.abs().amax(dim=0), largest, dtype)
    return quantize_linear(columns, scale, torch.zeros((), dtype=stored)), scale


def _product(
    made: Iterable[tuple[Tensor, Tensor]], widths: list[int], bias: Tensor | None, quantizer: nn.Module
) -> QuantizedLinear:
    """Weights and scales side by side, each written where it stays."""
    weight, scales, start = torch.empty(0), [], 0
    for (part, scale), width in zip(made, widths, strict=True):
        if not start:
            weight = part.new_empty(len(part), sum(widths))
        weight[:, start : start + width] = part
        scales.append(scale)
        start += width
    return QuantizedLinear(weight, torch.cat(scales), bias, quantizer)


def _joined(biases: tuple[Tensor | None, ...], widths: list[int], dtype: torch.dtype) -> Tensor | None:
    """One bias; 0 for linears that have none where others do."""
    given = next((bias for bias in biases if bias is not None), None)
    if given is None:
        return None
    return torch.cat(
        [given.new_zeros(width) if bias is None else bias for bias, width in zip(biases, widths, strict=True)]
    )


def _columns(widths: list[int]) -> tuple[Columns, ...]:
    stops = [sum(widths[: index + 1]) for index in range(len(widths))]
    return tuple(Columns(stop - width, stop) for stop, width in zip(stops, widths, strict=True))


def _in_fp4(
    weights: tuple[Tensor, ...],
    biases: tuple[Tensor | None, ...],
    amax: Tensor,
    dtype: torch.dtype,
    shared: bool,
) -> GroupModules:
    """Never merged: each linear has one scale for all of its weights."""
    quantizer = Fp4ActivationQuantizer(scale_of(amax.amax(), FP8_MAX * FP4_MAX, dtype))
    own = nn.Identity() if shared else quantizer
    linears = []
    for weight, bias in zip(weights, biases, strict=True):
        columns = weight.t().float()
        scale = scale_of(columns.abs().amax(), FP8_MAX * FP4_MAX, dtype)
        codes, block_scale = fp4_quantize(columns, scale, axis=0)
        linears.append(Fp4Linear(codes, block_scale, scale, bias, own))
    return GroupModules(front=quantizer if shared else None, linears=tuple(linears))
