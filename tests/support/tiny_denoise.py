"""Tiny Wan transformers, timesteps and a denoiser that keeps count; no test of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from engine.denoise.layers import BoundAttention, ElementWise, bind
from engine.denoise.sampler import PrefixTimestep
from engine.generators.wan.denoiser import FastDenoiser
from engine.generators.wan.forward import FastWan
from kernels.reference import plain

OURS = bind("run")

CHANNELS, TEXT_WIDTH, TEXT_TOKENS = 4, 16, 5
FRAMES, SIDE = 3, 4


def transformer(
    *,
    patch_px: int = 1,
    num_layers: int = 3,
    cross_attn_norm: bool = True,
    image: bool = False,
    head_dim: int = 12,
    ffn_dim: int = 32,
    seed: int = 0,
) -> WanTransformer3DModel:
    """Random, also where the library begins with ones and zeros: a swapped weight or bias would not show."""
    torch.manual_seed(seed)
    made = WanTransformer3DModel(
        patch_size=(1, patch_px, patch_px),
        num_attention_heads=2,
        attention_head_dim=head_dim,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=16,
        ffn_dim=ffn_dim,
        num_layers=num_layers,
        cross_attn_norm=cross_attn_norm,
        rope_max_seq_len=32,
        image_dim=8 if image else None,
        added_kv_proj_dim=2 * head_dim if image else None,
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return made.requires_grad_(False)


def to_half(module: WanTransformer3DModel, device: str = "cpu") -> WanTransformer3DModel:
    """In bf16 but for the islands that the library keeps in fp32."""
    for name, parameter in module.named_parameters():
        island = any(kept in name for kept in ("time_embedder", "scale_shift_table", "norm2"))
        parameter.data = parameter.data.to(torch.float32 if island else torch.bfloat16)
    return module.to(device)


def bound(name: str = "plain") -> BoundAttention:
    return BoundAttention(name=name, run=plain)


def fast_wan(
    module: WanTransformer3DModel,
    *,
    element_wise: ElementWise = OURS,
    attention: BoundAttention | None = None,
    quantized_attention: BoundAttention | None = None,
) -> FastWan:
    return FastWan(
        module,
        element_wise=element_wise,
        attention=attention or bound(),
        quantized_attention=quantized_attention,
        cross_attention=bound(),
    )


def fast(module: WanTransformer3DModel, *, element_wise: ElementWise = OURS) -> FastDenoiser:
    return FastDenoiser(fast_wan(module, element_wise=element_wise))


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latents(seed: int = 1) -> Tensor:
    return random(1, CHANNELS, FRAMES, SIDE, SIDE, seed=seed)


def text(rows: int = 1, seed: int = 2) -> Tensor:
    return random(rows, TEXT_TOKENS, TEXT_WIDTH, seed=seed)


def at(value: float, *, prefix_frames: int = 1, patch_px: int = 1) -> PrefixTimestep:
    return PrefixTimestep(
        value=value,
        prefix_frames=prefix_frames,
        latent_frames=FRAMES,
        tokens_per_frame=(SIDE // patch_px) ** 2,
    )


def relative(actual: Tensor, exact: Tensor) -> float:
    """Frobenius norm of the difference over that of the exact tensor."""
    return float((actual.double() - exact.double()).norm() / exact.double().norm())


def largest(actual: Tensor, exact: Tensor) -> float:
    """Largest difference over the largest value of the exact tensor."""
    return float((actual.double() - exact.double()).abs().max() / exact.double().abs().max())


@dataclass
class Recording:
    """A denoiser whose velocity is `of(latents, timestep, text row)`; notes every branch and every text."""

    of: Callable[[Tensor, float, Tensor], Tensor]
    branches: list[str] = field(default_factory=list)
    num_prepared: int = 0

    def prepare(self, text: Tensor) -> Tensor:
        self.num_prepared += 1
        return text

    def __call__(self, latents: Tensor, timestep: PrefixTimestep, text: Tensor, *, branch: str) -> Tensor:
        self.branches.append(branch)
        return torch.cat([self.of(latents, timestep.value, row) for row in text])
