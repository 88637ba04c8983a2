"""The Wan transformer as an export subject: its library modules behind a forward that builders fuse well.

Differs from the library in form, not in numbers: rotary embedding without writes in place, one timestep per
latent *frame* broadcast over its tokens (Wan2.2 TI2V) or one per video, text of a fixed length with a mask.
Knows no prompts and no steps. Invariant: padding the text and masking it changes no velocity.
B batch . Z latent channels . F latent frames . h, w latent pixels . S tokens . L text tokens . D text width
J timesteps per video (F or 1) . A heads . C model width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor, nn

from engine.generators.wan.own_prefix import OwnPrefix, told_prefix_attention
from engine.generators.wan.recipes import WAN
from engine.generators.wan.settings import OWN
from engine.quant.recipes import QuantRecipe, resolve
from export.artifacts.weights import folder_digest, module_digest
from export.model_inputs import MASKED
from export.quantization.quantized import AttentionCore
from export.spec import (
    ExportError,
    ExportSpec,
    Gate,
    LinearGroup,
    Profile,
    Subject,
    TensorSpec,
    Tolerance,
    recipe_of,
)
from export.subjects._loading import component_folder, load_module

SUBJECT = "wan_dit"
Attend = Callable[[int, Any, Tensor], Tensor]
"""(index of the block, its self-attention, its input [B, S, C]) -> what that attention adds."""
WORKSPACE_BYTES = 2**27

_TEXT = ("attn2.to_k", "attn2.to_v")
EVERY_BLOCK = replace(
    WAN,
    num_first_kept=0,
    num_last_kept=0,
    quantized=(*WAN.quantized, *_TEXT),
    kept_in_block=tuple(kept for kept in WAN.kept_in_block if kept.pattern not in _TEXT),
)
"""The runtime's table with the linears of *all* blocks: an engine runs the text projections in every step,
and merges them. Pass `WAN` itself to keep what the runtime keeps."""

TOLERANCE = {
    "bf16": Tolerance(relative=0.02, cosine=0.9995),
    "fp16": Tolerance(relative=0.005, cosine=0.9999),
    "fp8": Tolerance(relative=0.08, cosine=0.997),
    "fp8-attention": Tolerance(relative=0.10, cosine=0.995),
    "int8": Tolerance(relative=0.05, cosine=0.999),
    "int4": Tolerance(relative=0.18, cosine=0.985),
    "nvfp4": Tolerance(relative=0.25, cosine=0.97),
}
"""Against the eager module in fp32, on trajectories of real scenes: about twice the bundled model's loss."""


def prepare(
    source: Path | WanTransformer3DModel,
    *,
    profiles: Sequence[Profile],
    dtype: str = "fp16",
    per_frame: bool = True,
    table: QuantRecipe = EVERY_BLOCK,
    own_prefix: bool = False,
    with_weights: bool = True,
) -> Subject:
    """The subject of a diffusers folder (a pipeline's or the transformer's own) or of a loaded module.

    A module is changed in place (its attention processors) and keeps its dtype. Sizes of a profile: B, F, h,
    w and L, the text length of the graph. per_frame: timesteps [B, F] for models with `expand_timesteps`,
    else [B]. table: which linears a recipe may quantize. own_prefix: the caller makes a form of it in which
    the prefix looks at itself alone. Without weights the module is on `meta` and the target must be given the
    weights later.
    Raises ExportError for another module, a profile that its patches do not divide, or an unreadable folder.
    """
    if isinstance(source, Path):
        folder = component_folder(source, "transformer")
        if (folder.parent / "transformer_2").is_dir():
            problem = "the model has two transformers, of which a denoiser would be one"
            raise ExportError(problem, fix="export a model of one transformer")
        has_own = OWN in (told_prefix_attention(source), told_prefix_attention(folder.parent))
        digest = folder_digest(folder)
        transformer = load_module(folder, WanTransformer3DModel, dtype, with_weights=with_weights)
    else:
        transformer, digest = source, module_digest(source)
        has_own = isinstance(source.blocks[0].attn1.processor, OwnPrefix)
    _require_prefix(has_own, own_prefix)
    _check(transformer, profiles)
    groups = _groups(transformer, table)
    module = WanDenoise(transformer).eval().requires_grad_(False)
    spec = _spec(transformer, tuple(profiles), digest, per_frame=per_frame)
    sizes = profiles[0].sizes
    return Subject(
        module=module,
        spec=spec,
        inputs=_example(spec, sizes, transformer.patch_embedding.weight.device),
        gate=lambda recipe, _: _gate(transformer.config, spec, len(groups), recipe),
        groups=groups,
        constants={} if with_weights else _rotary_tables(transformer.config),
        attentions=tuple(
            f"transformer.blocks.{block}.{name}.processor.core"
            for block in range(transformer.config.num_layers)
            for name in ("attn1", "attn2")
        ),
    )


