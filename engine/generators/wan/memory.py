"""Shapes and peak memory of a Wan folder's modules, before and after a weight is read.

Knows no job. What a step takes is counted on modules of the same configuration without values, but for what
a compiler fuses, which is a formula. On an H200 the counts are within 2 % of what was allocated
(bench/results/denoiser_h200*.json, vae_h200.json; tests/engine/generators/wan/test_memory.py repeats them).
P prefix frames . F latent frames . S tokens . h, w latent pixels . e bytes of an element
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor

from engine.denoise.guidance import BOTH, COND
from engine.denoise.layers import BoundAttention, bind
from engine.denoise.sampler import PrefixTimestep
from engine.generators.wan.components import without_values
from engine.generators.wan.eager import EagerDenoiser
from engine.generators.wan.folder import WanParts
from engine.generators.wan.forward import FastDenoiser, FastWan
from engine.generators.wan.own_prefix import use_own_prefix
from engine.generators.wan.recipes import wan_recipe
from engine.generators.wan.settings import OWN
from engine.generators.wan.vae import (
    TEMPORAL_STRIDE,
    decode_in_chunks,
    encode_moments,
    latent_frames_of,
    use_channels_last,
)
from engine.generators.wan.vae_fused import use_fused_vae
from engine.machine.counted import peak_bytes
from engine.quant import surgery
from engine.quant.linears import QuantizedLinear
from engine.settings.presets import DenoiseSettings
from engine.types import VideoSpec

MAX_CHUNK_LATENTS = 4
"""Latent frames per pass of the autoencoder: 16 pixel frames. Larger is hardly faster, and steps grow."""

CPU_CHUNK_BYTES = 2**30
"""On a CPU a pass of the autoencoder may always take this; beyond it, what a denoise step takes (one latent
frame at least)."""
COUNTED_BLOCKS = 3
"""Blocks are alike: the peak is inside one, and the inner ones are those that may be 8-bit."""


def padded(num_frames: int) -> int:
    return num_frames + (1 - num_frames) % TEMPORAL_STRIDE


def latent_shape(parts: WanParts, spec: VideoSpec) -> tuple[int, int, int, int, int]:
    """(1, Z, F, h, w) for padded prefix and continuation together."""
    stride = parts.vae.config.scale_factor_spatial
    latent_frames = latent_frames_of(padded(spec.prefix_frames) + spec.num_frames)
    return 1, parts.vae.config.z_dim, latent_frames, spec.height // stride, spec.width // stride


def bytes_of(module: Any) -> int:
    """Of parameters and buffers, each storage once."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def num_tokens(parts: WanParts, shape: tuple[int, ...]) -> int:
    """S of latents of this shape."""
    patch = parts.transformer.config.patch_size
    return int((shape[2] // patch[0]) * (shape[3] // patch[1]) * (shape[4] // patch[2]))


def is_compiled(settings: DenoiseSettings, device: torch.device) -> bool:
    on_gpu = device.type == "cuda"
    return settings.forward == "fast" and (
        settings.compile == "on" or (settings.compile == "auto" and on_gpu)
    )


def denoise_bytes(parts: WanParts, spec: VideoSpec, batch: int, settings: DenoiseSettings) -> int:
    """Peak of one forward for so many rows of guidance, without the text that all steps share."""
    shape, formats = latent_shape(parts, spec), _formats(parts.transformer)
    if is_compiled(settings, parts.device):
        return _compiled_bytes(parts, batch * num_tokens(parts, shape), eight_bit=bool(formats))
    return _counted_forward(
        _frozen(parts.transformer.config),
        parts.transformer.patch_embedding.weight.dtype,
        shape,
        batch,
        parts.max_text_tokens,
        parts.defaults.prefix_attention == OWN,
        latent_frames_of(padded(spec.prefix_frames)),
        (settings.element_wise, next(iter(formats), "")) if settings.forward == "fast" else None,
    )


def text_bytes(parts: WanParts, batch: int, settings: DenoiseSettings) -> int:
    """What a job keeps of its text: embeddings, or the keys and values of every block."""
    config, element = parts.transformer.config, parts.transformer.patch_embedding.weight.element_size()
    tokens = batch * parts.max_text_tokens * element
    if settings.forward == "library":
        return int(tokens * config.text_dim)
    return int(tokens * 2 * config.num_layers * config.num_attention_heads * config.attention_head_dim)


def chunk_size(parts: WanParts, spec: VideoSpec, *, most_bytes: int, fused: bool) -> int:
    """Latent frames per pass of the autoencoder, whose peak stays below `most_bytes`, on a CPU also below
    CPU_CHUNK_BYTES."""
    limit = max(most_bytes, CPU_CHUNK_BYTES)
    sizes = range(MAX_CHUNK_LATENTS, 1, -1)
    return next((size for size in sizes if chunk_bytes(parts, spec, size, fused=fused) <= limit), 1)


def chunk_bytes(parts: WanParts, spec: VideoSpec, chunk_latents: int, *, fused: bool) -> int:
    """Peak of one pass of the autoencoder, the larger one of both ways; see `encode_bytes`."""
    return max(
        _counted_vae(way, *_vae_key(parts, spec, fused), chunk_latents)
        + _unfolded(parts, spec, chunk_latents)
        for way in ("decode", "encode")
    )


def encode_bytes(parts: WanParts, spec: VideoSpec, chunk_latents: int, *, fused: bool) -> int:
    """Peak while a prefix is encoded: its pixels in float32, and once more; then those that the autoencoder
    takes, cut into patches too, and a pass."""
    values = padded(spec.prefix_frames) * 3 * spec.height * spec.width
    element: int = parts.vae.encoder.conv_in.weight.element_size()
    given = values * element * (2 if parts.vae.config.patch_size else 1)
    peak = _counted_vae("encode", *_vae_key(parts, spec, fused), chunk_latents)
    return max(2 * 4 * values, given + peak + _unfolded(parts, spec, chunk_latents))


def _unfolded(parts: WanParts, spec: VideoSpec, chunk_latents: int) -> int:
    """On a CPU convolutions of float32 unfold their input, 27 times as large."""
    config, element = parts.vae.config, parts.vae.encoder.conv_in.weight.element_size()
    if parts.device.type != "cpu" or element != 4:
        return 0
    patch = config.patch_size or 1
    width = max(
        config.base_dim, (2 if config.is_residual else 1) * (config.decoder_base_dim or config.base_dim)
    )
    frames = TEMPORAL_STRIDE * chunk_latents + 2
    return int(27 * frames * (spec.height // patch) * (spec.width // patch) * width * element)


def _compiled_bytes(parts: WanParts, tokens: int, *, eight_bit: bool) -> int:
    """Of width d and feed-forward width m, a token: in the attention 9 d e, or 7.5 d e where it reads 8-bit
    layers; in the feed-forward m e and 4 d e, or m (e + 1) and 3 d e. Measured on an H200 with models of
    1.3B, 5B and 14B, in which these are within 2 %."""
    config = parts.transformer.config
    element = parts.transformer.patch_embedding.weight.element_size()
    width = config.num_attention_heads * config.attention_head_dim
    attention = (7.5 if eight_bit else 9) * width * element
    feed_forward = config.ffn_dim * (element + eight_bit) + (3 if eight_bit else 4) * width * element
    return int(tokens * max(attention, feed_forward))


def _formats(transformer: Any) -> list[str]:
    return [module.format for module in transformer.modules() if isinstance(module, QuantizedLinear)]


def _frozen(config: Mapping[str, Any]) -> str:
    """A configuration as a key of a cache, the same of an outline and of the loaded module, which also knows
    where it came from."""
    known = {name: value for name, value in config.items() if not name.startswith("_")}
    return json.dumps(known, sort_keys=True, default=str)


@functools.lru_cache(maxsize=64)
def _counted_forward(
    config: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    batch: int,
    text_tokens: int,
    own_prefix: bool,
    prefix_frames: int,
    fast: tuple[str, str] | None,
) -> int:
    """`fast`: form of the element-wise steps and the 8-bit format, or ""; None: the library's forward."""
    values: dict[str, Any] = json.loads(config)
    values["num_layers"] = min(int(values["num_layers"]), COUNTED_BLOCKS)
    transformer: Any = without_values(WanTransformer3DModel, values, dtype).eval()
    if own_prefix:
        use_own_prefix(transformer, prefix_frames, shape[2])
    _, patch_h, patch_w = transformer.config.patch_size
    time = PrefixTimestep(
        value=500.0,
        prefix_frames=prefix_frames,
        latent_frames=shape[2],
        tokens_per_frame=(shape[3] // patch_h) * (shape[4] // patch_w),
    )
    denoiser: Any = EagerDenoiser(transformer) if fast is None else _fast(transformer, *fast)
    latents = torch.empty(shape, device="meta")
    width = int(values["text_dim"])
    text = denoiser.prepare(torch.empty(batch, text_tokens, width, device="meta", dtype=dtype))
    return peak_bytes(lambda: denoiser(latents, time, text, branch=BOTH if batch == 2 else COND))


def _fast(transformer: Any, element_wise: str, format: str) -> FastDenoiser:
    recipe = wan_recipe(transformer)
    if format and len(transformer.blocks) > recipe.num_first_kept + recipe.num_last_kept:
        formats = surgery.plan(transformer, recipe, format)
        surgery.quantize_linears(transformer, recipe, format, expect=len(formats))
    attention = BoundAttention(name="counted", run=lambda q, k, v, *, scale: torch.empty_like(q))
    wan = FastWan(
        transformer,
        element_wise=bind("run" if element_wise == "ours" else "plain"),
        attention=attention,
        quantized_attention=None,
        cross_attention=attention,
    )
    return FastDenoiser(wan)


def _vae_key(parts: WanParts, spec: VideoSpec, fused: bool) -> tuple[str, torch.dtype, int, int, bool]:
    dtype = parts.vae.encoder.conv_in.weight.dtype
    return _frozen(parts.vae.config), dtype, spec.height, spec.width, fused


@functools.lru_cache(maxsize=64)
def _counted_vae(
    way: str,
    config: str,
    dtype: torch.dtype,
    height: int,
    width: int,
    fused: bool,
    chunk_latents: int,
) -> int:
    """The first pass and two more, since each keeps frames for the next; without the pixels of an encoder."""
    vae: Any = without_values(AutoencoderKLWan, json.loads(config), dtype).eval()
    use_channels_last(vae)
    if fused:
        # paired columns are views, which without values are taken for copies
        use_fused_vae(vae, merge_upsampling=True, paired=frozenset())
    latent_frames = 1 + 2 * chunk_latents
    if way == "encode":
        frames = 1 + TEMPORAL_STRIDE * (latent_frames - 1)
        pixels = torch.empty(1, 3, frames, height, width, device="meta", dtype=dtype)
        patches = pixels.nbytes if vae.config.patch_size else 0
        return peak_bytes(lambda: encode_moments(vae, pixels, chunk_latents)) - patches
    stride = vae.config.scale_factor_spatial
    size = (1, vae.config.z_dim, latent_frames, height // stride, width // stride)
    latents = torch.empty(size, device="meta", dtype=dtype)
    return peak_bytes(lambda: _decode(vae, latents, chunk_latents))


def _decode(vae: Any, latents: Tensor, chunk_latents: int) -> None:
    for pixels in decode_in_chunks(vae, latents, chunk_latents):
        to_uint8(pixels)


def to_uint8(pixels: Tensor) -> Tensor:
    """[1, 3, T, H, W] in [-1, 1] -> uint8 [T, H, W, 3], ready to be copied to the host."""
    rounded = pixels[0].float().add(1.0).mul(127.5).round_().to(torch.uint8)
    return rounded.permute(1, 2, 3, 0).contiguous()
