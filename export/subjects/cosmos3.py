"""The generation tower of Cosmos3 as an export subject; its text tower runs outside, once a prompt.

The text enters as the keys and values that the text tower made of it, padded to a fixed length and
masked, so that a denoise step holds half of the weights. Knows no tokenizer and no sampler. Invariant: the
velocity of the library's full forward; clean frames get no timestep and have velocity 0.
B batch . Z latent channels . F latent frames . h, w latent pixels . S tokens . L text tokens . E layers
A heads . K heads of keys and values . D head size . C model width
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import Cosmos3OmniTransformer
from diffusers.models.normalization import RMSNorm
from diffusers.models.transformers.transformer_cosmos3 import Cosmos3NemotronRMSNorm
from torch import Tensor, nn
from torch.nn import functional

from engine.generators.cosmos3 import text as cosmos3_text
from engine.generators.cosmos3.forward import patch_grid, patchify, unpatchify
from engine.generators.cosmos3.text import rotate
from engine.generators.cosmos3.towers import drop_idle
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
from export.subjects._norms import replace_norms

SUBJECT = "cosmos3"
TOLERANCE = {
    "bf16": Tolerance(relative=0.03, cosine=0.999),
    "fp16": Tolerance(relative=0.005, cosine=0.9999),
    "fp8": Tolerance(relative=0.12, cosine=0.993),
    "fp8-attention": Tolerance(relative=0.15, cosine=0.99),
    "int8": Tolerance(relative=0.10, cosine=0.995),
    "int4": Tolerance(relative=0.25, cosine=0.97),
    "nvfp4": Tolerance(relative=0.35, cosine=0.94),
}
"""Against the eager module in fp32. Not measured: no trained weights of this family were at hand."""

NORMS = (RMSNorm, Cosmos3NemotronRMSNorm)
UNDERSTANDING = ("to_q", "to_k", "to_v", "to_out", "norm_q", "norm_k", "k_norm_und_for_gen")
"""What of an attention module the generation tower never calls."""


def prepare(
    source: Path | Cosmos3OmniTransformer,
    *,
    profiles: Sequence[Profile],
    dtype: str = "bf16",
    with_weights: bool = True,
) -> Subject:
    """The subject of a diffusers folder or of a loaded module, which loses its text tower.

    Sizes of a profile: B, F, h, w, S (tokens) and L. `prefill` and the engine's `rotary_tables` make the text
    and rotary inputs, and need a transformer that was not prepared. Raises ExportError for a profile whose S
    is not what its video has, or an unreadable folder.
    """
    if isinstance(source, Path):
        folder = component_folder(source, "transformer")
        digest = folder_digest(folder)
        transformer = load_module(folder, Cosmos3OmniTransformer, dtype, with_weights=with_weights)
    else:
        transformer, digest = source, module_digest(source)
    _check(transformer.config, profiles)
    spec = _spec(transformer.config, tuple(profiles), digest)
    module = GenerationTower(transformer).eval().requires_grad_(False)
    groups = _groups(transformer)
    return Subject(
        module=module,
        spec=spec,
        inputs=_example(spec, transformer.proj_in.weight.device),
        gate=lambda recipe, _: _gate(len(groups), len(transformer.layers), recipe),
        groups=groups,
        attentions=tuple(f"cores.{layer}" for layer in range(len(transformer.layers))),
    )


class GenerationTower(nn.Module):
    """latents, timestep, noisy, rotary tables and the text of all layers -> velocity, fp32."""

    def __init__(self, transformer: Cosmos3OmniTransformer) -> None:
        super().__init__()
        config = transformer.config
        for layer in transformer.layers:
            for name in UNDERSTANDING:
                delattr(layer.self_attn, name)
            del layer.mlp, layer.input_layernorm, layer.post_attention_layernorm
        drop_idle(transformer, words=False)
        del transformer.embed_tokens, transformer.rotary_emb
        replace_norms(transformer, NORMS, "eps", expect=4 * config.num_hidden_layers + 1)
        self.transformer = transformer
        count = config.num_hidden_layers
        self.cores = nn.ModuleList(AttentionCore(config.head_dim) for _ in range(count))
        self.shared_qkv = nn.ModuleList(nn.Identity() for _ in range(count))
        self.shared_mlp = nn.ModuleList(nn.Identity() for _ in range(count))

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        noisy: Tensor,
        cos: Tensor,
        sin: Tensor,
        text_keys: Tensor,
        text_values: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        """latents [B, Z, F, h, w]; timestep, noisy (1 or 0) [B, F]; cos, sin [B, S, D]; text [E, B, K, L, D];
        additive mask [B, L]."""
        model = self.transformer
        dtype, patch = model.proj_in.weight.dtype, model.config.latent_patch_size
        hidden = model.proj_in(patchify(latents.to(dtype), patch))  # [B, S, C]
        hidden = _with_time(model, hidden, timestep, noisy)
        tables = cos.to(dtype).unsqueeze(1), sin.to(dtype).unsqueeze(1)  # [B, 1, S, D]
        mask = functional.pad(text_mask, (0, hidden.shape[1])).to(dtype)
        mask = mask[:, None, None, :].expand(-1, -1, hidden.shape[1], -1)
        for index, layer in enumerate(model.layers):
            text = text_keys[index].to(dtype), text_values[index].to(dtype)
            x = self.shared_qkv[index](layer.input_layernorm_moe_gen(hidden))
            hidden = hidden + _attend(layer.self_attn, self.cores[index], x, tables, text, mask)
            x = self.shared_mlp[index](layer.post_attention_layernorm_moe_gen(hidden))
            hidden = hidden + layer.mlp_moe_gen(x)
        tokens = model.proj_out(model.norm_moe_gen(hidden))
        velocity = unpatchify(tokens, patch_grid(latents.shape, patch), patch)
        velocity = velocity[..., : latents.shape[3], : latents.shape[4]]
        return velocity.float() * noisy[:, None, :, None, None]


def prefill(transformer: Any, token_ids: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [E, 1, K, L, D] that the generation tower reads, of text [L] at positions [3, L]."""
    cache = cosmos3_text.prefill(transformer, token_ids, position_ids)
    keys, values = (torch.stack(tensors).transpose(2, 3) for tensors in (cache.keys, cache.values))
    return keys, values


