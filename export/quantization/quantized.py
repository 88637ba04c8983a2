"""Linears and attention that quantize and dequantize (Q/DQ): computed in torch, symbolic in an ONNX export.

Run eagerly they do what an engine will do, rounded values in the arithmetic of the model; in an export they
emit the operators of which TensorRT makes 8-bit kernels. Knows no model and no file. Invariant: scales have
the dtype of the model; weights are stored [I, O].
I input features . O output features . G block along I . B batch . A heads . N, M tokens . D head size
"""

from __future__ import annotations

from typing import Any

import torch
import torch.onnx.ops
from torch import Tensor, nn
from torch.nn import functional

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
INT8_MAX = 127.0
INT4_MAX = 7.0
FP4_MAX = 6.0
FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of E2M1 by their three bits; the fourth is the sign."""

INT4_BLOCK = 128
FP4_BLOCK = 16
ONNX_FLOAT8E4M3FN = 17
"""Element types of ONNX, as attributes want them."""

INT4_SUFFIX = "weight_int4"
FP4_SUFFIX = "weight_e2m1"
"""Buffers of these names hold one 4-bit value per int8 element; the ONNX target packs and re-types them."""


def quantize_linear(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """x / scale, saturated and rounded to even in the type of `zero` (float8_e4m3fn or int8)."""
    if torch.onnx.is_in_onnx_export():
        q = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, scale, zero), dtype=zero.dtype, shape=x.shape, version=None
        )
        return q.to(x.device)  # torch takes a symbolic result to be on the CPU, also when all else is on meta
    scaled = x.float() / scale.float()
    if zero.dtype == torch.int8:
        return scaled.round().clamp(-INT8_MAX - 1, INT8_MAX).to(torch.int8)
    return scaled.clamp(-FP8_MAX, FP8_MAX).to(zero.dtype)


def dequantize_linear(q: Tensor, scale: Tensor, *, axis: int | None = None) -> Tensor:
    """q * scale in the dtype of `scale`: one scale, or one per slice of `axis`."""
    if torch.onnx.is_in_onnx_export():
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        x = torch.onnx.ops.symbolic(
            "DequantizeLinear", (q, scale), attrs=attributes, dtype=scale.dtype, shape=q.shape, version=None
        )
        return x.to(q.device)
    return q.to(scale.dtype) * scale  # the channel axis of a weight [I, O] is its last: scales broadcast


def dequantize_blocks(q: Tensor, scale: Tensor, block: int, axis: int) -> Tensor:
    """q * scale with one scale for `block` neighbours along `axis`, in the dtype of `scale`."""
    if torch.onnx.is_in_onnx_export():
        x = torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (q, scale),
            attrs={"axis": axis, "block_size": block},
            dtype=scale.dtype,
            shape=q.shape,
            version=None,
        )
        return x.to(q.device)
    return q.to(scale.dtype) * scale.repeat_interleave(block, dim=axis)


class ActivationQuantizer(nn.Module):
    """Q/DQ of a tensor with one scale for all, after an optional multiplication per feature (SmoothQuant)."""

    scale: Tensor
    zero: Tensor
    smoothing: Tensor | None

    def __init__(self, scale: Tensor, quantized_dtype: torch.dtype, smoothing: Tensor | None = None) -> None:
        """scale [] and smoothing [I] in the dtype of the model."""
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros((), dtype=quantized_dtype, device=scale.device))
        self.register_buffer("smoothing", smoothing)

    def forward(self, x: Tensor) -> Tensor:
        if self.smoothing is not None:
            x = x * self.smoothing
        return dequantize_linear(quantize_linear(x, self.scale, self.zero), self.scale)


class Fp4ActivationQuantizer(nn.Module):
    """NVFP4: blocks of 16 features, each with its own FP8 scale found at run time, and one scale for all."""

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        """scale []: largest magnitude / (448 * 6), in the dtype of the model."""
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            blocks = (*x.shape[:-1], x.shape[-1] // FP4_BLOCK)
            values, block_scale = torch.onnx.ops.symbolic_multi_out(
                "trt::TRT_FP4DynamicQuantize",
                (x, self.scale),
                attrs={"axis": -1, "block_size": FP4_BLOCK, "scale_type": ONNX_FLOAT8E4M3FN},
                dtypes=(torch.int8, FP8),  # the values are FLOAT4E2M1; torch has no such element type
                shapes=(x.shape, blocks),
                version=1,
            )
            values, block_scale = values.to(x.device), block_scale.to(x.device)
            return dequantize_blocks(values, dequantize_linear(block_scale, self.scale), FP4_BLOCK, -1)
        codes, block_scale = fp4_quantize(x, self.scale, axis=-1)
        values = fp4_decode(codes, self.scale.dtype)
        return dequantize_blocks(values, dequantize_linear(block_scale, self.scale), FP4_BLOCK, -1)


class QuantizedLinear(nn.Module):
    """x [.., I] -> [.., O] with 8-bit weights; `quantizer` is an identity where a group shares one."""

    weight_scale: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, quantizer: nn.Module
    ) -> None:
        """weight [I, O] in FP8 or int8; weight_scale [O] and bias [O] in the dtype of the model."""
        super().__init__()
        self.quantizer = quantizer
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        assert isinstance(weight, Tensor)
        y = torch.matmul(self.quantizer(x), dequantize_linear(weight, self.weight_scale, axis=1))
        return y if self.bias is None else y + self.bias

    def columns(self, start: int, stop: int) -> QuantizedLinear:
        """The linear of these output channels alone, over the same memory."""
        weight, bias, at = self.weight, self.bias, slice(start, stop)
        assert isinstance(weight, Tensor)
        scale = self.weight_scale[at]
        return QuantizedLinear(weight[:, at], scale, None if bias is None else bias[at], self.quantizer)


class Columns(nn.Module):
    """What one linear has in the product of several: y [.., all] -> [.., O]."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, y: Tensor) -> Tensor:
        return y[..., self.start : self.stop]