class RotaryProcessor(nn.Module):
    """Attention processor of one WanAttention. `shared` quantizes what q, k and v read, `core` attends."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.shared: nn.Module = nn.Identity()
        self.core: nn.Module = AttentionCore(head_dim)

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """hidden [B, S, C]; for cross attention text [B, L, C], already quantized, and mask [B, 1, S, L]."""
        query = hidden_states if encoder_hidden_states is not None else self.shared(hidden_states)
        source = query if encoder_hidden_states is None else encoder_hidden_states
        q = attn.norm_q(attn.to_q(query)).unflatten(2, (attn.heads, -1))  # [B, S, A, C / A]
        k = attn.norm_k(attn.to_k(source)).unflatten(2, (attn.heads, -1))
        v = attn.to_v(source).unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            q, k = rotate(q, *rotary_emb), rotate(k, *rotary_emb)
        out = self.core(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attention_mask)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


class WanDenoise(nn.Module):
    """latents, timestep, text, text_mask -> velocity, all fp32."""

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        super().__init__()
        self.transformer = transformer
        self.shared_text: nn.Module = nn.Identity()
        """Quantizes the text once for the key and value projections of all blocks."""
        for block in transformer.blocks:
            for attention in (block.attn1, block.attn2):
                attention.set_processor(RotaryProcessor(transformer.config.attention_head_dim))

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """latents [B, Z, F, h, w], timestep [B, F] or [B], text [B, L, D], additive mask [B, L]."""
        rotary = self.transformer.rope(latents)  # cos, sin fp32 [1, S, 1, C / A]

        def attend(_: int, attention: Any, x: Tensor) -> Tensor:
            return attention(x, None, None, rotary)  # type: ignore[no-any-return]

        return self.denoise(latents, timestep, text, text_mask, attend)

    def denoise(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor,
        text_mask: Tensor,
        attend: Attend,
        *,
        untold: int = 0,
    ) -> Tensor:
        """`forward` with the self-attention that is given; the first `untold` tokens get nothing from the
        text."""
        model = self.transformer
        hidden, grid = tokens_of(model, latents)
        times = timestep.unsqueeze(1) if timestep.ndim == 1 else timestep  # [B, J]
        embedded, modulation, words = conditions(model, times, text)
        words = self.shared_text(words)
        # a row per query: ONNX Runtime broadcasts a mask over heads alone
        mask = text_mask.to(hidden.dtype)[:, None, None, :].expand(-1, -1, hidden.shape[1] - untold, -1)
        for index, block in enumerate(model.blocks):
            hidden = through_block(block, index, hidden, (words, mask), modulation, attend, untold)
        shift, scale = (model.scale_shift_table.unsqueeze(0) + embedded.unsqueeze(2)).chunk(2, dim=2)
        hidden = _modulated(model.norm_out, hidden, shift, scale)
        return _unpatch(model.proj_out(hidden), grid, model.config.patch_size).float()


def tokens_of(model: Any, latents: Tensor) -> tuple[Tensor, torch.Size]:
    """[B, S, C] in the dtype of the model, and the grid that its tokens are of."""
    hidden = model.patch_embedding(latents.to(model.patch_embedding.weight.dtype))
    return hidden.flatten(2).transpose(1, 2).contiguous(), hidden.shape[2:]


def conditions(model: Any, times: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Embedded timesteps [B, J, C], their modulation fp32 [B, J, 6, C] and the words [B, L, C]."""
    text = text.to(model.patch_embedding.weight.dtype)
    embedded, modulation, words, _ = model.condition_embedder(
        times.flatten(), text, None, timestep_seq_len=times.shape[1]
    )
    return embedded, modulation.unflatten(2, (6, -1)).float(), words


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of neighbouring pairs. x [B, S, A, D]; tables fp32 [1, S, 1, D], each value twice."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2).type_as(x)


