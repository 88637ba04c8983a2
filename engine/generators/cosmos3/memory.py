"""Peak memory of a Cosmos3 forward, before and after a weight is read.

Counted on a transformer of the same configuration without values, but for what a compiler fuses, which is a
formula; on an H200 it is within 1 % of what was allocated (bench/results/denoiser_h200_cosmos3.json).
S video tokens . L text tokens . d width . m feed-forward width . e bytes of an element
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from diffusers import Cosmos3OmniTransformer

from engine.autoencoder.memory import padded
from engine.autoencoder.vae import latent_frames_of
from engine.denoise.guidance import COND
from engine.denoise.layers import BoundAttention, bind
from engine.denoise.sampler import PrefixTimestep
from engine.generators.cosmos3.eager import EagerDenoiser
from engine.generators.cosmos3.folder import Cosmos3Parts
from engine.generators.cosmos3.forward import Cosmos3Denoiser, FastCosmos3, patch_grid
from engine.generators.cosmos3.recipes import cosmos3_recipe
from engine.generators.cosmos3.text import prefill
from engine.generators.cosmos3.texts import KEPT
from engine.machine.counted import peak_bytes
from engine.machine.outline import frozen, without_values
from engine.quant import surgery
from engine.quant.linears import QuantizedLinear
from engine.settings.presets import DenoiseSettings
from engine.types import VideoSpec

COUNTED_LAYERS = 3
"""Layers are alike: the peak is inside one, and the inner ones are those that may be 8-bit."""


def denoise_bytes(
    parts: Cosmos3Parts, shape: tuple[int, ...], spec: VideoSpec, settings: DenoiseSettings
) -> int:
    """Peak of one forward over latents of `shape`, without the text that all steps share."""
    config, dtype = parts.transformer.config, parts.transformer.proj_in.weight.dtype
    frames, rows, columns = patch_grid(shape, parts.patch_px)
    on_gpu = parts.device.type == "cuda"
    if settings.forward == "fast" and (settings.compile == "on" or (settings.compile == "auto" and on_gpu)):
        return _compiled_bytes(config, frames * rows * columns, dtype.itemsize)
    formats = (m.format for m in parts.transformer.modules() if isinstance(m, QuantizedLinear))
    fast = (settings.element_wise, next(formats, "")) if settings.forward == "fast" else None
    prefix = latent_frames_of(padded(spec.prefix_frames))
    return _counted_forward(frozen(config), dtype, shape, parts.max_text_tokens, prefix, fast)


def prefill_bytes(parts: Cosmos3Parts) -> int:
    """Peak of reading the longest text, without the keys and values that are kept of it."""
    config, dtype = parts.transformer.config, parts.transformer.proj_in.weight.dtype
    return _counted_prefill(frozen(config), dtype, parts.max_text_tokens)


def kept_text_bytes(parts: Cosmos3Parts, settings: DenoiseSettings) -> int:
    """Keys and values of the texts that are kept, and E4M3 keys for an attention that reads them."""
    config, element = parts.transformer.config, parts.transformer.proj_in.weight.element_size()
    values = config.num_hidden_layers * config.num_key_value_heads * config.head_dim * parts.max_text_tokens
    return int(KEPT * values * (2 * element + bool(settings.quantized_attention)))


def _compiled_bytes(config: Any, tokens: int, element: int) -> int:
    """In the feed-forward of a bf16 layer, which the first and last always are: gate and up 2 m e and what
    comes of them m e, or m e and m e without a gate; and residual, its norm and the branch before 3 d e."""
    inner = (3 if config.hidden_act == "silu" else 2) * config.intermediate_size
    return int(tokens * element * (inner + 3 * config.hidden_size))


def _outline(config: str, dtype: torch.dtype) -> Any:
    values: dict[str, Any] = json.loads(config)
    values["num_hidden_layers"] = min(int(values["num_hidden_layers"]), COUNTED_LAYERS)
    values |= {"sound_gen": False, "action_gen": False}
    return without_values(Cosmos3OmniTransformer, values, dtype).eval()


@functools.lru_cache(maxsize=64)
def _counted_prefill(config: str, dtype: torch.dtype, text_tokens: int) -> int:
    transformer = _outline(config, dtype)
    ids = torch.empty(text_tokens, dtype=torch.int64, device="meta")
    peak = peak_bytes(lambda: prefill(transformer, ids))
    made = transformer.config
    element = dtype.itemsize
    kept = 2 * element * COUNTED_LAYERS * text_tokens * made.num_key_value_heads * made.head_dim
    return int(peak - kept)


@functools.lru_cache(maxsize=64)
def _counted_forward(
    config: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    text_tokens: int,
    prefix_frames: int,
    fast: tuple[str, str] | None,
) -> int:
    """`fast`: form of the element-wise steps and the 8-bit format, or ""; None: the library's modules."""
    transformer = _outline(config, dtype)
    _, rows, columns = patch_grid(shape, int(transformer.config.latent_patch_size))
    time = PrefixTimestep(
        value=500.0, prefix_frames=prefix_frames, latent_frames=shape[2], tokens_per_frame=rows * columns
    )
    fps = float(transformer.config.base_fps)
    denoiser: Any = EagerDenoiser(transformer, fps=fps) if fast is None else _fast(transformer, fps, *fast)
    text = denoiser.prepare(torch.empty(text_tokens, dtype=torch.int64, device="meta"))
    latents = torch.empty(shape, device="meta")
    return peak_bytes(lambda: denoiser(latents, time, text, branch=COND))


def _fast(transformer: Any, fps: float, element_wise: str, format: str) -> Cosmos3Denoiser:
    if format:
        recipe = cosmos3_recipe(transformer)
        formats = surgery.plan(transformer, recipe, format)
        surgery.quantize_linears(transformer, recipe, format, expect=len(formats))
    forward = FastCosmos3(
        transformer,
        fps=fps,
        element_wise=bind("run" if element_wise == "ours" else "plain"),
        attention=BoundAttention(name="counted", run=lambda q, k, v, *, scale: torch.empty_like(q)),
        quantized_attention=None,
    )
    return Cosmos3Denoiser(forward)
