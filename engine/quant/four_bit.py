"""Linear layers with 4-bit weights in the layout of `kernels.linear.four_bit`, made of codes and scales.

Up to 16 rows go through its kernel, which reads the weights once; more rows are a library GEMM over weights
dequantized to bf16 for the call. Layers that read the same input share one weight, which their single
weights are parts of. Invariant: levels and scales are those of whoever quantized, such as bitsandbytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.linear import four_bit
from kernels.linear.four_bit import FourBitWeight

BYTES_PER_WEIGHT = 1 / 2 + 2 / four_bit.GROUP
"""With the scale of each group."""


class FourBitLinear(nn.Module):
    """x [..., K] -> [..., N]; `first` is where its features begin in `shared`, the weight of its group."""

    tiles: Tensor
    bias: Tensor | None

    def __init__(self, shared: FourBitWeight, first: int, out_features: int, bias: Tensor | None) -> None:
        super().__init__()
        self.shared, self.first = shared, first
        weight = shared.rows(first, first + out_features)
        self.in_features, self.out_features = weight.in_features, weight.out_features
        self._table, self._unit = weight.table, weight.unit
        self.register_buffer("tiles", weight.tiles)
        self.register_buffer("bias", bias)

    @property
    def packed(self) -> FourBitWeight:
        return FourBitWeight(self.tiles, self._table, self._unit)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        if rows.shape[0] <= four_bit.MAX_ROWS and rows.dtype == torch.bfloat16:
            out = four_bit.run(rows.contiguous(), self.packed, bias=self.bias)
            return out.view(*x.shape[:-1], self.out_features)
        return F.linear(x, four_bit.dequantize(self.packed).to(x.dtype), self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits=4"


def together(layers: Sequence[nn.Module]) -> FourBitWeight | None:
    """The one weight of layers that were packed together and are given in their order, else None."""
    first = layers[0]
    if not isinstance(first, FourBitLinear):
        return None
    at = 0
    for layer in layers:
        if not isinstance(layer, FourBitLinear) or layer.shared is not first.shared or layer.first != at:
            return None
        at += layer.out_features
    return first.shared if at == first.shared.out_features else None


@torch.no_grad()
def pack_linears(groups: Iterable[Sequence[tuple[nn.Module, str]]]) -> int:
    """Replaces layers of bitsandbytes; the number of layers replaced.

    A group is (owner, attribute) of layers that read the same input. One that does not fit stays as it is:
    it is not 4-bit, its scales are not those of 64 weights, it computes in another type than bf16.
    """
    replaced = 0
    for group in groups:
        layers = [getattr(owner, name) for owner, name in group]
        if not all(_fits(layer) for layer in layers):
            continue
        parts = [_codes_and_scales(layer) for layer in layers]
        biases = [None if layer.bias is None else layer.bias.data.bfloat16() for layer in layers]
        install(group, parts, layers[0].weight.quant_state.code, biases)
        replaced += len(layers)
    return replaced


def install(
    group: Sequence[tuple[nn.Module, str]],
    parts: Sequence[tuple[Tensor, Tensor]],
    levels: Sequence[float] | Tensor,
    biases: Sequence[Tensor | None],
) -> None:
    """Puts 4-bit layers in the place of those of a group, which read the same input.

    parts: codes uint8 [N, K] and scales fp32 [N, K/64] of each; levels [16]; biases bf16 [N].
    """
    codes, scales = (torch.cat(column) for column in zip(*parts, strict=True))
    shared = four_bit.pack(codes, scales, levels)
    at = 0
    for (owner, name), (own, _), bias in zip(group, parts, biases, strict=True):
        setattr(owner, name, FourBitLinear(shared, at, len(own), bias))
        at += len(own)


def _fits(layer: Any) -> bool:
    state = getattr(getattr(layer, "weight", None), "quant_state", None)
    return (
        type(layer).__name__ == "Linear4bit"
        and state is not None
        and state.blocksize == four_bit.GROUP
        and layer.compute_dtype == torch.bfloat16
        and four_bit.packs(layer.in_features, layer.out_features) is None
    )


def _codes_and_scales(layer: Any) -> tuple[Tensor, Tensor]:
    """codes uint8 [N, K], scales fp32 [N, K/64] of a layer of bitsandbytes that was not run on a CPU.

    bitsandbytes (0.50, functional.py, quantize_4bit) puts the first of two neighbours into the upper bits.
    """
    state = layer.weight.quant_state
    packed = layer.weight.data.view(torch.uint8).flatten()
    codes = torch.stack((packed >> 4, packed & 15), dim=-1).view(layer.out_features, layer.in_features)
    scales = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        scales = dequantize_blockwise(scales, state.state2) + state.offset
    return codes, scales.float().view(layer.out_features, -1)