def through_block(
    block: Any,
    index: int,
    hidden: Tensor,
    text: tuple[Tensor, Tensor] | None,
    modulation: Tensor,
    attend: Attend,
    untold: int = 0,
) -> Tensor:
    """One transformer block; modulation fp32 [B, J, 6, C] is broadcast over the S / J tokens of a frame.
    text: words and their mask, for the tokens behind the first `untold`; None: no token gets anything from
    the text."""
    parts = (block.scale_shift_table.unsqueeze(0) + modulation).chunk(6, dim=2)  # 6 of [B, J, 1, C]
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = parts
    x = _modulated(block.norm1, hidden, shift, scale)
    hidden = _gated(hidden, attend(index, block.attn1, x), gate)
    if text is not None:
        told = hidden[:, untold:] if untold else hidden
        x = block.norm2(told.float()).type_as(told)
        told = told + block.attn2(x, *text, None)
        hidden = torch.cat([hidden[:, :untold], told], dim=1) if untold else told
    x = _modulated(block.norm3, hidden, ffn_shift, ffn_scale)
    return _gated(hidden, block.ffn(x), ffn_gate)


def _modulated(norm: nn.Module, hidden: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(hidden) * (1 + scale) + shift in fp32, and back; hidden [B, S, C], shift, scale [B, J, 1, C]."""
    frames: Tensor = norm(hidden.float()).unflatten(1, (shift.shape[1], -1))
    return (frames * (1 + scale) + shift).flatten(1, 2).type_as(hidden)


def _gated(hidden: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """hidden + update * gate, in fp32 and back."""
    change: Tensor = update.float().unflatten(1, (gate.shape[1], -1)) * gate
    return (hidden.float() + change.flatten(1, 2)).type_as(hidden)


def _unpatch(tokens: Tensor, grid: Sequence[int], patch: Sequence[int]) -> Tensor:
    """[B, S, p Z] -> [B, Z, F, h, w]"""
    x: Tensor = tokens.unflatten(2, (*patch, -1)).unflatten(1, tuple(grid))  # [B, f, y, x, pf, py, px, Z]
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _require_prefix(has_own: bool, told: bool) -> None:
    if has_own and not told:
        problem = "prefix tokens of this transformer look at themselves alone, which the plain form does not"
        raise ExportError(problem, fix="export a form with its own prefix, as `retake export` does by itself")
    if told and not has_own:
        problem = (
            "prefix tokens of this transformer look at everything, so they are not the same at every step"
        )
        raise ExportError(problem, fix="export it without its own prefix, as it was trained")


def _check(transformer: Any, profiles: Sequence[Profile]) -> None:
    config = transformer.config
    if config.image_dim is not None or config.added_kv_proj_dim is not None:
        problem = "the transformer takes an encoded image beside the text"
        raise ExportError(problem, fix="export a text or text-and-prefix model of the Wan family")
    if config.in_channels != config.out_channels:
        problem = f"the transformer sees {config.in_channels} channels and predicts {config.out_channels}"
        raise ExportError(problem, fix="export a model that sees its latents alone, such as Wan2.2-TI2V")
    if config.qk_norm != "rms_norm_across_heads" or config.patch_size[0] != 1:
        problem = f"qk_norm {config.qk_norm!r}, patch_size {tuple(config.patch_size)}"
        raise ExportError(problem, fix="use qk_norm 'rms_norm_across_heads' and patches of one frame")
    for profile in profiles:
        odd = [
            f"{name}={profile.sizes[name]}"
            for name, patch in zip("hw", config.patch_size[1:], strict=True)
            if profile.sizes.get(name, 0) % patch
        ]
        if odd:
            problem = f"profile {profile.name}: {', '.join(odd)} latent pixels"
            raise ExportError(problem, fix=f"use multiples of the patch size {config.patch_size[1]}")


def _spec(transformer: Any, profiles: tuple[Profile, ...], digest: str, *, per_frame: bool) -> ExportSpec:
    config = transformer.config
    video = ("B", config.in_channels, "F", "h", "w")
    return ExportSpec(
        subject=SUBJECT,
        inputs=(
            TensorSpec(name="latents", dims=video, dtype="fp32"),
            TensorSpec(name="timestep", dims=("B", "F") if per_frame else ("B",), dtype="fp32"),
            TensorSpec(name="text", dims=("B", "L", config.text_dim), dtype="fp32"),
            TensorSpec(name="text_mask", dims=("B", "L"), dtype="fp32"),
        ),
        outputs=(TensorSpec(name="velocity", dims=("B", config.out_channels, "F", "h", "w"), dtype="fp32"),),
        profiles=profiles,
        tolerance=TOLERANCE,
        weights_digest=digest,
    )


def _example(spec: ExportSpec, sizes: Any, device: torch.device) -> tuple[Tensor, ...]:
    """Noise, a timestep that differs per frame, and a text of which the last quarter is padding."""
    source = torch.Generator().manual_seed(0)
    latents, text = (
        torch.randn(spec.input(name).shape(sizes), generator=source) for name in ("latents", "text")
    )
    shape = spec.input("timestep").shape(sizes)
    timestep = torch.linspace(0.0, 900.0, shape[-1]).expand(shape).contiguous()
    mask = torch.zeros(spec.input("text_mask").shape(sizes))
    mask[:, mask.shape[1] - mask.shape[1] // 4 :] = MASKED
    return tuple(tensor.to(device) for tensor in (latents, timestep, text, mask))


def _rotary_tables(config: Any) -> dict[str, Tensor]:
    """What the module computes when it is made, and so lacks when it is made on `meta`."""
    rope = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
    return {f"transformer.rope.{name}": table for name, table in rope.named_buffers()}


def _groups(transformer: Any, table: QuantRecipe) -> tuple[LinearGroup, ...]:
    """The linears that the table quantizes, together where they read the same tensor."""
    linears: dict[str, list[str]] = {}
    for name in resolve(table, transformer).quantized:
        path, _, last = name.rpartition(".")
        if path.endswith("attn1") and last in ("to_q", "to_k", "to_v"):
            name_of_group = f"transformer.{path}.qkv"
        elif path.endswith("attn2") and last in ("to_k", "to_v"):
            name_of_group = "text"
        else:
            name_of_group = f"transformer.{name}"
        linears.setdefault(name_of_group, []).append(f"transformer.{name}")
    groups = []
    for name, members in linears.items():
        shared = f"{name.removesuffix('.qkv')}.processor.shared" if name.endswith(".qkv") else None
        features = transformer.get_submodule(members[0].removeprefix("transformer.")).in_features
        groups.append(
            LinearGroup(
                name=name,
                linears=tuple(members),
                in_features=features,
                shared="shared_text" if name == "text" else shared,
            )
        )
    return tuple(groups)


def _gate(config: Any, spec: ExportSpec, num_groups: int, recipe_name: str) -> Gate:
    """One 8-bit GEMM for each group, since the graph has one product of linears that read one tensor. In 16
    bits the builder merges them, in NVFP4 it does not (established with TensorRT-RTX 1.7.1)."""
    recipe = recipe_of(recipe_name)
    return Gate(
        num_fused_attention=2 * config.num_layers,
        fused_attention_dtype="fp8" if recipe.fp8_attention else recipe.dtype,
        num_fp8_gemm=num_groups if recipe.linear == "fp8" else 0,
        num_int8_gemm=num_groups if recipe.linear == "int8" else 0,
        merged_qkv=recipe.linear != "nvfp4",
        max_activation_bytes=max(_activation_bytes(config, profile.sizes) for profile in spec.profiles),
    )


def _activation_bytes(config: Any, sizes: Any) -> int:
    """More than a fused engine needs and, for videos of real length, far less than one S x S buffer.

    Per token of 2 bytes a value: the feed-forward before and after its activation, and twelve of the width;
    and once what the builder's kernels keep as workspace (71 MB in all for the bundled model on 12.0).
    """
    _, patch_y, patch_x = config.patch_size
    tokens = sizes["B"] * sizes["F"] * (sizes["h"] // patch_y) * (sizes["w"] // patch_x)
    width = config.num_attention_heads * config.attention_head_dim
    return int(2 * tokens * (2 * config.ffn_dim + 12 * width)) + WORKSPACE_BYTES