def _attend(
    attn: Any,
    core: nn.Module,
    x: Tensor,
    tables: tuple[Tensor, Tensor],
    text: tuple[Tensor, Tensor],
    mask: Tensor,
) -> Tensor:
    """Full attention of the video [B, S, C] over text and video."""
    q, k, v = (
        project(x).unflatten(-1, (-1, attn.head_dim))
        for project in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    )
    q = rotate(attn.norm_added_q(q).transpose(1, 2), *tables)  # [B, A, S, D]
    k = rotate(attn.norm_added_k(k).transpose(1, 2), *tables)  # [B, K, S, D]
    k = torch.cat([text[0], k], dim=2)
    v = torch.cat([text[1], v.transpose(1, 2)], dim=2)
    repeat = attn.num_key_value_groups
    k, v = (t[:, :, None].expand(-1, -1, repeat, -1, -1).flatten(1, 2) for t in (k, v))  # [B, A, L + S, D]
    out: Tensor = attn.to_add_out(core(q, k, v, mask).transpose(1, 2).flatten(2))
    return out


def _with_time(model: Any, hidden: Tensor, timestep: Tensor, noisy: Tensor) -> Tensor:
    """Adds the embedding of a frame's timestep to its tokens, if the frame is noisy."""
    features = model.time_proj((timestep * model.config.timestep_scale).flatten())
    weight = model.time_embedder.linear_1.weight
    embedded = model.time_embedder(features.to(weight.dtype)).to(hidden.dtype)  # [B F, C]
    frames = embedded.unflatten(0, timestep.shape) * noisy.to(hidden.dtype)[..., None]  # [B, F, C]
    timed: Tensor = hidden.unflatten(1, (timestep.shape[1], -1)) + frames[:, :, None]
    return timed.flatten(1, 2)


