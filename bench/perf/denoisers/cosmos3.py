"""Cosmos3 as a subject of the speed measurements: sizes, FLOP counts, the library's forward and ours.

The library runs both towers at every step, as its pipeline does: it has no cache of the text, only caches of
steps, which change the result. Ours reads the text from a cache made once. FLOPs are those of the generation
tower. d width, m feed-forward width, a width of all heads of queries, k of all heads of keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import Cosmos3OmniTransformer
from diffusers.models.transformers.transformer_cosmos3 import Cosmos3AttnProcessor
from diffusers.pipelines.cosmos.pipeline_cosmos3_omni import (
    get_3d_mrope_ids_text_tokens,
    get_3d_mrope_ids_vae_tokens,
)
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

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
from engine.denoise.assemble import assemble
from engine.denoise.family import Shape
from engine.denoise.guidance import COND
from engine.denoise.sampler import PrefixTimestep
from engine.generators.cosmos3.family import Cosmos3Family
from engine.settings.presets import DenoiseSettings
from engine.words import counted
from kernels.attention import fa3

PIXELS_PER_LATENT, FRAMES_PER_LATENT, PATCH = 16, 4, 2
FPS = 24.0
SHARPNESS = 2.0
"""Weight of the norm of queries, above 1 as in trained models: with 1, random queries see all keys alike,
and the error of an 8-bit attention averages out."""

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "cosmos3-nano": {
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "latent_channel": 48,
        "patch_latent_dim": 192,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "vocab_size": 151936,
    },
    "tiny-cosmos3": {
        "head_dim": 32,
        "hidden_size": 64,
        "intermediate_size": 128,
        "latent_channel": 4,
        "patch_latent_dim": 16,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "vocab_size": 64,
        "rope_axes_dim": (8, 4, 4),
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosmos3Subject:
    """`prefix_frames` latent frames are clean; a forward is one branch of guidance, as in the pipeline."""

    architecture: str
    width: int
    height: int
    num_frames: int
    prefix_frames: int
    text_tokens: int

    @property
    def name(self) -> str:
        return f"{self.architecture} {self.height}x{self.width}x{self.num_frames}"

    @property
    def note(self) -> str:
        return (
            f"the library runs both towers over {counted(self.text_tokens, 'text token')} at every step, "
            "as its pipeline does; ours reads keys and values of the text made once. FLOPs are those of the "
            "generation tower"
        )

    @property
    def config(self) -> dict[str, Any]:
        return ARCHITECTURES[self.architecture]

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        frames = (self.num_frames - 1) // FRAMES_PER_LATENT + 1
        height, width = (size // PIXELS_PER_LATENT for size in (self.height, self.width))
        return 1, self.config["latent_channel"], frames, height, width

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches: frames, rows, columns."""
        _, _, frames, height, width = self.latent_shape
        return frames, height // PATCH, width // PATCH

    @property
    def tokens_per_frame(self) -> int:
        return self.grid[1] * self.grid[2]

    @property
    def num_tokens(self) -> int:
        return self.grid[0] * self.tokens_per_frame

    @property
    def linear_flops(self) -> float:
        config, size = self.config, self.config["head_dim"]
        a, k = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
        d, m = config["hidden_size"], config["intermediate_size"]
        return float(config["num_hidden_layers"] * 2 * (2 * d * a + 2 * d * k + 3 * d * m) * self.num_tokens)

    @property
    def attention_flops(self) -> float:
        a = self.config["num_attention_heads"] * self.config["head_dim"]
        keys = self.num_tokens + self.text_tokens
        return float(self.config["num_hidden_layers"] * 4 * self.num_tokens * keys * a)

    @property
    def flops(self) -> float:
        return self.linear_flops + self.attention_flops

    def inputs(self, device: torch.device) -> tuple[Tensor, PrefixTimestep, Tensor]:
        """Latents fp32 [1, Z, F, h, w], the timestep and token ids [L], random and seeded."""
        generator = torch.Generator(device).manual_seed(0)
        latents = torch.randn(self.latent_shape, generator=generator, device=device)
        vocabulary = self.config["vocab_size"]
        text = torch.randint(vocabulary, (self.text_tokens,), generator=generator, device=device)
        timestep = PrefixTimestep(
            value=700.0,
            prefix_frames=self.prefix_frames,
            latent_frames=self.latent_shape[2],
            tokens_per_frame=self.tokens_per_frame,
        )
        return latents, timestep, text

    def build(self, device: torch.device) -> Cosmos3OmniTransformer:
        model = random_weights(Cosmos3OmniTransformer, self.config, device)
        for layer in model.layers:
            layer.self_attn.norm_added_q.weight.data.fill_(SHARPNESS)
        return model

    def stock(self, transformer: Cosmos3OmniTransformer, backend: str, compiled: bool) -> Forward:
        module = module_tree(transformer)
        if backend == "fa3":
            for layer in module.layers:
                layer.self_attn.set_processor(_Fa3Processor())
        elif backend in LIBRARY_BACKENDS:
            use_library_backend(module, backend)
        if compiled:
            module.compile_repeated_blocks(fullgraph=True, dynamic=False)
        dtype = module.proj_in.weight.dtype
        latents, _, _ = self.inputs(module.proj_in.weight.device)
        static = self._static_inputs(module)

        def forward() -> Tensor:
            with attention_backend(backend):
                velocity: Tensor = module(vision_tokens=[latents.to(dtype)], **static)[0][0]
            return velocity.float()

        return forward

    def ours(
        self, transformer: Cosmos3OmniTransformer, settings: DenoiseSettings, cache: Path | None
    ) -> tuple[Forward, Mapping[str, str]]:
        latents, timestep, text = self.inputs(transformer.proj_in.weight.device)
        prefix = self.prefix_frames * self.tokens_per_frame
        shape = Shape(batch=1, tokens=self.num_tokens, text_tokens=self.text_tokens, prefix_tokens=prefix)
        made = assemble(Cosmos3Family(transformer, fps=FPS), settings, shape, cache=cache)
        prompt = made.denoiser.prepare(text)
        return lambda: made.denoiser(latents, timestep, prompt, branch=COND), made.notes

    def kernels(self, settings: DenoiseSettings) -> Calls:
        return kernel_sum.cosmos3_calls(
            settings,
            tokens=self.num_tokens,
            text_tokens=self.text_tokens,
            layers=self.config["num_hidden_layers"],
            heads=self.config["num_attention_heads"],
            kv_heads=self.config["num_key_value_heads"],
            size=self.config["head_dim"],
            width=self.config["hidden_size"],
            inner=self.config["intermediate_size"],
        )

    def _static_inputs(self, module: Cosmos3OmniTransformer) -> dict[str, Any]:
        """What the pipeline makes once before its loop, in its layout; the timesteps of one step too."""
        device = module.proj_in.weight.device
        _, timestep, text = self.inputs(device)
        words, offset = get_3d_mrope_ids_text_tokens(len(text), 0, use_float_positions=True)
        margin = module.config.unified_3d_mrope_temporal_modality_margin
        cells, _ = get_3d_mrope_ids_vae_tokens(*self.grid, temporal_offset=offset + margin, fps=FPS)
        length, split = len(text) + self.num_tokens, len(text) + timestep.prefix_tokens
        return {
            "input_ids": text,
            "text_indexes": torch.arange(len(text), device=device),
            "position_ids": torch.cat([words, cells], dim=1).to(device),
            "und_len": len(text),
            "sequence_length": length,
            "vision_token_shapes": [self.grid],
            "vision_sequence_indexes": torch.arange(len(text), length, device=device),
            "vision_mse_loss_indexes": torch.arange(split, length, device=device),
            "vision_timesteps": torch.full((length - split,), timestep.value, device=device),
            "vision_noisy_frame_indexes": [torch.arange(self.prefix_frames, self.grid[0], device=device)],
            "return_dict": False,
        }


