"""Scales from a module that nvidia-modelopt has calibrated, in the form of our own scales file.

Reads three attributes of its quantizers and imports nothing of it, so the package is optional; its exporter
is not used. Invariant: a group of linears that reads one tensor gets one magnitude and one smoothing, though
modelopt gives each linear its own.
I input features
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from export.scales import Scales
from export.spec import ExportError, Subject

BMM_QUANTIZERS = ("q_bmm_quantizer", "k_bmm_quantizer", "v_bmm_quantizer")
"""What modelopt hangs into an attention module."""

_FIX = (
    "run mtq.quantize with input quantizers on every linear of the blocks, with the forward loop of a scene"
)


def scales_from_modelopt(subject: Subject, calibrated: nn.Module, *, num_forwards: int) -> Scales:
    """Scales of `subject` from `calibrated`, the same checkpoint's module with the same paths.

    From `input_quantizer.amax` (a number), `input_quantizer.pre_quant_scale` ([I], SmoothQuant, optional) and
    the `amax` of the attention's quantizers (optional). Raises ExportError when a linear was not calibrated.
    """
    inputs: dict[str, Tensor] = {}
    smoothing: dict[str, Tensor] = {}
    for group in subject.groups:
        quantizers = [_quantizer(calibrated, name) for name in group.linears]
        scaled = [_amax(quantizer, group.name) for quantizer in quantizers]
        factors = [getattr(quantizer, "pre_quant_scale", None) for quantizer in quantizers]
        given = [factor.detach().float().flatten() for factor in factors if isinstance(factor, Tensor)]
        if not given:
            inputs[group.name] = torch.stack(scaled).amax().expand(group.in_features).clone()
            continue
        if len(given) != len(factors) or any(len(factor) != group.in_features for factor in given):
            problem = f"the linears of {group.name} have {len(given)} smoothing factors for {len(factors)}"
            raise ExportError(problem, fix="smooth all linears of a group, or none")
        # modelopt's amax is of the smoothed input, so amax / factor bounds each feature of the plain one
        bounds = [amax / factor for amax, factor in zip(scaled, given, strict=True)]
        inputs[group.name] = torch.stack(bounds).amax(dim=0)
        smoothing[group.name] = torch.stack(given).log().mean(dim=0).exp()
    return Scales(
        subject=subject.spec.subject,
        weights_digest=subject.spec.weights_digest,
        producer="nvidia-modelopt",
        num_forwards=num_forwards,
        input_amax=inputs,
        attention_amax=_attention(subject, calibrated),
        smoothing=smoothing,
    )


def _attention(subject: Subject, calibrated: nn.Module) -> dict[str, Tensor]:
    """Of the cores whose attention module has all three quantizers."""
    found: dict[str, Tensor] = {}
    for name in subject.attentions:
        path = name.removesuffix(".processor.core")
        attention = _find(calibrated, path)
        quantizers = [getattr(attention, quantizer, None) for quantizer in BMM_QUANTIZERS]
        if attention is not None and all(quantizer is not None for quantizer in quantizers):
            found[name] = torch.stack([_amax(quantizer, path) for quantizer in quantizers])
    return found


def _quantizer(calibrated: nn.Module, name: str) -> Any:
    linear = _find(calibrated, name)
    quantizer = getattr(linear, "input_quantizer", None)
    if quantizer is None:
        raise ExportError(f"{name} has no input_quantizer", fix=_FIX)
    return quantizer


def _amax(quantizer: Any, name: str) -> Tensor:
    amax = getattr(quantizer, "amax", None)
    if not isinstance(amax, Tensor):
        raise ExportError(f"a quantizer of {name} has no amax: it saw no forward", fix=_FIX)
    return amax.detach().float().cpu().amax()


def _find(module: nn.Module, path: str) -> Any:
    """The submodule at `path`, or at the path without the wrapper's first part."""
    modules = dict(module.named_modules())
    return modules.get(path, modules.get(path.partition(".")[2]))
