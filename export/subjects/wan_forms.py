"""The Wan transformer in forms that know its prefix: sparse attention behind it, or a prefix of its own.

Over the modules of `wan_dit`, so that recipes quantize every form alike. For packages alone, whose kernels
are ours, but for the dense form that computes its own prefix in every step. Invariant: a form computes what
the runtime's fast forward computes with the same attention.
B batch . Z latent channels . F latent frames, K of them prefix . h, w latent pixels . S tokens, P of them of
the prefix . L text tokens . D head size . A heads . N blocks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.words import counted
from export.dtypes import TORCH_DTYPES
from export.forms import DENSE, PLAIN, Form
from export.model_inputs import KEYS
from export.spec import ExportError, ExportSpec, Gate, Profile, Subject, TensorSpec, require_attention
from export.subjects import wan_dit
from export.subjects.wan_dit import WanDenoise, conditions, rotate, through_block, tokens_of
from kernels import dispatch
from kernels.descriptors import AttentionProblem, Target, dtype_name

TOKENS = "P"
"""The named dimension of the prefix tokens."""


def prepare(
    source: Path | Any,
    *,
    profiles: Sequence[Profile],
    form: Form = PLAIN,
    dtype: str = "fp16",
    with_weights: bool = True,
) -> Subject:
    """As `wan_dit.prepare`, in the form. With its own prefix once a take the subject has a `once` of the same
    weights.

    Raises ExportError for a form that does not exist, is not the model's, or does not fit a profile.
    """
    _check(form, profiles)
    plain = wan_dit.prepare(
        source, profiles=profiles, dtype=dtype, own_prefix=form.own_prefix, with_weights=with_weights
    )
    if form.is_plain:
        return plain
    transformer = plain.module.get_submodule("transformer")
    if not form.own_prefix:
        module = SparseDenoise(transformer, form)
        return replace(plain, module=_still(module), spec=replace(plain.spec, form=form))
    if form.in_step:
        return _with_prefix_in_step(plain, transformer, form)
    return _with_own_prefix(plain, transformer, form)


def _check(form: Form, profiles: Sequence[Profile]) -> None:
    require_attention(form.attention)
    if form.is_plain:
        return
    for profile in profiles:
        if not 0 < form.prefix_frames < profile.sizes["F"]:
            raise ExportError(
                f"profile {profile.name} has {counted(profile.sizes['F'], 'latent frame')}, "
                f"{form.prefix_frames} of them prefix, and the form is: {form}",
                fix="give a prefix of at least one latent frame, and a video that goes on behind it",
            )


def as_called(spec: ExportSpec) -> ExportSpec:
    """Of what a take hands over: without what is computed once of it."""
    if spec.once is None:
        return spec
    profiles = tuple(
        replace(profile, sizes={name: size for name, size in profile.sizes.items() if name != TOKENS})
        for profile in spec.profiles
    )
    inputs = tuple(tensor for tensor in spec.inputs if tensor.name != KEYS)
    return replace(spec, inputs=inputs, profiles=profiles, once=None)


class SparseDenoise(WanDenoise):
    """latents, timestep, text, text_mask -> velocity: self-attention exact for keys of the prefix, sparse for
    the others."""

    def __init__(self, transformer: Any, form: Form) -> None:
        super().__init__(transformer)
        self.form = form

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """As of WanDenoise, with timesteps [B, F]."""
        rotary = self.transformer.rope(latents)
        prefix = rotary[0].shape[1] // timestep.shape[1] * self.form.prefix_frames

        def attend(_: int, attention: Any, x: Tensor) -> Tensor:
            q, k, v = _projected(attention, x, rotary)
            return _finished(attention, _attended(self.form, attention, q, k, v, prefix))

        return self.denoise(latents, timestep, text, text_mask, attend)


class OwnPrefixInStep(WanDenoise):
    """latents, timestep, text, text_mask -> velocity: prefix tokens see themselves alone and no text."""

    def __init__(self, transformer: Any, form: Form) -> None:
        super().__init__(transformer)
        self.form = form

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """As of WanDenoise, with timesteps [B, F], 0 on the prefix."""
        rotary = self.transformer.rope(latents)
        prefix = rotary[0].shape[1] // timestep.shape[1] * self.form.prefix_frames

        def attend(_: int, attention: Any, x: Tensor) -> Tensor:
            q, k, v = _projected(attention, x, rotary)
            own = attention.processor.core(*(part[:, :, :prefix] for part in (q, k, v)), None)
            noisy = _attended(self.form, attention, q[:, :, prefix:], k, v, prefix)
            return _finished(attention, torch.cat([own, noisy], dim=2))

        return self.denoise(latents, timestep, text, text_mask, attend, untold=prefix)


class OwnPrefix(nn.Module):
    """latents -> prefix_keys: what the blocks read of a prefix that looks at itself alone, at timestep 0 and
    under no text. Attention is exact."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, latents: Tensor) -> Tensor:
        """latents [1, Z, K, h, w] -> keys and values of each block in turn, [2 N, 1, A, P, D], in the dtype
        of the model, the keys rotated."""
        model = self.transformer
        rotary = model.rope(latents)
        hidden, _ = tokens_of(model, latents)
        no_text = latents.new_zeros(1, 1, model.config.text_dim)
        _, modulation, _ = conditions(model, latents.new_zeros(1, 1), no_text)
        kept: list[Tensor] = []

        def attend(_: int, attention: Any, x: Tensor) -> Tensor:
            q, k, v = _projected(attention, x, rotary)
            kept.extend((k, v))
            return _finished(attention, attention.processor.core(q, k, v, None))

        for index, block in enumerate(model.blocks):
            hidden = through_block(block, index, hidden, None, modulation, attend)
        return torch.stack(kept)


