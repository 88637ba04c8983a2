"""Tiny transformer blocks and their ONNX graphs, in fp16 or with FP8 or INT8 Q/DQ; no test of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DIM, HEADS, TOKENS = 128, 2, 64
QUANT_TYPES = {"fp8": (torch.float8_e4m3fn, 448.0), "int8": (torch.int8, 127.0)}


def _symbolic(name: str, inputs: tuple[Tensor, ...], dtype: torch.dtype, **attributes: int) -> Tensor:
    found: Any = torch.onnx.ops.symbolic(
        name, inputs, attrs=attributes, dtype=dtype, shape=inputs[0].shape, version=None
    )
    return found  # type: ignore[no-any-return]


class QuantizedLinear(nn.Module):
    """8-bit weight [in, out] with scales per channel, activation with one scale."""

    def __init__(self, linear: nn.Linear, precision: str) -> None:
        super().__init__()
        dtype, largest = QUANT_TYPES[precision]
        weight = linear.weight.detach().float().T
        scales = weight.abs().amax(0) / largest
        scaled = weight / scales
        packed = scaled.to(dtype) if dtype.is_floating_point else scaled.round().to(dtype)
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales.half())
        self.register_buffer("input_scale", torch.tensor(4.0 / largest).half())
        self.register_buffer("zero", torch.zeros((), dtype=dtype))
        self.bias = nn.Parameter(linear.bias.detach())

    def quantize(self, x: Tensor) -> Tensor:
        q = _symbolic("QuantizeLinear", (x, self.input_scale, self.zero), self.zero.dtype)
        return _symbolic("DequantizeLinear", (q, self.input_scale), x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        weight = _symbolic("DequantizeLinear", (self.packed, self.scales), x.dtype, axis=1)
        return torch.matmul(x, weight) + self.bias


class Block(nn.Module):
    """Self-attention and a linear; q, k and v share one quantized input, so that they can be merged."""

    def __init__(self, precision: str = "fp16", *, fused_attention: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        linears = [nn.Linear(DIM, DIM) for _ in range(4)]
        for linear in linears:
            linear.weight.data = torch.randn(DIM, DIM, generator=generator) * DIM**-0.5
            linear.bias.data = torch.randn(DIM, generator=generator) * 0.1
            linear.half()
        made = linears if precision == "fp16" else [QuantizedLinear(one, precision) for one in linears]
        self.to_q, self.to_k, self.to_v, self.to_out = made
        self.fused_attention = fused_attention

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        y = self.to_q.quantize(x) if isinstance(self.to_q, QuantizedLinear) else x
        q, k, v = (
            project(y).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        if self.fused_attention:
            a = nn.functional.scaled_dot_product_attention(q, k, v)
        else:  # the cumulative sum stands between, so that no pattern of attention is left to be fused
            a = torch.cumsum(torch.softmax(q @ k.transpose(-1, -2) * (DIM // HEADS) ** -0.5, -1), -1) @ v
        a = a.transpose(1, 2).flatten(2)
        a = self.to_out.quantize(a) if isinstance(self.to_out, QuantizedLinear) else a
        return x + self.to_out(a)


def write_onnx(path: Path, precision: str = "fp16", *, fused_attention: bool = True) -> Path:
    """x [b, 64, 128] -> y, fp16, batch free."""
    block = Block(precision, fused_attention=fused_attention).eval()
    program = torch.onnx.export(
        block,
        (torch.zeros(2, TOKENS, DIM, dtype=torch.float16),),
        dynamo=True,
        opset_version=23,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes={"x": {0: torch.export.Dim("b")}},
        verbose=False,
    )
    program.save(str(path), external_data=True)
    return path
