"""Replaces nn.Linear by QuantizedLinear in one module instance, exactly where its recipe says.

Touches instances, never library classes. Invariant: a module that does not fit is left unchanged; after
success exactly `expect` layers are 8-bit. There is no way back but loading the model again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from engine.quant.linears import KERNELS, QuantizedLinear
from engine.quant.recipes import QuantRecipe, SurgeryError, resolve
from engine.words import counted
from kernels.descriptors import LinearProblem, Target

TYPICAL_ROWS = 4096
"""Rows with which the kernels are asked whether they support a layer: thousands of tokens, the exact number
is not known when weights are quantized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was done; goes into the manifest of a run."""

    formats: Mapping[str, str]  # name of the layer -> its 8-bit format
    kept: tuple[str, ...]  # the linear layers that keep their precision
    bytes_before: int  # of the replaced layers
    bytes_after: int


def plan(
    module: nn.Module, recipe: QuantRecipe, format: str, *, policy: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Name -> 8-bit format of the layers to replace.

    `policy`, from a calibration, may give single layers another format or "bf16" to leave them; a name in it
    that the recipe does not quantize is an error.
    """
    allowed = {*KERNELS, "bf16"}
    chosen = dict.fromkeys(resolve(recipe, module).quantized, format) | dict(policy or {})
    unknown = sorted(set(policy or {}).difference(resolve(recipe, module).quantized))
    if unknown:
        raise SurgeryError(
            f"the policy names layers that {recipe.family!r} does not quantize: {', '.join(unknown)}",
            fix="calibrate this model again",
        )
    wrong = sorted(f"{name}: {fmt}" for name, fmt in chosen.items() if fmt not in allowed)
    if wrong:
        raise SurgeryError(
            f"unknown formats: {', '.join(wrong)}", fix=f"use one of: {', '.join(sorted(allowed))}"
        )
    return {name: fmt for name, fmt in chosen.items() if fmt != "bf16"}


@torch.no_grad()
def quantize_linears(
    module: nn.Module,
    recipe: QuantRecipe,
    format: str,
    *,
    expect: int,
    policy: Mapping[str, str] | None = None,
) -> Report:
    """Quantizes the weights in place of the layers. format: "fp8" or "int8"; expect: how many layers.

    Each layer is let go before the next is made, so that memory holds one more than the module had.
    """
    formats = plan(module, recipe, format, policy=policy)
    check(module, formats, expect=expect)
    linears = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    bytes_before = bytes_after = 0
    for name, fmt in formats.items():
        linear = linear_of(module, name)
        layer = QuantizedLinear.from_linear(linear, fmt)
        bytes_before, bytes_after = bytes_before + _num_bytes(linear), bytes_after + _num_bytes(layer)
        install(module, name, layer)
    return Report(
        formats=formats,
        kept=tuple(name for name in linears if name not in formats),
        bytes_before=bytes_before,
        bytes_after=bytes_after,
    )


def check(module: nn.Module, formats: Mapping[str, str], *, expect: int) -> None:
    """Raises SurgeryError when the count differs from `expect` (0 is never right) or a kernel refuses a
    layer."""
    if not formats:
        raise SurgeryError(
            "nothing to quantize: no layer was chosen", fix="use the bf16 preset, or the recipe"
        )
    if len(formats) != expect:
        raise SurgeryError(
            f"{counted(len(formats), 'layer')} would be quantized, {expect} were expected: "
            f"{', '.join(formats)}",
            fix="correct the recipe or the expected number",
        )
    refused = [f"{name}: {reason}" for name, fmt in formats.items() if (reason := _reason(module, name, fmt))]
    if refused:
        raise SurgeryError(
            f"layers that cannot be 8-bit here: {'; '.join(refused)}", fix="use another format, or bf16"
        )


def install(module: nn.Module, name: str, layer: QuantizedLinear) -> None:
    """Puts the layer in place of the one of that name, whose shape it must have."""
    original = linear_of(module, name)
    shape, expected = tuple(layer.weight.shape), tuple(original.weight.shape)
    if shape != expected or (layer.bias is None) != (original.bias is None):
        raise SurgeryError(
            f"{name} is {shape} (bias: {layer.bias is not None}), the model has {expected}",
            fix="quantize this model again",
        )
    parent, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(parent), attribute, layer)


def linear_of(module: nn.Module, name: str) -> nn.Linear:
    """The nn.Linear of that name; SurgeryError where it is something else, as after a first surgery."""
    try:
        layer = module.get_submodule(name)
    except AttributeError:
        layer = None
    if not isinstance(layer, nn.Linear):
        found = "missing" if layer is None else f"a {type(layer).__name__}"
        raise SurgeryError(
            f"{name} is {found}, not an nn.Linear", fix="quantize a freshly loaded module, once"
        )
    return layer


def _reason(module: nn.Module, name: str, format: str) -> str | None:
    linear = linear_of(module, name)
    if linear.weight.device.type not in ("cpu", "cuda"):
        return None  # a module without weights, loaded to count its bytes
    problem = LinearProblem(
        rows=TYPICAL_ROWS,
        in_features=linear.in_features,
        out_features=linear.out_features,
        dtype="bf16",
        target=Target.of(linear.weight.device),
    )
    reason: str | None = KERNELS[format].supports(problem)
    return reason


def _num_bytes(layer: nn.Module) -> int:
    tensors = [*layer.parameters(), *layer.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