class OwnPrefixDenoise(WanDenoise):
    """latents, timestep, text, text_mask, prefix_keys -> velocity: of the tokens behind the prefix alone."""

    def __init__(self, transformer: Any, form: Form) -> None:
        super().__init__(transformer)
        self.form = form

    def forward(  # type: ignore[override]
        self, latents: Tensor, timestep: Tensor, text: Tensor, text_mask: Tensor, prefix_keys: Tensor
    ) -> Tensor:
        """latents [B, Z, F, h, w] and timestep [B, F], of which the prefix is not read; prefix_keys of
        `OwnPrefix`. The velocity of the prefix is 0."""
        frames, prefix = self.form.prefix_frames, prefix_keys.shape[3]
        cos, sin = (table[:, prefix:] for table in self.transformer.rope(latents))

        def attend(index: int, attention: Any, x: Tensor) -> Tensor:
            q, *noisy = _projected(attention, x, (cos, sin))
            past = prefix_keys[2 * index : 2 * index + 2].expand(-1, len(x), -1, -1, -1)
            k, v = (torch.cat(pair, dim=2) for pair in zip(past.unbind(), noisy, strict=True))
            return _finished(attention, _attended(self.form, attention, q, k, v, prefix))

        velocity = self.denoise(latents[:, :, frames:], timestep[:, frames:], text, text_mask, attend)
        return functional.pad(velocity, (0, 0, 0, 0, frames, 0))


