"""A diffusers folder of the Cosmos3 family -> checked components, defaults and the video shape they make.

Knows no prompt and runs no model. Invariant: what `read_folder` returns fits together, and weights are whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, Cosmos3OmniTransformer, UniPCMultistepScheduler

from engine.autoencoder.vae import use_channels_last
from engine.denoise.take import video_spec
from engine.errors import ModelError, unknown_name
from engine.generators.cosmos3.prompt import VISION_START
from engine.generators.cosmos3.schedule import scheduler_of
from engine.generators.cosmos3.settings import FOLDER, ON, Cosmos3Defaults
from engine.generators.cosmos3.towers import drop_idle, place
from engine.machine.pipeline_folder import outline_component, read_component, read_object, refusing
from engine.machine.tokenizer import read_tokenizer
from engine.settings.sidecars import SIDECAR, read_sidecar, refuse_adapters
from engine.types import VideoSpec
from engine.words import counted
from kernels.descriptors import DTYPES, torch_dtype

PIPELINES = ("Cosmos3OmniPipeline", "Cosmos3OmniDiffusersPipeline")
KIND = "a diffusers folder of the Cosmos3 family"
_ADAPTER = "move it out of the folder and name it with --lora FILE, if a run shall have it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosmos3Parts:
    """The loaded components of one folder, in evaluation mode."""

    folder: Path
    device: torch.device
    transformer: Any  # Cosmos3OmniTransformer without what a take never reads
    vae: AutoencoderKLWan
    tokenizer: Any  # of the text
    scheduler: UniPCMultistepScheduler
    defaults: Cosmos3Defaults
    spec: VideoSpec
    system_prompt: bool
    streamed: frozenset[str] = frozenset()
    """Of "text_encoder" and "blocks", what stays on the host."""

    @property
    def max_text_tokens(self) -> int:
        return self.defaults.max_text_tokens

    @property
    def patch_px(self) -> int:
        """Latent pixels of a token, each way."""
        return int(self.transformer.config.latent_patch_size)


def read_folder(
    folder: Path,
    device: str,
    dtype: str,
    *,
    with_weights: bool = True,
    streamed: frozenset[str] = frozenset(),
    words: bool = False,
) -> Cosmos3Parts:
    """Load a Cosmos3 folder from local files only.

    Without weights the modules have shapes only (device meta). `streamed`: "text_encoder" and "blocks" stay
    on the host, and visit the device. `words`: the text tower keeps what makes words, for a critic.

    Raises ModelError when a component is missing or incomplete, or when they are not of one such model.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    target, weight_dtype = torch.device(device), torch_dtype(dtype)
    index = read_object(folder / "model_index.json", kind=KIND)
    _check_index(folder, index)
    refuse_adapters(folder, ("transformer",), fix=_ADAPTER)
    defaults = read_sidecar(folder, Cosmos3Defaults)
    scheduler = scheduler_of(
        folder, read_object(folder / "scheduler" / "scheduler_config.json", kind=KIND), defaults.flow_shift
    )
    read = read_component if with_weights else outline_component
    transformer = read(folder, "transformer", Cosmos3OmniTransformer, weight_dtype)
    vae = read(folder, "vae", AutoencoderKLWan, weight_dtype)
    tokenizer = refusing(folder, "text_tokenizer", lambda: read_tokenizer(folder / "text_tokenizer"))
    use_channels_last(vae)
    _check_fit(folder, transformer, vae, tokenizer)
    drop_idle(transformer, words=words)
    for part in (transformer, vae):
        part.eval().requires_grad_(False)
    if with_weights:
        vae.to(target)
        place(transformer, target, streamed)
    return Cosmos3Parts(
        folder=folder,
        device=target,
        transformer=transformer,
        vae=vae,
        tokenizer=tokenizer,
        scheduler=scheduler,
        defaults=defaults,
        spec=_spec(folder, defaults, vae),
        system_prompt=_system_prompt(defaults, index),
        streamed=streamed,
    )


def _check_index(folder: Path, index: dict[str, Any]) -> None:
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise _unfit(folder, "model_index.json", f"pipeline {pipeline!r}", " or ".join(PIPELINES))
    stated = read_object(folder / "transformer" / "config.json", kind=KIND).get("quantization_config")
    if stated is not None:
        method = stated.get("quant_method", "unknown") if isinstance(stated, dict) else stated
        raise ModelError(
            f"{folder}: the transformer is quantized already ({method}), which is not read",
            fix="take the folder in bf16: denoise.linear and preset fast quantize it here",
        )


def _system_prompt(defaults: Cosmos3Defaults, index: dict[str, Any]) -> bool:
    if defaults.system_prompt == FOLDER:
        return bool(index.get("default_use_system_prompt", True))
    return defaults.system_prompt == ON


def _check_fit(folder: Path, transformer: Any, vae: Any, tokenizer: Any) -> None:
    config = transformer.config
    if config.latent_channel != vae.config.z_dim:
        found = f"latent_channel {config.latent_channel}"
        raise _unfit(folder, "transformer", found, f"the z_dim {vae.config.z_dim} of the vae")
    if config.patch_latent_dim != config.latent_channel * config.latent_patch_size**2:
        found = f"patch_latent_dim {config.patch_latent_dim}"
        raise _unfit(folder, "transformer", found, "latent_channel times the square of latent_patch_size")
    if tokenizer.chat_template is None:
        raise _unfit(folder, "text_tokenizer", "no chat template", "that of the published folder")
    start = tokenizer.convert_tokens_to_ids(VISION_START)
    if start is None or start == tokenizer.unk_token_id or tokenizer.eos_token_id is None:
        raise _unfit(folder, "text_tokenizer", f"no {VISION_START} or no end token", "both")
    if len(tokenizer) > config.vocab_size:
        found = f"{counted(len(tokenizer), 'token')}"
        raise _unfit(folder, "text_tokenizer", found, f"at most the vocab_size {config.vocab_size}")


def _spec(folder: Path, defaults: Cosmos3Defaults, vae: Any) -> VideoSpec:
    multiple = int(vae.config.scale_factor_spatial)
    return video_spec(
        defaults, multiple=multiple, unfit=lambda found, allowed: _unfit(folder, SIDECAR, found, allowed)
    )


def _unfit(folder: Path, component: str, found: str, allowed: str) -> ModelError:
    return ModelError(
        f"{folder}: {component} has {found}; the cosmos3 family needs {allowed}",
        fix="use a folder of Cosmos3 Edge, Nano or Super, or correct this one",
    )
