"""A diffusers folder of the Wan family -> checked components, defaults and the video shape they make.

Knows no prompt and runs no model. Invariant: what `read_folder` returns fits together; the weights are
complete (a missing tensor is an error, never a random one) and in the asked dtype except for the library's
fp32 islands.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from transformers import T5EncoderModel, UMT5EncoderModel

from engine import plugins
from engine.autoencoder.vae import TEMPORAL_STRIDE, use_channels_last
from engine.denoise.lora_grid import Grid
from engine.denoise.sampler import NUM_TRAIN_TIMESTEPS
from engine.denoise.take import video_spec
from engine.errors import ModelError, unknown_name
from engine.generators.wan.components import (
    CONFIG_FILES,
    outline,
    place,
    place_text,
    read_json,
    read_on_host,
    read_weights,
    unfit,
)
from engine.generators.wan.own_prefix import use_own_prefix
from engine.generators.wan.scheduler import on_the_grid, read_scheduler
from engine.generators.wan.settings import OWN, WanDefaults
from engine.generators.wan.variant import Variant
from engine.machine.pipeline_folder import COMPLETE, refusing
from engine.machine.tokenizer import read_tokenizer
from engine.settings.sidecars import SIDECAR, read_sidecar, refuse_adapters
from engine.types import VideoSpec
from kernels.descriptors import DTYPES, torch_dtype

VARIANTS = "engine.generators.wan.variants"
TRANSFORMERS = ("transformer", "transformer_2")
"""Folders of the one, and where there are two of the expert for the last steps."""
TEXT_ENCODERS = {"umt5": UMT5EncoderModel, "t5": T5EncoderModel}
MAX_TEXT_TOKENS = 512
"""What the published Wan models were trained with; a tokenizer may set a smaller limit."""

_ADAPTER = "move it out of the folder and name it with --lora FILE, if a run shall have it"


@dataclass(frozen=True, slots=True, kw_only=True)
class WanParts:
    """The loaded components of one folder, on one device, in evaluation mode."""

    folder: Path
    device: torch.device
    variant: Variant
    transformers: tuple[Any, ...]
    """One, or the experts for the noisy steps and for the others."""
    boundary: float | None
    """The timestep from which on the first of two works; None: there is one."""
    vae: AutoencoderKLWan
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    defaults: WanDefaults
    spec: VideoSpec
    max_text_tokens: int
    streamed: frozenset[str] = frozenset()
    """Of "text_encoder", "blocks" and "experts", what stays on the host."""

    @property
    def transformer(self) -> Any:
        """The first one: the others have its configuration."""
        return self.transformers[0]


def read_folder(
    folder: Path,
    device: str,
    dtype: str,
    *,
    with_weights: bool = True,
    with_transformer: bool = True,
    streamed: frozenset[str] = frozenset(),
) -> WanParts:
    """Load a folder of the Wan family from local files only.

    Without weights the modules have shapes only (device meta): enough for the spec and the footprint. Without
    the transformer's the others are whole: an exported form stands in for it. `streamed`: "text_encoder" and
    "blocks" stay on the host, and visit the device; with "experts" both transformers are still on the host.

    Raises ModelError when a component is missing or incomplete, or when they are not of one such model.
    """
    target, weight_dtype = torch.device(device), _known_dtype(dtype)
    index = _read_index(folder)
    variant = variant_of(folder, index)
    boundary = _boundary(folder, index)
    refuse_adapters(folder, (*TRANSFORMERS, "text_encoder"), fix=_ADAPTER)
    scheduler = read_scheduler(folder, variant.schedulers)
    read_part = functools.partial(read_weights, device=target) if with_weights else outline
    read_one = read_part if with_transformer else outline
    names = TRANSFORMERS[: 1 if boundary is None else 2]
    transformers = tuple(read_one(folder, name, variant.transformer_class, weight_dtype) for name in names)
    vae = read_part(folder, "vae", AutoencoderKLWan, weight_dtype)
    read_text = read_on_host if with_weights and "text_encoder" in streamed else read_part
    text_encoder = read_text(folder, "text_encoder", _text_encoder_class(folder), weight_dtype)
    tokenizer = refusing(folder, "tokenizer", lambda: read_tokenizer(folder / "tokenizer"))
    use_channels_last(vae)
    defaults = on_the_grid(folder, read_sidecar(folder, WanDefaults, variant.defaults), scheduler)
    _check_fit(folder, transformers, text_encoder, defaults)
    _check_statistics(folder, vae)
    spec = _spec(folder, defaults, transformers[0], vae)
    variant.check(folder, defaults, transformers[0], vae)
    _use_prefix_attention(folder, variant, transformers, defaults)
    for part in (*transformers, vae, text_encoder):
        part.eval().requires_grad_(False)
    if with_weights:
        vae.to(target)
        place_text(text_encoder, target, streamed="text_encoder" in streamed)
    if with_weights and with_transformer:
        _place_transformers(transformers, target, streamed)
    return WanParts(
        folder=folder,
        device=target,
        variant=variant,
        transformers=transformers,
        boundary=boundary,
        vae=vae,
        text_encoder=text_encoder,
        streamed=streamed,
        tokenizer=tokenizer,
        scheduler=scheduler,
        defaults=defaults,
        spec=spec,
        max_text_tokens=min(int(tokenizer.model_max_length), MAX_TEXT_TOKENS),
    )


def on_the_grid_of(parts: WanParts, grid: Grid | None) -> WanParts:
    """With steps and the guidance that a LoRA was distilled for; ModelError where the folder has its own."""
    if grid is None:
        return parts
    if parts.defaults.timesteps is not None:
        raise ModelError(
            f"{parts.folder} was distilled for its own steps, and a LoRA brings others",
            fix="leave that LoRA out, or take the model before its distillation",
        )
    defaults = dataclasses.replace(
        parts.defaults,
        timesteps=grid.timesteps,
        timesteps_are=grid.timesteps_are,
        guidance_scale=grid.guidance_scale,
        guidance_scale_2=None,
    )
    return dataclasses.replace(parts, defaults=on_the_grid(parts.folder, defaults, parts.scheduler))


def _place_transformers(transformers: Sequence[Any], device: torch.device, streamed: frozenset[str]) -> None:
    """On the device but for what is streamed: experts are brought there one after the other, by whoever has
    them take turns."""
    for transformer in () if "experts" in streamed else transformers:
        place(transformer, transformer.blocks, device, streamed="blocks" in streamed)


def _known_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    return torch_dtype(name)


def variant_of(folder: Path, index: Mapping[str, Any]) -> Variant:
    """By the pipeline of model_index.json. ModelError where none of ours continues a prefix with it."""
    pipeline = index.get("_class_name")
    per_token = bool(index.get("expand_timesteps"))
    names = {
        "WanPipeline": "ti2v" if per_token else "",
        "WanImageToVideoPipeline": "ti2v" if per_token else "i2v",
        "WanVACEPipeline": "vace",
        "AnyFlowFARPipeline": "anyflow",
    }
    if pipeline not in names:
        raise unfit(folder, "model_index.json", f"pipeline {pipeline!r}", " or ".join(names))
    if not names[pipeline]:
        found = f"{pipeline} without expand_timesteps, which continues no prefix"
        raise unfit(folder, "model_index.json", found, "a model that sees the prefix, such as TI2V or I2V")
    variant: Variant = plugins.load(VARIANTS, names[pipeline]).VARIANT
    return variant


def _read_index(folder: Path) -> dict[str, Any]:
    index = read_json(folder / "model_index.json")
    given = index.get(TRANSFORMERS[1])
    has_second = isinstance(given, list) and given[:1] not in ([None], [])
    if has_second != (index.get("boundary_ratio") is not None):
        found, lacking = ("transformer_2", "boundary_ratio")[:: 1 if has_second else -1]
        raise unfit(folder, "model_index.json", f"{found} without {lacking}", "both, or none")
    components = [*CONFIG_FILES, *TRANSFORMERS[1:]] if has_second else [*CONFIG_FILES]
    for component in components:
        config_name = CONFIG_FILES.get(component, CONFIG_FILES["transformer"])
        if not (folder / component / config_name).is_file():
            raise ModelError(
                f"{folder} lacks the component {component}: no {component}/{config_name}", fix=COMPLETE
            )
    return index


def _boundary(folder: Path, index: Mapping[str, Any]) -> float | None:
    ratio = index.get("boundary_ratio")
    if ratio is None:
        return None
    if not isinstance(ratio, int | float) or not 0.0 < ratio < 1.0:
        raise unfit(folder, "model_index.json", f"boundary_ratio {ratio!r}", "a number between 0 and 1")
    return float(ratio) * NUM_TRAIN_TIMESTEPS


def _use_prefix_attention(
    folder: Path, variant: Variant, transformers: Sequence[Any], spec: WanDefaults
) -> None:
    if spec.prefix_attention != OWN:
        return
    if not variant.conditioning.clean_prefix:
        raise unfit(folder, SIDECAR, f"prefix_attention {OWN!r}", f"none: {variant.name} has no clean prefix")
    prefix = 1 - (1 - spec.prefix_frames) // TEMPORAL_STRIDE  # latent frames, the first one padded
    for transformer in transformers:
        use_own_prefix(transformer, prefix, prefix + spec.num_frames // TEMPORAL_STRIDE)


def _text_encoder_class(folder: Path) -> Any:
    encoder_type = str(read_json(folder / "text_encoder" / "config.json").get("model_type"))
    if encoder_type not in TEXT_ENCODERS:
        raise unfit(folder, "text_encoder", f"model_type {encoder_type!r}", " or ".join(TEXT_ENCODERS))
    return TEXT_ENCODERS[encoder_type]


def _spec(folder: Path, defaults: WanDefaults, transformer: Any, vae: Any) -> VideoSpec:
    patch_px = transformer.config.patch_size[1]
    multiple = vae.config.scale_factor_spatial * patch_px
    return video_spec(
        defaults, multiple=multiple, unfit=lambda found, allowed: unfit(folder, SIDECAR, found, allowed)
    )


def _check_statistics(folder: Path, vae: Any) -> None:
    """Of the latents, by channel: a shorter list would be spread over all of them."""
    channels = vae.config.z_dim
    for name, low in (("latents_mean", -math.inf), ("latents_std", 0.0)):
        values = vae.config[name]
        is_whole = isinstance(values, list | tuple) and len(values) == channels
        if not is_whole or not all(isinstance(one, int | float) and low < one < math.inf for one in values):
            above = " above 0" if low == 0.0 else ""
            raise unfit(folder, "vae", f"{name} {values}", f"{channels} numbers{above}")


def _check_fit(folder: Path, transformers: Sequence[Any], text_encoder: Any, defaults: WanDefaults) -> None:
    if defaults.guidance_scale_2 is not None and len(transformers) == 1:
        raise unfit(folder, SIDECAR, "guidance_scale_2 for one transformer", "none, or two transformers")
    config = transformers[0].config
    patch = tuple(config.patch_size)
    if patch[0] != 1 or patch[1] != patch[2]:
        raise unfit(folder, "transformer", f"patch_size {patch}", "(1, p, p)")
    if config.text_dim != text_encoder.config.d_model:
        found, width = f"text_dim {config.text_dim}", text_encoder.config.d_model
        raise unfit(folder, "transformer", found, f"the d_model {width} of text_encoder")
    for name, other in zip(TRANSFORMERS[1:], transformers[1:], strict=False):
        theirs = dict(other.config)
        differ = [
            key for key, value in config.items() if not key.startswith("_") and theirs.get(key) != value
        ]
        if differ:
            found = f"{', '.join(f'{key} {theirs.get(key)}' for key in differ)}"
            raise unfit(folder, name, found, f"the configuration of {TRANSFORMERS[0]}")