class Int4Linear(nn.Module):
    """x [.., I] -> [.., O]; only the weights are quantized, in blocks of G input features."""

    weight_int4: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> None:
        """weight int8 [I, O] with values -7..7; weight_scale [I / G, O] in the dtype of the model."""
        super().__init__()
        self.block = weight.shape[0] // weight_scale.shape[0]
        self.register_buffer(INT4_SUFFIX, weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.matmul(x, dequantize_blocks(self.weight_int4, self.weight_scale, self.block, 0))
        return y if self.bias is None else y + self.bias


class Fp4Linear(nn.Module):
    """x [.., I] -> [.., O] in NVFP4: 4-bit weights, an FP8 scale per 16 input features, one scale for all."""

    weight_e2m1: Tensor
    block_scale: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        block_scale: Tensor,
        weight_scale: Tensor,
        bias: Tensor | None,
        quantizer: nn.Module,
    ) -> None:
        """weight int8 [I, O] of E2M1 codes; block_scale FP8 [I / 16, O]; weight_scale [] like the model."""
        super().__init__()
        self.quantizer = quantizer
        self.register_buffer(FP4_SUFFIX, weight)
        self.register_buffer("block_scale", block_scale)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_e2m1
        if not torch.onnx.is_in_onnx_export():
            weight = fp4_decode(weight, self.weight_scale.dtype)
        scale = dequantize_linear(self.block_scale, self.weight_scale)
        y = torch.matmul(self.quantizer(x), dequantize_blocks(weight, scale, FP4_BLOCK, 0))
        return y if self.bias is None else y + self.bias


DEQUANTIZING = (ActivationQuantizer, Fp4ActivationQuantizer, QuantizedLinear, Int4Linear, Fp4Linear)
"""Modules that each emit one DequantizeLinear or more."""


