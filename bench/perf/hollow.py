"""Folders of published models without their weights: real configurations, and files that state every tensor.

The rest of a file is a hole of the right size, so that a folder of any model is made in seconds and takes no
room. A plan reads headers alone, so it is that of the real folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from bench.perf.end_to_end import reply
from bench.perf.end_to_end.models import critic_config
from bench.perf.end_to_end.sizes import FULL
from bench.perf.published import COSMOS3_PIPELINE, HEIGHT, WIDTH, Critic, Generator
from engine.generators.wan.files import MODEL_INDEX, SCHEDULER, TRANSFORMER, TRANSFORMER_2, VAE, documents

TEXT_ENCODER = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
WEIGHTS = "diffusion_pytorch_model.safetensors"
FAR_SCHEDULER = {"_class_name": "FlowMapEulerDiscreteScheduler", "shift": 5.0}


def hollow(path: Path, model: nn.Module) -> None:
    """A safetensors file of the tensors of `model` in bf16, whose values are a hole."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, parameter in model.named_parameters():
        start, end = end, end + 2 * parameter.numel()
        header[name] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def make_generator(folder: Path, model: Generator) -> None:
    """In the layout of diffusers; its sidecar asks for takes of WIDTH x HEIGHT."""
    with torch.device("meta"):
        transformer = getattr(diffusers, model.transformer_class)(**model.transformer)
        vae = diffusers.AutoencoderKLWan(**model.vae)
    index, scheduler = _documents(model)
    sidecar: dict[str, Any] = {"width": WIDTH, "height": HEIGHT}
    _save(folder / TRANSFORMER, transformer)
    _save(folder / VAE, vae)
    if (index.get(TRANSFORMER_2) or [None])[0]:
        _save(folder / TRANSFORMER_2, transformer)
    if model.pipeline == COSMOS3_PIPELINE:
        tokenizer, _ = reply.critic_tokenizer(FULL.reply_tokens)
        tokenizer.save_pretrained(folder / "text_tokenizer")
    else:
        _make_text_encoder(folder)
        sidecar["clip_prompts"] = True
    (folder / "scheduler").mkdir()
    _write(folder / "scheduler" / "scheduler_config.json", scheduler)
    _write(folder / "model_index.json", index)
    _write(folder / "retake.json", sidecar)


def make_critic(folder: Path, model: Critic) -> None:
    """In the layout of transformers."""
    tokenizer, _ = reply.critic_tokenizer(FULL.reply_tokens)
    config, _ = critic_config(
        getattr(transformers, model.config),
        tokenizer,
        text=model.text,
        vision=model.vision,
        mrope_section=model.mrope_section,
        rotary=model.rotary,
        is_tied=model.is_tied,
    )
    with torch.device("meta"):
        made = transformers.AutoModelForImageTextToText.from_config(config)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    made.generation_config.save_pretrained(folder)
    hollow(folder / "model.safetensors", made)
    tokenizer.save_pretrained(folder)


def _documents(model: Generator) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """model_index.json and the configuration of the scheduler."""
    if model.pipeline is None:
        found = documents({**model.transformer, "_class_name": model.transformer_class})
        return found["model_index.json"], found["scheduler/scheduler_config.json"]
    index = {"_class_name": model.pipeline, TRANSFORMER: ["diffusers", model.transformer_class]}
    if model.pipeline == COSMOS3_PIPELINE:
        return index, SCHEDULER
    scheduler = ["diffusers", FAR_SCHEDULER["_class_name"]]
    return {**MODEL_INDEX, **index, "scheduler": scheduler}, FAR_SCHEDULER


def _make_text_encoder(folder: Path) -> None:
    place = folder / "text_encoder"
    with torch.device("meta"):
        encoder = transformers.UMT5EncoderModel(transformers.UMT5Config(**TEXT_ENCODER))
    place.mkdir()
    encoder.config.save_pretrained(place)
    hollow(place / "model.safetensors", encoder)
    reply.text_tokenizer().save_pretrained(folder / "tokenizer")


def _save(place: Path, part: Any) -> None:
    place.mkdir(parents=True)
    part.save_config(place)
    hollow(place / WEIGHTS, part)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(document)), encoding="utf-8")