class _Fa3Processor(Cosmos3AttnProcessor):
    """The library's processor with FlashAttention-3 for the video: what a careful user would write."""

    def __call__(
        self, attn: Any, und_seq: Tensor, gen_seq: Tensor, rotary_emb: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        assert attn.k_norm_und_for_gen is None, "the processor does not know the Edge layout"
        tables = [table.unsqueeze(1) for table in rotary_emb]
        q, k, v = _heads(attn, und_seq, (attn.to_q, attn.to_k, attn.to_v))
        q, k = _rotate(attn.norm_q(q), *tables[:2]), _rotate(attn.norm_k(k), *tables[:2])
        query, key, value = (x.transpose(0, 1)[None] for x in (q, k, v))
        text = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        q, own_k, own_v = _heads(attn, gen_seq, (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj))
        q, own_k = _rotate(attn.norm_added_q(q), *tables[2:]), _rotate(attn.norm_added_k(own_k), *tables[2:])
        joint = (q, torch.cat([k, own_k]), torch.cat([v, own_v]))
        second = (x.transpose(0, 1)[None] for x in joint)  # [1, A or K, S or L + S, D]
        video = fa3.run(*second, scale=attn.head_dim**-0.5)
        outs = (x[0].transpose(0, 1).flatten(1) for x in (text, video))
        return attn.to_out(next(outs)), attn.to_add_out(next(outs))


def _heads(attn: Any, x: Tensor, projections: tuple[Any, Any, Any]) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (project(x).unflatten(-1, (-1, attn.head_dim)) for project in projections)
    return q, k, v


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