def _check(config: Any, profiles: Sequence[Profile]) -> None:
    for profile in profiles:
        sizes = {name: profile.sizes.get(name, 0) for name in ("F", "h", "w", "S")}
        shape = (1, 1, sizes["F"], sizes["h"], sizes["w"])
        tokens = math.prod(patch_grid(shape, config.latent_patch_size))
        if sizes["S"] != tokens:
            problem = f"profile {profile.name}: {sizes}, patches of {config.latent_patch_size}"
            raise ExportError(problem, fix=f"use S={tokens}")


def _spec(config: Any, profiles: tuple[Profile, ...], digest: str) -> ExportSpec:
    video = ("B", config.latent_channel, "F", "h", "w")
    cache = (config.num_hidden_layers, "B", config.num_key_value_heads, "L", config.head_dim)
    shapes: dict[str, tuple[str | int, ...]] = {
        "latents": video,
        "timestep": ("B", "F"),
        "noisy": ("B", "F"),
        "cos": ("B", "S", config.head_dim),
        "sin": ("B", "S", config.head_dim),
        "text_keys": cache,
        "text_values": cache,
        "text_mask": ("B", "L"),
    }
    return ExportSpec(
        subject=SUBJECT,
        inputs=tuple(TensorSpec(name=name, dims=dims, dtype="fp32") for name, dims in shapes.items()),
        outputs=(TensorSpec(name="velocity", dims=video, dtype="fp32"),),
        profiles=profiles,
        tolerance=TOLERANCE,
        weights_digest=digest,
    )


def _example(spec: ExportSpec, device: torch.device) -> tuple[Tensor, ...]:
    """Noise, one clean frame, small keys and values, and a text of which the last quarter is padding."""
    source = torch.Generator().manual_seed(0)
    sizes = spec.profiles[0].sizes
    made = {t.name: torch.randn(t.shape(sizes), generator=source) for t in spec.inputs}
    angle = made["cos"]
    noisy = torch.ones_like(made["noisy"])
    noisy[:, 0] = 0
    mask = torch.zeros_like(made["text_mask"])
    mask[:, mask.shape[1] - mask.shape[1] // 4 :] = MASKED
    timestep = torch.full_like(noisy, 500.0)
    made |= {"timestep": timestep, "noisy": noisy, "cos": angle.cos(), "sin": angle.sin(), "text_mask": mask}
    return tuple(made[tensor.name].to(device) for tensor in spec.inputs)


def _groups(transformer: Any) -> tuple[LinearGroup, ...]:
    """All linears of the layers; proj_in, proj_out and the time embedder stay."""
    groups = []
    for index, layer in enumerate(transformer.layers):
        path = f"transformer.layers.{index}"
        gated = ("gate_proj", "up_proj") if hasattr(layer.mlp_moe_gen, "gate_proj") else ("up_proj",)
        for name, module, linears, shared in (
            ("qkv", "self_attn", ("add_q_proj", "add_k_proj", "add_v_proj"), f"shared_qkv.{index}"),
            ("out", "self_attn", ("to_add_out",), None),
            ("up", "mlp_moe_gen", gated, f"shared_mlp.{index}"),
            ("down", "mlp_moe_gen", ("down_proj",), None),
        ):
            paths = tuple(f"{path}.{module}.{linear}" for linear in linears)
            features = transformer.get_submodule(paths[0].removeprefix("transformer.")).in_features
            groups.append(
                LinearGroup(name=f"{path}.{name}", linears=paths, in_features=features, shared=shared)
            )
    return tuple(groups)


def _gate(num_groups: int, num_layers: int, recipe_name: str) -> Gate:
    """As for the Wan transformer, with one attention per layer."""
    recipe = recipe_of(recipe_name)
    return Gate(
        num_fused_attention=num_layers,
        fused_attention_dtype="fp8" if recipe.fp8_attention else recipe.dtype,
        num_fp8_gemm=num_groups if recipe.linear == "fp8" else 0,
        num_int8_gemm=num_groups if recipe.linear == "int8" else 0,
        merged_qkv=recipe.linear != "nvfp4",
        max_activation_bytes=None,
    )
