"""Wan as a subject of the speed measurements: sizes, FLOP counts, the library's forward and ours.

FLOP counts follow the architecture: d width, m feed-forward width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from bench.perf import kernel_sum
from bench.perf.denoisers.base import (
    LIBRARY_BACKENDS,
    Calls,
    Forward,
    attention_backend,
    module_tree,
    random_weights,
    use_library_backend,
)
from engine.denoise.assemble import Assembled, assemble
from engine.denoise.family import Shape
from engine.denoise.guidance import BOTH, COND
from engine.denoise.sampler import PrefixTimestep
from engine.generators.wan.family import WanFamily
from engine.generators.wan.own_prefix import rotated
from engine.settings.presets import DenoiseSettings
from kernels.attention import fa3

TEXT_TOKENS = 512

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "wan2.1-1.3b": {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960},
    "wan2.1-14b": {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824},
    "wan2.2-5b": {
        "num_attention_heads": 24,
        "num_layers": 30,
        "ffn_dim": 14336,
        "in_channels": 48,
        "out_channels": 48,
    },
    "tiny": {
        "num_attention_heads": 2,
        "attention_head_dim": 64,
        "num_layers": 4,
        "ffn_dim": 256,
        "text_dim": 64,
    },
}
STRIDES = {"wan2.2-5b": (4, 16)}
"""Pixels per latent in time and space; (4, 8) for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WanSubject:
    """`prefix_frames` latent frames are clean."""

    architecture: str
    width: int
    height: int
    num_frames: int
    prefix_frames: int = 0
    batch: int = 1

    @property
    def name(self) -> str:
        rows = f" x{self.batch}" if self.batch > 1 else ""
        return f"{self.architecture} {self.height}x{self.width}x{self.num_frames}{rows}"

    @property
    def note(self) -> str:
        return ""

    @property
    def config(self) -> dict[str, Any]:
        return ARCHITECTURES[self.architecture]

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        in_time, in_space = STRIDES.get(self.architecture, (4, 8))
        frames = (self.num_frames - 1) // in_time + 1
        channels = self.config.get("in_channels", 16)
        return 1, channels, frames, self.height // in_space, self.width // in_space

    @property
    def tokens_per_frame(self) -> int:
        return (self.latent_shape[3] // 2) * (self.latent_shape[4] // 2)

    @property
    def num_tokens(self) -> int:
        return self.latent_shape[2] * self.tokens_per_frame

    @property
    def width_of_model(self) -> int:
        return int(self.config["num_attention_heads"] * self.config.get("attention_head_dim", 128))

    @property
    def linear_flops(self) -> float:
        d, m, tokens = self.width_of_model, self.config["ffn_dim"], self.num_tokens
        text = 2 * 2 * d * d * TEXT_TOKENS
        return float(self.batch * self.config["num_layers"] * (2 * (6 * d * d + 2 * d * m) * tokens + text))

    @property
    def attention_flops(self) -> float:
        tokens, d, layers = self.num_tokens, self.width_of_model, self.config["num_layers"]
        return float(self.batch * layers * (4 * tokens * tokens * d + 4 * tokens * TEXT_TOKENS * d))

    @property
    def flops(self) -> float:
        return self.linear_flops + self.attention_flops

    def inputs(self, device: torch.device) -> tuple[Tensor, PrefixTimestep, Tensor]:
        """Latents fp32 [1, Z, F, h, w], the timestep and text [B, 512, text width], random and seeded."""
        generator = torch.Generator(device).manual_seed(0)
        latents = torch.randn(self.latent_shape, generator=generator, device=device)
        shape = (self.batch, TEXT_TOKENS, self.config.get("text_dim", 4096))
        text = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
        timestep = PrefixTimestep(
            value=700.0,
            prefix_frames=self.prefix_frames,
            latent_frames=self.latent_shape[2],
            tokens_per_frame=self.tokens_per_frame,
        )
        return latents, timestep, text

    def build(self, device: torch.device) -> WanTransformer3DModel:
        defaults = {"attention_head_dim": 128, "patch_size": (1, 2, 2), "text_dim": 4096}
        return random_weights(WanTransformer3DModel, defaults | self.config, device)

    def stock(self, transformer: WanTransformer3DModel, backend: str, compiled: bool) -> Forward:
        module = module_tree(transformer)
        use_attention(module, backend)
        if compiled:
            module.compile_repeated_blocks(fullgraph=True, dynamic=False)
        latents, timestep, text = self.inputs(module.patch_embedding.weight.device)
        times = timestep.per_token(latents.device) if timestep.prefix_frames else _one(timestep, latents)
        dtype = module.patch_embedding.weight.dtype

        def forward() -> Tensor:
            with attention_backend(backend):
                velocity: Tensor = module(
                    hidden_states=latents.to(dtype).expand(len(text), -1, -1, -1, -1),
                    timestep=times.expand(len(text), *times.shape[1:]),
                    encoder_hidden_states=text,
                    return_dict=False,
                )[0]
            return velocity.float()

        return forward

    def ours(
        self, transformer: WanTransformer3DModel, settings: DenoiseSettings, cache: Path | None
    ) -> tuple[Forward, Mapping[str, str]]:
        latents, timestep, text = self.inputs(transformer.patch_embedding.weight.device)
        branch = BOTH if self.batch == 2 else COND
        made = self.assembled(transformer, settings, cache)
        prepared = made.denoiser.prepare(text)
        return lambda: made.denoiser(latents, timestep, prepared, branch=branch), made.notes

    def assembled(
        self, transformer: WanTransformer3DModel, settings: DenoiseSettings, cache: Path | None
    ) -> Assembled:
        shape = Shape(
            batch=self.batch,
            tokens=self.num_tokens,
            text_tokens=TEXT_TOKENS,
            prefix_tokens=self.prefix_frames * self.tokens_per_frame,
        )
        return assemble(WanFamily(transformer), settings, shape, cache=cache)

    def kernels(self, settings: DenoiseSettings) -> Calls:
        return kernel_sum.wan_calls(
            settings,
            batch=self.batch,
            tokens=self.num_tokens,
            text_tokens=TEXT_TOKENS,
            layers=self.config["num_layers"],
            heads=self.config["num_attention_heads"],
            width=self.width_of_model,
            inner=self.config["ffn_dim"],
        )


def use_attention(module: WanTransformer3DModel, backend: str) -> None:
    """One that is part of the module; torch's restricted ones are set around a call."""
    if backend == "fa3":
        module.set_attn_processor(_Fa3Processor())
    elif backend in LIBRARY_BACKENDS:
        use_library_backend(module, backend)


class _Fa3Processor(WanAttnProcessor):
    """The library's processor with FlashAttention-3 called directly: what a careful user would write."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        assert attention_mask is None, "the processor knows no mask"
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source))
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, attn.to_v(source)))
        if rotary_emb is not None:
            q, k = (rotated(x, *rotary_emb) for x in (q, k))
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        out = fa3.run(*heads_first, scale=q.shape[-1] ** -0.5).transpose(1, 2)
        made: Tensor = attn.to_out[1](attn.to_out[0](out.flatten(2)))
        return made


def _one(timestep: PrefixTimestep, latents: Tensor) -> Tensor:
    """One timestep for all tokens: what the library is given where there is no clean prefix."""
    return torch.full((1,), timestep.value, device=latents.device)
