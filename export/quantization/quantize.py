"""A recipe applied to a subject: its linears and attention cores replaced by Q/DQ modules, in place.

Works on a loaded module, or on one of shapes alone (`meta`), whose quantized tensors `stream_state` then
makes one group at a time from the weight files. Invariant: exactly its groups and attentions change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from export.quantization.group import GroupModules, quantize_group
from export.quantization.quantized import FP4_BLOCK, Fp8AttentionCore
from export.quantization.scales import Scales, require_scales
from export.spec import ExportError, LinearGroup, Recipe, Subject, recipe_of


def quantize(subject: Subject, recipe_name: str, scales: Scales | None = None) -> Subject:
    """The subject with its module changed in place. Recipes bf16 and fp16 change nothing.

    Raises ExportError for a recipe that the subject does not offer, scales that are missing, incomplete or of
    another checkpoint, or a module that is quantized already.
    """
    subject.spec.tolerance_of(recipe_name)
    recipe = recipe_of(recipe_name)
    if recipe.linear == "none":
        return subject
    found = _checked(subject, recipe, scales)
    for group in subject.groups:
        linears = [subject.module.get_submodule(name) for name in group.linears]
        plain = [linear for linear in linears if isinstance(linear, nn.Linear)]
        if len(plain) != len(linears):
            kind = type(next(linear for linear in linears if not isinstance(linear, nn.Linear))).__name__
            problem = f"{group.name} holds a {kind}, not plain linears"
            raise ExportError(problem, fix="prepare the subject anew; a module is quantized once")
        weights = tuple(linear.weight.data for linear in plain)
        biases = tuple(None if linear.bias is None else linear.bias.data for linear in plain)
        modules = _group_modules(group, recipe, weights, biases, found, weights[0].dtype)
        for name, module in _placed(group, modules):
            subject.module.set_submodule(name, module)
        del linears, plain, weights, biases  # large models: the float weights go before the next group
    if recipe.fp8_attention:
        assert found is not None
        for name in subject.attentions:
            core = _fp8_core(subject.module.get_submodule(name), name, found, _dtype_of(subject))
            subject.module.set_submodule(name, core.to(next(subject.module.parameters()).device))
    return subject


def stream_state(
    subject: Subject, recipe_name: str, scales: Scales | None, weights: Mapping[str, Tensor], *, prefix: str
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the quantized form of a subject on `meta`, made from the checkpoint's `weights`.

    `subject` must be quantized already (its modules of shapes say names and dtypes). prefix: what the module
    puts before the checkpoint's names ("transformer."). Buffers that no checkpoint holds are not yielded.
    """
    recipe = recipe_of(recipe_name)
    quantized: set[str] = set()
    if recipe.linear != "none":
        found = _checked(subject, recipe, scales)
        dtype = _dtype_of(subject)
        for group in subject.groups:
            parts = [_source(weights, name.removeprefix(prefix)) for name in group.linears]
            values, biases = tuple(part[0] for part in parts), tuple(part[1] for part in parts)
            modules = _group_modules(group, recipe, values, biases, found, dtype)
            for name, module in _placed(group, modules):
                for key, tensor in module.state_dict().items():
                    quantized.add(f"{name}.{key}")
                    yield f"{name}.{key}", tensor
        if recipe.fp8_attention:
            assert found is not None
            for name in subject.attentions:
                core = _fp8_core(subject.module.get_submodule(name), name, found, dtype)
                for key, tensor in core.state_dict().items():
                    quantized.add(f"{name}.{key}")
                    yield f"{name}.{key}", tensor
    for name, tensor in subject.module.state_dict().items():
        if name not in quantized:
            source = name.removeprefix(prefix)
            if source not in weights:
                raise ExportError(f"the weights lack {source}", fix="copy or download the whole folder again")
            yield name, weights[source].to(tensor.dtype)


def _checked(subject: Subject, recipe: Recipe, scales: Scales | None) -> Scales | None:
    if not subject.groups:
        problem = f"{subject.spec.subject} has no linears to quantize"
        raise ExportError(problem, fix="export it as fp16 or bf16")
    block = FP4_BLOCK if recipe.linear == "nvfp4" else 1
    odd = [group for group in subject.groups if group.in_features % block]
    if odd:
        problem = (
            f"{odd[0].name} reads {odd[0].in_features} features; {recipe.name} needs multiples of {block}"
        )
        raise ExportError(problem, fix="use another recipe")
    return scales if recipe.linear == "int4" else require_scales(scales, subject, recipe.name)


def _group_modules(
    group: LinearGroup,
    recipe: Recipe,
    weights: tuple[Tensor, ...],
    biases: tuple[Tensor | None, ...],
    scales: Scales | None,
    dtype: torch.dtype,
) -> GroupModules:
    return quantize_group(
        recipe.linear,
        weights,
        biases,
        None if scales is None else scales.input_amax[group.name],
        dtype=dtype,
        shared=group.shared is not None,
        merged=recipe.merges and len(group.linears) > 1,
    )


def _placed(group: LinearGroup, modules: GroupModules) -> list[tuple[str, nn.Module]]:
    """(path, module) of all that replaces a group."""
    placed = list(zip(group.linears, modules.linears, strict=True))
    if modules.front is not None:
        assert group.shared is not None
        placed.append((group.shared, modules.front))
    return placed


def _fp8_core(core: nn.Module, name: str, scales: Scales, dtype: torch.dtype) -> Fp8AttentionCore:
    head_dim = getattr(core, "head_dim", None)
    assert isinstance(head_dim, int), f"{name} is no attention core"
    q_amax, k_amax, v_amax = scales.attention_amax[name].to(dtype).unbind()
    return Fp8AttentionCore(q_amax, k_amax, v_amax, head_dim)


def _dtype_of(subject: Subject) -> torch.dtype:
    """Of what is not quantized, which scales have too."""
    scales = (scale for name, scale in subject.module.named_buffers() if name.endswith(".weight_scale"))
    return next(scales).dtype


def _source(weights: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor | None]:
    if f"{name}.weight" not in weights:
        raise ExportError(f"the weights lack {name}.weight", fix="copy or download the whole folder again")
    return weights[f"{name}.weight"], weights.get(f"{name}.bias")


def with_spec_digest(subject: Subject, weights_digest: str) -> Subject:
    """The subject under another digest, for weights that changed after loading (a merged LoRA)."""
    once = None if subject.once is None else with_spec_digest(subject.once, weights_digest)
    spec = replace(subject.spec, weights_digest=weights_digest, once=None if once is None else once.spec)
    return replace(subject, spec=spec, once=once)
