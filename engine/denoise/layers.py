"""Layers that the fast forwards of several families share, and who computes their element-wise steps.

A linear layer may be 8-bit or not, as quantization has left it; the functions below take both. Knows no
family, no step and no file.
B batch . S tokens . C channels . A heads . N tokens of one attention . D head size
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from engine.denoise.sampler import NUM_TRAIN_TIMESTEPS
from engine.quant.linears import QuantizedLinear
from engine.quant.precision_policy import Range
from engine.quant.recipes import SurgeryError
from kernels.fused import (
    gate_residual,
    head_norm_rope,
    head_quant,
    qk_norm_rope,
    residual_norm,
    rms_norm,
    row_quant,
    swiglu,
)

Layer = nn.Linear | QuantizedLinear

BLOCK_VARIANTS = 64
"""Compilations allowed of the one forward that all blocks share; torch's own limit is 8. One generator has up
to 12: first, inner (8-bit) and last block, for one and two rows of guidance, with exact and quantized
attention; with a policy that keeps other layers bf16 in every block 4 a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementWise:
    """The steps between the GEMMs, each a module of `kernels.fused`, all in one form."""

    residual_norm: Callable[..., tuple[Tensor, Tensor, Tensor | None]]
    gate_residual: Callable[..., Tensor]
    qk_norm_rope: Callable[..., Tensor]
    rms_norm: Callable[..., tuple[Tensor, Tensor, Tensor | None]]
    head_norm_rope: Callable[..., Tensor]
    swiglu: Callable[..., tuple[Tensor, Tensor | None]]
    head_quant: Callable[[Tensor], tuple[Tensor, Tensor]]
    row_quant: Callable[..., tuple[Tensor, Tensor]]


@cache
def bind(form: Literal["run", "plain"]) -> ElementWise:
    """ "run": our fused kernels; "plain": the same in torch, for a compiler to fuse."""
    return ElementWise(
        residual_norm=getattr(residual_norm, form),
        gate_residual=getattr(gate_residual, form),
        qk_norm_rope=getattr(qk_norm_rope, form),
        rms_norm=getattr(rms_norm, form),
        head_norm_rope=getattr(head_norm_rope, form),
        swiglu=getattr(swiglu, form),
        head_quant=getattr(head_quant, form),
        row_quant=getattr(row_quant, form),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundAttention:
    """A chosen kernel. `run(q, k, v, *, scale)` on [B, A, N, D]; `quantized` instead where it takes E4M3.

    `grouped`: several heads of queries may share one of keys and values; else each needs its own.
    `takes_prefix`: `run` is also told how many leading keys are `prefix`, which it attends exactly.
    """

    name: str
    run: Callable[..., Tensor]
    quantized: Callable[..., Tensor] | None = None
    grouped: bool = False
    takes_prefix: bool = False


def compile_blocks(blocks: nn.ModuleList) -> None:
    """Regional compilation, at the first call: blocks are alike, so one compilation serves them all.

    Each shape has its own, since a constant shape is faster, but for what `let_vary` says.
    """
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, BLOCK_VARIANTS, 4 * len(blocks))
    for block in blocks:
        block.compile(fullgraph=True, dynamic=False)


def let_vary(block: nn.Module, dim: int, *inputs: Tensor | None) -> None:
    """Before the first call of a compiled block: one compilation serves every length of these inputs along
    `dim`, from the first one on. Left to itself torch compiles the first length for itself, then once more
    with every length that has changed by then, of the video too."""
    if block._compiled_call_impl is None:  # not compiled; torch._dynamo takes seconds to import
        return
    for tensor in inputs:
        if tensor is not None:
            torch._dynamo.maybe_mark_dynamic(tensor, dim)


def quantized_range(first: float, last: float) -> Range:
    """Timesteps between: not in the first `first` nor the last `last` share of the noise levels."""
    return last * NUM_TRAIN_TIMESTEPS, (1.0 - first) * NUM_TRAIN_TIMESTEPS


def quantized_blocks(ranges: Iterable[tuple[Range, ...]], timestep: float) -> tuple[bool, ...]:
    """For each block whether its attention is the quantized one; `ranges` has its timesteps."""
    return tuple(any(low <= timestep <= high for low, high in block) for block in ranges)


def merge_linears(layers: list[Layer]) -> Layer:
    """One layer with the outputs of all, in order. The weights of the given ones become views of the merged
    one, so that no memory is held twice. SurgeryError when some are 8-bit and others are not."""
    quantized = [layer for layer in layers if isinstance(layer, QuantizedLinear)]
    plain = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if (quantized and plain) or len({layer.format for layer in quantized}) > 1:
        raise SurgeryError(
            "queries, keys and values of a block have different formats and cannot share one GEMM",
            fix="give the three the same format in the policy",
        )
    sizes = [layer.out_features for layer in layers]
    if quantized:
        one = QuantizedLinear.merge(quantized)
        for name in ("weight", "scale") if one.bias is None else ("weight", "scale", "bias"):
            for given, part in zip(quantized, getattr(one, name).split(sizes), strict=True):
                setattr(given, name, part)
        return one
    first = plain[0]
    merged = nn.Linear(
        first.in_features,
        sum(sizes),
        bias=first.bias is not None,
        device="meta",
        dtype=first.weight.dtype,
    )
    for name in ("weight", "bias") if first.bias is not None else ("weight",):
        whole = torch.cat([getattr(layer, name).data for layer in plain])
        setattr(merged, name, nn.Parameter(whole, requires_grad=False))
        for layer, part in zip(plain, whole.split(sizes), strict=True):
            getattr(layer, name).data = part
    return merged


def layer_format(layer: Layer) -> str | None:
    """The 8-bit format that the step before it must write; None: the dtype as it is."""
    return layer.input_format if isinstance(layer, QuantizedLinear) else None


def on_shared_input(layer: Layer, n: Tensor, n_scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The layer on what the step before wrote for it: in 8 bits with a scale if the layer is 8-bit."""
    if isinstance(layer, QuantizedLinear):
        assert n_scale is not None, "the input of an 8-bit layer was not quantized"
        return layer.forward_quantized(n, n_scale, out_dtype=dtype)
    return as_tensor(layer(n))


def on_own_input(
    layer: Layer, x: Tensor, row_quant: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype
) -> Tensor:
    """The layer on an input that is not quantized yet."""
    if isinstance(layer, QuantizedLinear):
        x8, x_scale = row_quant(x, quantize=layer.input_format)
        return layer.forward_quantized(x8, x_scale, out_dtype=dtype)
    return as_tensor(layer(x))


def as_tensor(value: object) -> Tensor:
    """For the type checker: what a library's module returned."""
    assert isinstance(value, Tensor)
    return value
