"""Shapes and peak memory of a Wan folder's modules, before and after a weight is read.

Knows no job. Formulas count what is alive at the peak of one step; a GPU test compares them with what was
allocated. P prefix frames . F latent frames . S tokens . h, w latent pixels
"""

from __future__ import annotations

from typing import Any

from engine.generators.wan.folder import WanParts
from engine.generators.wan.vae import TEMPORAL_STRIDE, latent_frames_of
from engine.types import VideoSpec

MAX_CHUNK_LATENTS = 4
"""Latent frames per pass of the autoencoder: 16 pixel frames. Larger is hardly faster, and steps grow."""

CHUNK_BYTES = 2**30
"""A pass of the autoencoder may always take this; beyond it, what a denoise step takes (one latent frame at
least)."""


def padded(num_frames: int) -> int:
    return num_frames + (1 - num_frames) % TEMPORAL_STRIDE


def latent_shape(parts: WanParts, spec: VideoSpec) -> tuple[int, int, int, int, int]:
    """(1, Z, F, h, w) for padded prefix and continuation together."""
    stride = parts.vae.config.scale_factor_spatial
    latent_frames = latent_frames_of(padded(spec.prefix_frames) + spec.num_frames)
    return 1, parts.vae.config.z_dim, latent_frames, spec.height // stride, spec.width // stride


def bytes_of(module: Any) -> int:
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def denoise_bytes(parts: WanParts, shape: tuple[int, ...], batch: int) -> int:
    """Peak of one forward, e bytes per element, S tokens, width d, feed-forward width m:

    batch * S * (d * (12 e + 2 * 24) + d * (8 e + 16) + 2 m e): the per-token modulation in e (twice) and in
    float32 (twice); queries, keys, values, outputs, norms and float32 copies; the feed-forward before and
    after its activation. Attention is taken not to hold its scores.
    """
    config = parts.transformer.config
    element = parts.transformer.patch_embedding.weight.element_size()
    width = config.num_attention_heads * config.attention_head_dim
    tokens = shape[2] * (shape[3] // config.patch_size[1]) * (shape[4] // config.patch_size[2])
    per_token = width * (12 * element + 48 + 8 * element + 16) + 2 * config.ffn_dim * element
    return int(batch * tokens * per_token)


def chunk_size(parts: WanParts, spec: VideoSpec, *, most_bytes: int, fused: bool) -> int:
    """Latent frames per pass of the autoencoder, whose peak stays below `most_bytes`, or CHUNK_BYTES."""
    limit = max(most_bytes, CHUNK_BYTES)
    sizes = range(MAX_CHUNK_LATENTS, 1, -1)
    return next((size for size in sizes if chunk_bytes(parts, spec, size, fused=fused) <= limit), 1)


def chunk_bytes(parts: WanParts, spec: VideoSpec, chunk_latents: int, *, fused: bool) -> int:
    """Peak of one pass of the autoencoder over t = 4 chunk_latents + 2 frames, e bytes per element:

    t * area * c * (6 e + 4): the stage of full (or patched) size holds six copies of its width c and one in
    float32; with fused passes on a GPU t * area * c * 5 e; plus 27 t * area * c * e on a CPU in float32,
    whose convolutions unfold their input; plus 2 frames of 16 * area * c * e that all convolutions remember;
    plus four copies of the pixels in float32. Wan2.1 in bfloat16 was seen to hold 7 copies of a frame, 4 with
    fused passes, and to remember 11; counted without computing, Wan2.2 holds 6 and 4 and remembers 8.
    """
    config = parts.vae.config
    element = parts.vae.encoder.conv_in.weight.element_size()
    patch = config.patch_size or 1
    area = (spec.height // patch) * (spec.width // patch)
    # of the residual layout, an upsampling keeps its width, which the last level then halves
    width = max(
        config.base_dim, (2 if config.is_residual else 1) * (config.decoder_base_dim or config.base_dim)
    )
    frames = TEMPORAL_STRIDE * chunk_latents + 2
    copies = 5 * element if fused and parts.device.type == "cuda" else 6 * element + 4
    unfolded = 27 * element if parts.device.type == "cpu" and element == 4 else 0
    per_frame = area * width * (copies + unfolded) + 4 * 4 * 3 * spec.height * spec.width
    return int(frames * per_frame + 2 * 16 * area * width * element)
