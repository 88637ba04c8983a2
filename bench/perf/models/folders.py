"""Makes the folders of generators: classes of the library with random weights, on the device; and a LoRA.

Speed and memory do not depend on the weights, so nothing here may be read as a result of a published model.
Invariant: a folder that is there is whole.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from safetensors.torch import save_file
from torch import nn

from bench.perf.denoisers.base import random_weights
from bench.perf.end_to_end import models as parts
from bench.perf.end_to_end.made import CLIPS, CRITIC
from bench.perf.locks import locked, locked_if_free
from bench.perf.models.sizes import ANYFLOW, TI2V, VACE, Model, Size
from engine.generators.wan.wan22_vae import WAN22_LAYOUT

KINDS: dict[str, tuple[Any, Any]] = {
    TI2V: (WanImageToVideoPipeline, WanTransformer3DModel),
    ANYFLOW: (AnyFlowFARPipeline, AnyFlowFARTransformer3DModel),
    VACE: (WanVACEPipeline, WanVACETransformer3DModel),
}
RANK, LORA_FILE = 32, "lora.safetensors"
LORA_SIZE = 0.02
"""Deviation of both factors: a change that a take shows, and no number that overflows."""
SPARE_BYTES = 4 * 2**30
LOCKS = ".locks"


@contextmanager
def made(folder: Path, size: Size, model: Model, device: torch.device) -> Iterator[Path]:
    """The folder of `model`; with it the critic, and one clip as large as a take. Nobody removes it inside.

    On a disk that cannot hold all, generators that were made before and are not measured make room. Processes
    on several GPUs may share `folder`.
    """
    shape, locks = model.sidecar, folder / LOCKS
    around = dataclasses.replace(size.around, clip_width=shape["width"], clip_height=shape["height"])
    with locked(locks / CRITIC):
        parts.make_clip(folder / CLIPS / "clip.mp4", 0, around)
        parts.once(folder / CRITIC, lambda place: parts.make_critic(place, size.around, device))
    place = folder / model.name
    with locked(locks / model.name):
        if not place.is_dir():
            _make_room(folder, model)
        parts.once(place, lambda part: _make(part, size, model, device))
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with locked(locks / model.name, shared=True):
        yield place


def _make_room(folder: Path, model: Model) -> None:
    with torch.device("meta"):
        transformer = KINDS[model.name][1](**model.transformer)
    needed = SPARE_BYTES + sum(2 * parameter.numel() for parameter in transformer.parameters())
    for other in KINDS:
        if shutil.disk_usage(folder).free >= needed:
            return
        with locked_if_free(folder / LOCKS / other) as is_free:
            if is_free and (folder / other).is_dir():
                print(f"{folder / other} makes room for {model.name}", flush=True)
                shutil.rmtree(folder / other)


def _make(folder: Path, size: Size, model: Model, device: torch.device) -> None:
    pipeline_class, transformer_class = KINDS[model.name]
    transformer: Any = random_weights(transformer_class, model.transformer, device)
    if device.type == "cpu":
        transformer = transformer.float()
    tokenizer, encoder = parts.make_text_encoder(size.around.text_encoder, device)
    layout = {"layout": WAN22_LAYOUT if model.wan22_vae else {}}
    scheduler: Any = UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0
    )
    if model.name == ANYFLOW:
        scheduler = FlowMapEulerDiscreteScheduler(shift=5.0)
    pipeline = pipeline_class(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=parts.make_autoencoder(model.vae, device, **layout),
        transformer=transformer,
        scheduler=scheduler,
        **({"expand_timesteps": True} if model.name == TI2V else {}),
    )
    pipeline.save_pretrained(folder, max_shard_size=parts.SHARD)
    (folder / "retake.json").write_text(json.dumps(dict(model.sidecar)), encoding="utf-8")
    save_file(_lora(transformer), folder / LORA_FILE)


def _lora(transformer: nn.Module) -> dict[str, torch.Tensor]:
    """Of rank RANK for every linear layer of every block, in the names of diffusers."""
    tensors: dict[str, torch.Tensor] = {}
    source = torch.Generator().manual_seed(0)
    for name, linear in transformer.named_modules():
        if not isinstance(linear, nn.Linear) or "blocks." not in name:
            continue
        shapes = {"lora_A": (RANK, linear.in_features), "lora_B": (linear.out_features, RANK)}
        for factor, shape in shapes.items():
            values = LORA_SIZE * torch.randn(shape, generator=source)
            tensors[f"transformer.{name}.{factor}.weight"] = values.to(torch.bfloat16)
    return tensors