class AttentionCore(nn.Module):
    """softmax(q k^T / sqrt(D) + mask) v, the form a subject starts with."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """q [B, A, N, D], k and v [B, A, M, D], additive mask [B, 1, N, M] or None -> [B, A, N, D]."""
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Fp8AttentionCore(nn.Module):
    """The same with q, k, v and the probabilities in FP8, written as the pattern that builders fuse."""

    q_scale: Tensor
    k_scale: Tensor
    v_scale: Tensor
    probability_scale: Tensor
    zero: Tensor

    def __init__(self, q_amax: Tensor, k_amax: Tensor, v_amax: Tensor, head_dim: int) -> None:
        """Largest magnitudes [], in the dtype of the model."""
        super().__init__()
        self.head_dim = head_dim
        self.root = float(head_dim) ** -0.25  # half of 1 / sqrt(D) on either factor keeps both small
        self.register_buffer("q_scale", q_amax * self.root / FP8_MAX)
        self.register_buffer("k_scale", k_amax * self.root / FP8_MAX)
        self.register_buffer("v_scale", v_amax / FP8_MAX)
        self.register_buffer("probability_scale", torch.full_like(q_amax, 1.0 / FP8_MAX))
        self.register_buffer("zero", torch.zeros((), dtype=FP8, device=q_amax.device))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """As `AttentionCore`."""
        q = self._qdq(q * self.root, self.q_scale)
        k = self._qdq((k * self.root).transpose(-1, -2), self.k_scale)
        scores = torch.matmul(q, k)  # [B, A, N, M]
        probabilities = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        return torch.matmul(self._qdq(probabilities, self.probability_scale), self._qdq(v, self.v_scale))

    def _qdq(self, x: Tensor, scale: Tensor) -> Tensor:
        return dequantize_linear(quantize_linear(x, scale, self.zero), scale)


def int4_quantize(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """weight [I, O] -> int8 values -7..7 [I, O] and scales [I / G, O], G as `largest_block` says."""
    block = largest_block(weight.shape[0])
    blocks = weight.unflatten(0, (-1, block))  # [I / G, G, O]
    scale = scale_of(blocks.abs().amax(dim=1), INT4_MAX, dtype)
    values = (blocks / scale.float()[:, None]).round().clamp(-INT4_MAX, INT4_MAX)
    return values.flatten(0, 1).to(torch.int8), scale


def largest_block(in_features: int) -> int:
    """128 where it divides the number of features, else the largest smaller power of two that does."""
    block = INT4_BLOCK
    while in_features % block:
        block //= 2
    return block


def fp4_quantize(x: Tensor, scale: Tensor, *, axis: int) -> tuple[Tensor, Tensor]:
    """x -> E2M1 codes (int8, shape of x) and FP8 block scales; the block runs along `axis`, 0 or -1."""
    assert x.shape[axis] % FP4_BLOCK == 0, f"{x.shape[axis]} features are no multiple of {FP4_BLOCK}"
    moved = x.float().movedim(axis, -1)
    blocks = moved.unflatten(-1, (-1, FP4_BLOCK))
    wanted = blocks.abs().amax(dim=-1) / (FP4_MAX * scale.float())
    block_scale = wanted.clamp(max=FP8_MAX).to(FP8)
    divisor = (block_scale.float() * scale.float())[..., None]
    scaled = torch.where(divisor > 0, blocks / divisor, torch.zeros_like(blocks)).flatten(-2)
    # midpoints between neighbours; a tie goes to the even code, as rounding in hardware does
    magnitude = torch.zeros_like(scaled, dtype=torch.int8)
    for code in range(1, len(FP4_VALUES)):
        middle = (FP4_VALUES[code - 1] + FP4_VALUES[code]) / 2
        above = scaled.abs() >= middle if code % 2 == 0 else scaled.abs() > middle
        magnitude += above.to(torch.int8)
    codes = magnitude + 8 * (scaled < 0).to(torch.int8)
    return codes.movedim(-1, axis).contiguous(), block_scale.movedim(-1, axis).contiguous()


def fp4_decode(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Values of E2M1 codes 0..15."""
    table = torch.tensor(FP4_VALUES + tuple(-value for value in FP4_VALUES), dtype=dtype, device=codes.device)
    return table[codes.long()]


def scale_of(amax: Tensor, largest: float, dtype: torch.dtype) -> Tensor:
    """amax / largest in `dtype`, never 0: a scale of zero would make every value infinite."""
    return (amax.float() / largest).clamp(min=torch.finfo(torch.float16).tiny).to(dtype)