def _projected(attention: Any, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, A, S, D] of x [B, S, C], the first two rotated."""
    x = attention.processor.shared(x)
    heads = (attention.heads, -1)
    q = rotate(attention.norm_q(attention.to_q(x)).unflatten(2, heads), *rotary)
    k = rotate(attention.norm_k(attention.to_k(x)).unflatten(2, heads), *rotary)
    v = attention.to_v(x).unflatten(2, heads)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _attended(form: Form, attention: Any, q: Tensor, k: Tensor, v: Tensor, prefix: int) -> Tensor:
    """[B, A, N, D]; ExportError where the kernel of the form does not take this problem here."""
    if form.attention == DENSE:
        return attention.processor.core(q, k, v, None)  # type: ignore[no-any-return]
    kernel = dispatch.load(form.attention)
    batch, heads, q_len, head_dim = q.shape
    dtype = dtype_name(q.dtype)
    assert dtype is not None, f"attention in {q.dtype}"
    problem = AttentionProblem(
        batch=batch, heads=heads, q_len=q_len, kv_len=k.shape[2], head_dim=head_dim,
        dtype=dtype, mask="none", target=Target.of(q.device), prefix=prefix,
    )  # fmt: skip
    if reason := kernel.supports(problem):
        raise ExportError(f"{form.attention} cannot be exported: {reason}", fix="export --attention dense")
    return kernel.run(q, k, v, scale=head_dim**-0.5, prefix=prefix)


def _finished(attention: Any, out: Tensor) -> Tensor:
    return attention.to_out[1](attention.to_out[0](out.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


def _with_prefix_in_step(plain: Subject, transformer: Any, form: Form) -> Subject:
    """One graph, in which each self-attention is two: of the prefix and of what is behind it."""

    def gate(recipe: str, capability: int) -> Gate:
        made = plain.gate(recipe, capability)
        return replace(made, num_fused_attention=made.num_fused_attention + transformer.config.num_layers)

    module = _still(OwnPrefixInStep(transformer, form))
    return replace(plain, module=module, spec=replace(plain.spec, form=form), gate=gate)


def _with_own_prefix(plain: Subject, transformer: Any, form: Form) -> Subject:
    config = transformer.config
    dtype = {kind: name for name, kind in TORCH_DTYPES.items()}[transformer.patch_embedding.weight.dtype]
    keys = TensorSpec(
        name=KEYS,
        dims=(2 * config.num_layers, 1, config.num_attention_heads, TOKENS, config.attention_head_dim),
        dtype=dtype,
    )
    profiles = tuple(_with_tokens(profile, config.patch_size, form) for profile in plain.spec.profiles)
    once_spec = _once_spec(plain.spec, profiles, keys, config.in_channels, form)
    spec = replace(
        plain.spec, inputs=(*plain.spec.inputs, keys), profiles=profiles, form=form, once=once_spec
    )
    prefix = plain.inputs[0][:1, :, : form.prefix_frames].contiguous()
    shape = keys.shape(profiles[0].sizes)
    empty = torch.zeros(shape, dtype=TORCH_DTYPES[dtype], device=prefix.device)
    once = replace(plain, module=_still(OwnPrefix(transformer)), spec=once_spec, inputs=(prefix,))
    step = _still(OwnPrefixDenoise(transformer, form))
    return replace(plain, module=step, spec=spec, inputs=(*plain.inputs, empty), once=once)


def _with_tokens(profile: Profile, patch: Sequence[int], form: Form) -> Profile:
    sizes = profile.sizes
    tokens = form.prefix_frames * (sizes["h"] // patch[1]) * (sizes["w"] // patch[2])
    return replace(profile, sizes={**sizes, TOKENS: tokens})


def _once_spec(
    spec: ExportSpec, profiles: Sequence[Profile], keys: TensorSpec, channels: int, form: Form
) -> ExportSpec:
    """One profile for each size of frames: rows and text do not enter."""
    sizes = {
        (p.sizes["h"], p.sizes["w"]): {name: p.sizes[name] for name in ("h", "w", TOKENS)} for p in profiles
    }
    return replace(
        spec,
        inputs=(TensorSpec(name="latents", dims=(1, channels, form.prefix_frames, "h", "w"), dtype="fp32"),),
        outputs=(keys,),
        profiles=tuple(Profile(name=f"prefix-{h}x{w}", sizes=one) for (h, w), one in sizes.items()),
        form=form,
    )


def _still(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)
