"""A diffusers folder of the Wan family -> checked components, defaults and the video shape they make.

Knows no prompt and runs no model. Invariant: what `read_folder` returns fits together; the weights are
complete (a missing tensor is an error, never a random one) and in the asked dtype except for the library's
fp32 islands.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from transformers import T5EncoderModel, UMT5EncoderModel

from engine.denoise.lora_grid import AFTER_SHIFT, BEFORE_SHIFT, Grid
from engine.denoise.sampler import NUM_TRAIN_TIMESTEPS
from engine.errors import ModelError, unknown_name
from engine.generators.wan.components import (
    COMPLETE,
    CONFIG_FILES,
    outline,
    place,
    place_text,
    read_json_object,
    read_on_host,
    read_weights,
    refusing,
    unfit,
)
from engine.generators.wan.own_prefix import use_own_prefix
from engine.generators.wan.settings import OWN, WanDefaults
from engine.generators.wan.vae import TEMPORAL_STRIDE, use_channels_last
from engine.machine.tokenizer import read_tokenizer
from engine.settings.sidecars import SIDECAR, read_sidecar, refuse_adapters
from engine.types import VideoSpec
from kernels.descriptors import DTYPES, torch_dtype

PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")
SCHEDULERS = {
    "UniPCMultistepScheduler": UniPCMultistepScheduler,
    "FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler,
}
REFUSED_SETTINGS = (
    "use_dynamic_shifting",
    "use_karras_sigmas",
    "use_beta_sigmas",
    "use_exponential_sigmas",
    "thresholding",
    "stochastic_sampling",
    "invert_sigmas",
)
"""Scheduler settings that silently override the flow shift, or are not linear in the velocities."""

SHIFTS = {"UniPCMultistepScheduler": "flow_shift", "FlowMatchEulerDiscreteScheduler": "shift"}
"""The flow shift s' = shift s / (1 + (shift - 1) s) by the name that each class reads; the library
ignores the other one's name."""
GRID_WORDS = ("shift", "sigma", "timestep")

TEXT_ENCODERS = {"umt5": UMT5EncoderModel, "t5": T5EncoderModel}
MAX_TEXT_TOKENS = 512
"""What the published Wan models were trained with; a tokenizer may set a smaller limit."""

_ADAPTER = "move it out of the folder and name it with --lora FILE, if a run shall have it"


@dataclass(frozen=True, slots=True, kw_only=True)
class WanParts:
    """The loaded components of one folder, on one device, in evaluation mode."""

    folder: Path
    device: torch.device
    transformer: WanTransformer3DModel
    vae: AutoencoderKLWan
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    defaults: WanDefaults
    spec: VideoSpec
    max_text_tokens: int
    streamed: frozenset[str] = frozenset()
    """Of "text_encoder" and "blocks", what stays on the host."""


