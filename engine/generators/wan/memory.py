"""Shapes and peak memory of a Wan folder's modules, before and after a weight is read.

Knows no job. What a step takes is counted on modules of the same configuration without values, but for what
a compiler fuses, which is a formula. On an H200 the counts are within 2 % of what was allocated
(bench/results/denoiser_h200*.json, vae_h200.json; tests/engine/generators/wan/test_memory.py repeats them).
P prefix frames . F latent frames . S tokens . h, w latent pixels . e bytes of an element
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import torch

from engine.autoencoder.memory import latent_shape, padded
from engine.autoencoder.vae import latent_frames_of
from engine.denoise.family import Family, Parts
from engine.denoise.guidance import BOTH, COND
from engine.denoise.layers import BoundAttention, bind
from engine.denoise.sampler import PrefixTimestep
from engine.generators.wan.own_prefix import use_own_prefix
from engine.generators.wan.settings import OWN
from engine.machine.counted import peak_bytes
from engine.machine.outline import frozen, without_values
from engine.quant import surgery
from engine.quant.linears import QuantizedLinear
from engine.settings.presets import DenoiseSettings
from engine.types import VideoSpec

if TYPE_CHECKING:
    from engine.generators.wan.folder import WanParts
    from engine.generators.wan.variant import Variant

COUNTED_BLOCKS = 3
"""Blocks are alike: the peak is inside one, and the inner ones are those that may be 8-bit."""


def num_tokens(parts: WanParts, shape: tuple[int, ...]) -> int:
    """S of latents of this shape."""
    patch = parts.transformer.config.patch_size
    return int((shape[2] // patch[0]) * (shape[3] // patch[1]) * (shape[4] // patch[2]))


def clean_prefix_frames(parts: WanParts, spec: VideoSpec) -> int:
    """Latent frames that the model sees clean at timestep 0."""
    return latent_frames_of(padded(spec.prefix_frames)) if parts.variant.conditioning.clean_prefix else 0


def is_compiled(settings: DenoiseSettings, device: torch.device) -> bool:
    on_gpu = device.type == "cuda"
    return settings.forward == "fast" and (
        settings.compile == "on" or (settings.compile == "auto" and on_gpu)
    )


def denoise_bytes(parts: WanParts, spec: VideoSpec, batch: int, settings: DenoiseSettings) -> int:
    """Peak of one forward for so many rows of guidance, without the text that all steps share."""
    shape, formats = latent_shape(parts.vae, spec), _formats(parts.transformer)
    tokens = batch * num_tokens(parts, shape)
    hints = _hint_bytes(parts, tokens, settings)
    if is_compiled(settings, parts.device):
        return compiled_bytes(parts, tokens) + hints
    return hints + _counted_forward(
        parts.variant,
        frozen(parts.transformer.config),
        parts.transformer.patch_embedding.weight.dtype,
        shape,
        batch,
        parts.max_text_tokens,
        own_prefix=parts.defaults.prefix_attention == OWN,
        prefix_frames=clean_prefix_frames(parts, spec),
        fast=(settings.element_wise, next(iter(formats), "")) if settings.forward == "fast" else None,
    )


def _hint_bytes(parts: WanParts, tokens: int, settings: DenoiseSettings) -> int:
    """Of a control branch what the count of few blocks lacks: the library keeps the hint of each block to
    the end, a compiled forward its stream and one hint."""
    config = parts.transformer.config
    layers = config.get("vace_layers") or ()
    width = config.num_attention_heads * config.attention_head_dim
    hint = int(tokens * width * parts.transformer.patch_embedding.weight.element_size())
    if settings.forward == "library":
        return hint * len([layer for layer in layers if layer >= COUNTED_BLOCKS])
    return 2 * hint if layers and is_compiled(settings, parts.device) else 0


def text_bytes(parts: WanParts, batch: int, settings: DenoiseSettings) -> int:
    """What a job keeps of its text: embeddings, or the keys and values of every block."""
    config, element = parts.transformer.config, parts.transformer.patch_embedding.weight.element_size()
    tokens = batch * parts.max_text_tokens * element
    if settings.forward == "library":
        return int(tokens * config.text_dim)
    num_blocks = config.num_layers + len(config.get("vace_layers") or ())
    return int(tokens * 2 * num_blocks * config.num_attention_heads * config.attention_head_dim)


def prefix_bytes(
    parts: WanParts, spec: VideoSpec, settings: DenoiseSettings, *, guided: bool, exported: bool = False
) -> int:
    """What a job keeps of its prefix: keys and values of every block, of one row where the prefix looks at
    itself alone, exported or not, and of each row of guidance where they are read in several steps."""
    own = parts.defaults.prefix_attention == OWN
    is_fast = settings.forward != "library"
    if not (own and (is_fast or exported)) and not (is_fast and settings.prefix_kept > 0):
        return 0
    config, element = parts.transformer.config, parts.transformer.patch_embedding.weight.element_size()
    shape = latent_shape(parts.vae, spec)
    tokens = num_tokens(parts, shape) // shape[2] * clean_prefix_frames(parts, spec)
    rows = 2 if guided and not own else 1
    width = config.num_attention_heads * config.attention_head_dim
    return int(rows * tokens * 2 * element * config.num_layers * width)


def compiled_bytes(parts: WanParts, tokens: int) -> int:
    """Of width d and feed-forward width m, a token: in the attention 9 d e, or 7.5 d e where it reads 8-bit
    layers; in the feed-forward m e and 4 d e, or m (e + 1) and 3 d e. Measured on an H200 with models of
    1.3B, 5B and 14B, in which these are within 2 %."""
    config, eight_bit = parts.transformer.config, bool(_formats(parts.transformer))
    element = parts.transformer.patch_embedding.weight.element_size()
    width = config.num_attention_heads * config.attention_head_dim
    attention = (7.5 if eight_bit else 9) * width * element
    feed_forward = config.ffn_dim * (element + eight_bit) + (3 if eight_bit else 4) * width * element
    return int(tokens * max(attention, feed_forward))


def _formats(transformer: Any) -> list[str]:
    return [module.format for module in transformer.modules() if isinstance(module, QuantizedLinear)]


@functools.lru_cache(maxsize=64)
def _counted_forward(
    variant: Variant,
    config: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    batch: int,
    text_tokens: int,
    *,
    own_prefix: bool,
    prefix_frames: int,
    fast: tuple[str, str] | None,
) -> int:
    """`fast`: form of the element-wise steps and the 8-bit format, or ""; None: the library's forward."""
    values: dict[str, Any] = json.loads(config)
    values["num_layers"] = min(int(values["num_layers"]), COUNTED_BLOCKS)
    if layers := values.get("vace_layers"):
        values["vace_layers"] = [layer for layer in layers if layer < values["num_layers"]]
    transformer: Any = without_values(variant.transformer_class, values, dtype).eval()
    if own_prefix:
        use_own_prefix(transformer, prefix_frames, shape[2])
    _, patch_h, patch_w = transformer.config.patch_size
    time = PrefixTimestep(
        value=500.0,
        prefix_frames=prefix_frames,
        latent_frames=shape[2],
        tokens_per_frame=(shape[3] // patch_h) * (shape[4] // patch_w),
    )
    family = variant.family(transformer)
    denoiser: Any = family.library_denoiser() if fast is None else _fast(family, *fast)
    channels = values["in_channels"] + (values.get("vace_in_channels") or 0)
    latents = torch.empty(shape[0], channels, *shape[2:], device="meta")
    width = int(values["text_dim"])
    text = denoiser.prepare(torch.empty(batch, text_tokens, width, device="meta", dtype=dtype))
    return peak_bytes(lambda: denoiser(latents, time, text, branch=BOTH if batch == 2 else COND))


def _fast(family: Family[Any], element_wise: str, format: str) -> Any:
    recipe, transformer = family.recipe, family.transformer
    blocks: Any = getattr(transformer, recipe.blocks)
    if format and len(blocks) > recipe.num_first_kept + recipe.num_last_kept:
        formats = surgery.plan(transformer, recipe, format)
        surgery.quantize_linears(transformer, recipe, format, expect=len(formats))
    attention = BoundAttention(name="counted", run=lambda q, k, v, *, scale: torch.empty_like(q))
    parts = Parts(
        element_wise=bind("run" if element_wise == "ours" else "plain"),
        attention=attention,
        quantized_attention=None,
        cross_attention=attention,
    )
    return family.denoiser(family.fast_forward(parts), None, graphs=False)
