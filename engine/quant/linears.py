"""A linear layer whose weight is stored in 8 bits, with one scale per output channel.

Knows no model: `surgery` puts it where a recipe allows. Invariant: the weight and its scale keep their dtypes
whatever `module.to(dtype)` asks; device moves work as for any module.
K input features . N output features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from kernels.fused import row_quant
from kernels.fused.formats import format_of
from kernels.linear import fp8_full_accum, fp8_rowwise, int8

FP8_FULL_ACCUM = "fp8_full_accum"
KERNELS: dict[str, ModuleType] = {"fp8": fp8_rowwise, FP8_FULL_ACCUM: fp8_full_accum, "int8": int8}
"""By format of a layer: how it is rounded and summed. Each has FORMAT, that of its operands, supports,
quantize_weight, run, MAX_RELATIVE_ERROR and MIN_COSINE."""


class QuantizedLinear(nn.Module):
    """x @ (weight * scale).T + bias, with x quantized per row: by itself, or shared by several layers."""

    weight: Tensor  # [N, K] in the dtype of the format
    scale: Tensor  # [N] fp32
    bias: Tensor | None  # [N]

    def __init__(
        self, weight: Tensor, scale: Tensor, bias: Tensor | None, *, format: str, out_dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.format, self.input_format = format, str(KERNELS[format].FORMAT)
        assert weight.dtype == format_of(self.input_format).dtype, (
            f"a weight of {weight.dtype} is not {format}"
        )
        assert scale.shape == weight.shape[:1] and scale.dtype == torch.float32, (
            f"scale {tuple(scale.shape)} {scale.dtype} of a weight {tuple(weight.shape)}"
        )
        assert bias is None or bias.shape == scale.shape, f"bias {bias.shape} of {tuple(weight.shape)}"
        self.out_features, self.in_features = weight.shape
        self.out_dtype = out_dtype
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear, format: str) -> QuantizedLinear:
        """The 8-bit copy of a layer; what it returns without an input dtype is that of the layer's weight."""
        weight, scale = KERNELS[format].quantize_weight(linear.weight)
        bias = None if linear.bias is None else linear.bias.detach().clone()
        return cls(weight, scale, bias, format=format, out_dtype=linear.weight.dtype)

    @classmethod
    def merge(cls, layers: Sequence[QuantizedLinear]) -> QuantizedLinear:
        """One layer with the outputs of all, in order: scales are per channel, so nothing is rounded
        again."""
        kinds = {(layer.format, layer.in_features, layer.out_dtype, layer.bias is None) for layer in layers}
        assert len(kinds) == 1, f"layers to merge differ in format, inputs, dtype or bias: {kinds}"
        biases = [layer.bias for layer in layers if layer.bias is not None]
        return cls(
            torch.cat([layer.weight.view(torch.uint8) for layer in layers]).view(layers[0].weight.dtype),
            torch.cat([layer.scale for layer in layers]),
            torch.cat(biases) if biases else None,
            format=layers[0].format,
            out_dtype=layers[0].out_dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] -> [..., N] in the dtype of x."""
        x8, x_scale = row_quant.run(x, quantize=self.input_format)
        return self.forward_quantized(x8, x_scale, out_dtype=x.dtype)

    def forward_quantized(
        self, x8: Tensor, x_scale: Tensor, *, out_dtype: torch.dtype | None = None
    ) -> Tensor:
        """x8 [..., K] in this layer's format and x_scale [..., 1] fp32, as a fused kernel wrote them."""
        assert x8.dtype == self.weight.dtype, f"an input of {x8.dtype} for a layer of {self.weight.dtype}"
        out: Tensor = KERNELS[self.format].run(
            x8, x_scale, self.weight, self.scale, self.bias, out_dtype=out_dtype or self.out_dtype
        )
        return out

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves between devices pass, casts do not: a cast 8-bit weight would silently be a wrong layer."""
        kept = {"weight": self.weight, "scale": self.scale}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            after = getattr(self, name)
            if after.dtype != before.dtype:
                setattr(self, name, before.to(after.device))
        if self.bias is not None:
            self.out_dtype = self.bias.dtype
        return self

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.format}, bias={self.bias is not None}"