def read_folder(
    folder: Path,
    device: str,
    dtype: str,
    *,
    with_weights: bool = True,
    with_transformer: bool = True,
    streamed: frozenset[str] = frozenset(),
) -> WanParts:
    """Load a Wan folder with per-token timesteps from local files only.

    Without weights the modules have shapes only (device meta): enough for the spec and the footprint. Without
    the transformer's the others are whole: an exported form stands in for it. `streamed`: "text_encoder" and
    "blocks" stay on the host, and visit the device.

    Raises ModelError when a component is missing or incomplete, or when they are not of one such model.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    target, weight_dtype = torch.device(device), torch_dtype(dtype)
    _check_index(folder)
    refuse_adapters(folder, ("transformer", "text_encoder"), fix=_ADAPTER)
    scheduler = _read_scheduler(folder)
    with_weights_at = functools.partial(read_weights, device=target)
    read_part = with_weights_at if with_weights else outline
    with_transformer &= with_weights
    read_transformer = with_weights_at if with_transformer else outline
    transformer = read_transformer(folder, "transformer", WanTransformer3DModel, weight_dtype)
    vae = read_part(folder, "vae", AutoencoderKLWan, weight_dtype)
    read_text = read_on_host if with_weights and "text_encoder" in streamed else read_part
    text_encoder = read_text(folder, "text_encoder", _text_encoder_class(folder), weight_dtype)
    tokenizer = refusing(folder, "tokenizer", lambda: read_tokenizer(folder / "tokenizer"))
    use_channels_last(vae)
    defaults = _on_the_grid(folder, read_sidecar(folder, WanDefaults), scheduler)
    _check_fit(folder, transformer, vae, text_encoder)
    if defaults.prefix_attention == OWN:
        prefix = 1 - (1 - defaults.prefix_frames) // TEMPORAL_STRIDE  # latent frames, the first one padded
        use_own_prefix(transformer, prefix, prefix + defaults.num_frames // TEMPORAL_STRIDE)
    for part in (transformer, vae, text_encoder):
        part.eval().requires_grad_(False)
    if with_weights:
        vae.to(target)
        place_text(text_encoder, target, streamed="text_encoder" in streamed)
    if with_transformer:
        place(transformer, transformer.blocks, target, streamed="blocks" in streamed)
    return WanParts(
        folder=folder,
        device=target,
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        streamed=streamed,
        tokenizer=tokenizer,
        scheduler=scheduler,
        defaults=defaults,
        spec=_spec(folder, defaults, transformer, vae),
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
    )
    return dataclasses.replace(parts, defaults=_on_the_grid(parts.folder, defaults, parts.scheduler))


def _check_index(folder: Path) -> None:
    index = read_json_object(folder / "model_index.json")
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise unfit(folder, "model_index.json", f"pipeline {pipeline!r}", " or ".join(PIPELINES))
    if not index.get("expand_timesteps"):
        raise unfit(folder, "model_index.json", "no expand_timesteps", "a model with per-token timesteps")
    if index.get("boundary_ratio") is not None:
        raise unfit(folder, "model_index.json", "two transformers (boundary_ratio)", "one transformer")
    for component, config_name in CONFIG_FILES.items():
        if not (folder / component / config_name).is_file():
            raise ModelError(
                f"{folder} lacks the component {component}: no {component}/{config_name}", fix=COMPLETE
            )


def _read_scheduler(folder: Path) -> Any:
    config = read_json_object(folder / "scheduler" / CONFIG_FILES["scheduler"])
    name = str(config.get("_class_name"))
    if name not in SCHEDULERS:
        raise unfit(folder, "scheduler", name, " or ".join(SCHEDULERS))
    read = inspect.signature(SCHEDULERS[name].__init__).parameters
    unread = [key for key in config if key not in read and any(word in key for word in GRID_WORDS)]
    if unread:
        raise unfit(
            folder,
            "scheduler",
            f"{', '.join(unread)}, which {name} does not read",
            f"{SHIFTS[name]} for the flow shift",
        )
    scheduler = SCHEDULERS[name].from_config(config)
    refused = [setting for setting in REFUSED_SETTINGS if scheduler.config.get(setting)]
    if name == "UniPCMultistepScheduler" and not (
        scheduler.config.use_flow_sigmas and scheduler.config.prediction_type == "flow_prediction"
    ):
        refused.append("no flow sigmas or no flow prediction")
    if refused:
        raise unfit(
            folder, "scheduler", f"{name} with {', '.join(refused)}", "plain flow sigmas with a shift"
        )
    return scheduler


def _text_encoder_class(folder: Path) -> Any:
    encoder_type = str(read_json_object(folder / "text_encoder" / "config.json").get("model_type"))
    if encoder_type not in TEXT_ENCODERS:
        raise unfit(folder, "text_encoder", f"model_type {encoder_type!r}", " or ".join(TEXT_ENCODERS))
    return TEXT_ENCODERS[encoder_type]


def _on_the_grid(folder: Path, defaults: WanDefaults, scheduler: Any) -> WanDefaults:
    """The timesteps as the model sees them. ModelError where it is not said whether the shift is in them."""
    if defaults.timesteps is None:
        return defaults
    _check_falling(folder, defaults.timesteps)
    shift = float(scheduler.config[SHIFTS[type(scheduler).__name__]] or 1.0)
    if defaults.timesteps_are is None and shift != 1.0:
        raise unfit(
            folder,
            SIDECAR,
            f"timesteps beside a flow shift of {shift:g}, and does not say what timesteps_are",
            f"timesteps_are {BEFORE_SHIFT!r} or {AFTER_SHIFT!r} (LightX2V, Self-Forcing: before shift)",
        )
    if defaults.timesteps_are != BEFORE_SHIFT:
        return defaults
    shares = [timestep / NUM_TRAIN_TIMESTEPS for timestep in defaults.timesteps]
    shifted = tuple(NUM_TRAIN_TIMESTEPS * shift * s / (1 + (shift - 1) * s) for s in shares)
    return dataclasses.replace(defaults, timesteps=shifted, timesteps_are=AFTER_SHIFT)


def _check_falling(folder: Path, timesteps: Sequence[float]) -> None:
    """From 1000, since a job starts from noise alone, to above 0."""
    falling = all(before > after for before, after in itertools.pairwise([*timesteps, 0.0]))
    if not falling or not timesteps or timesteps[0] != NUM_TRAIN_TIMESTEPS:
        raise ModelError(
            f"{folder / SIDECAR}: timesteps = {list(timesteps)} is not a falling list from "
            f"{NUM_TRAIN_TIMESTEPS} to above 0",
            fix="give such as [1000, 750, 500, 250], or leave it out for a model that was not distilled",
        )


def _spec(folder: Path, defaults: WanDefaults, transformer: Any, vae: Any) -> VideoSpec:
    patch_px = transformer.config.patch_size[1]
    multiple = vae.config.scale_factor_spatial * patch_px
    for side, pixels in (("width", defaults.width), ("height", defaults.height)):
        if pixels < multiple or pixels % multiple:
            raise unfit(folder, SIDECAR, f"{side} {pixels}", f"a multiple of {multiple}")
    if defaults.num_frames % TEMPORAL_STRIDE:
        raise unfit(folder, SIDECAR, f"num_frames {defaults.num_frames}", f"a multiple of {TEMPORAL_STRIDE}")
    return VideoSpec(
        width=defaults.width,
        height=defaults.height,
        fps=defaults.fps,
        prefix_frames=defaults.prefix_frames,
        num_frames=defaults.num_frames,
    )


def _check_fit(folder: Path, transformer: Any, vae: Any, text_encoder: Any) -> None:
    patch = tuple(transformer.config.patch_size)
    if patch[0] != 1 or patch[1] != patch[2]:
        raise unfit(folder, "transformer", f"patch_size {patch}", "(1, p, p)")
    channels = (transformer.config.in_channels, transformer.config.out_channels)
    if channels != (vae.config.z_dim, vae.config.z_dim):
        raise unfit(
            folder, "transformer", f"channels {channels}", f"the {vae.config.z_dim} of the vae, twice"
        )
    if transformer.config.text_dim != text_encoder.config.d_model:
        found = f"text_dim {transformer.config.text_dim}"
        raise unfit(
            folder, "transformer", found, f"the d_model {text_encoder.config.d_model} of text_encoder"
        )
