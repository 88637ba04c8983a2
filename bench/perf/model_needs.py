"""What published models need of cards of several sizes, as `retake plan` says it: no weight is needed.

The folders are hollow: real configurations, and weight files whose headers state every tensor and whose rest
is a hole of the right size. A plan reads headers alone, so it is that of the real folder.

    python -m bench.perf.model_needs --out bench/results/model_needs.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.files import write_json
from bench.perf.end_to_end import reply
from bench.perf.end_to_end.models import make_clip
from bench.perf.end_to_end.sizes import FULL, WAN22_VAE
from engine.build.needs import plan_run
from engine.errors import DoesNotFit
from engine.generators.wan.files import MODEL_INDEX, SCHEDULER
from engine.generators.wan.wan22_vae import WAN22_MEAN, WAN22_STD
from engine.machine.cards import CARDS
from engine.machine.memory import GIB
from engine.runs.manifest import surroundings
from engine.settings.config import load_config
from engine.settings.environment import offline

KIND = "model_needs"
GENERATOR = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
PLANNED_CARDS = ("RTX 4080", "RTX 4090", "RTX 5090", "L40S", "H100")
PRESET = "fast"
TEXT_ENCODER = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
SMALL_VISION = {**FULL.vision, "depth": 24, "hidden_size": 1024, "intermediate_size": 4096}
SMALL_VISION |= {"deepstack_visual_indexes": [5, 11, 17]}
CRITICS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], bool]] = {
    "Qwen/Qwen3-VL-2B-Instruct": (
        {
            **FULL.text,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
        },
        SMALL_VISION,
        True,
    ),
    "Qwen/Qwen3-VL-4B-Instruct": (
        {**FULL.text, "hidden_size": 2560, "intermediate_size": 9728},
        SMALL_VISION,
        True,
    ),
    "Qwen/Qwen3-VL-8B-Instruct": (FULL.text, FULL.vision, False),
}
"""Of the text model and the vision tower, as published, and whether the head is the embedding."""


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


def make_generator(folder: Path) -> None:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    statistics = {"latents_mean": list(WAN22_MEAN), "latents_std": list(WAN22_STD)}
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "transformer": WanTransformer3DModel(**FULL.transformer),
            "vae": AutoencoderKLWan(**{**WAN22_VAE, **statistics}),
            "text_encoder": UMT5EncoderModel(UMT5Config(**TEXT_ENCODER)),
        }
    for name, part in parts.items():
        (folder / name).mkdir(parents=True)
        part.config.save_pretrained(folder / name) if name == "text_encoder" else part.save_config(
            folder / name
        )
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        hollow(folder / name / f"{stem}.safetensors", part)
    reply.text_tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(SCHEDULER)))
    (folder / "model_index.json").write_text(json.dumps(dict(MODEL_INDEX)))
    (folder / "retake.json").write_text(json.dumps({"width": 832, "height": 480, "clip_prompts": True}))


def make_critic(folder: Path, text: Mapping[str, Any], vision: Mapping[str, Any], *, tied: bool) -> None:
    from transformers import AutoModelForImageTextToText, Qwen3VLConfig

    tokenizer, _ = reply.critic_tokenizer(FULL.reply_tokens)
    ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in reply.SPECIALS}
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": list(FULL.mrope_section)}
    config = Qwen3VLConfig(
        text_config={
            **text,
            "rope_parameters": rope | {"mrope_interleaved": True},
            "tie_word_embeddings": tied,
            "eos_token_id": ids[reply.END],
            "pad_token_id": ids[reply.PAD],
        },
        vision_config={**vision, "out_hidden_size": text["hidden_size"]},
        image_token_id=ids[reply.IMAGE],
        video_token_id=ids[reply.VIDEO],
        vision_start_token_id=ids[reply.VISION_START],
        vision_end_token_id=ids[reply.VISION_END],
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    hollow(folder / "model.safetensors", model)
    tokenizer.save_pretrained(folder)


def rows(folder: Path) -> list[dict[str, Any]]:
    """One a critic and card: GiB planned and what was changed, or why nothing helps."""
    make_clip(folder / "clips" / "clip.mp4", 0, replace(FULL, clip_width=832, clip_height=480))
    make_generator(folder / "generator")
    found = []
    for name, (text, vision, tied) in CRITICS.items():
        critic = folder / name.rpartition("/")[2]
        make_critic(critic, text, vision, tied=tied)
        for card in PLANNED_CARDS:
            row = {"critic": name, "card": card, "gib": CARDS[card].gib, **_plan(folder, critic, card)}
            print(json.dumps(row), flush=True)
            found.append(row)
    return found


def _plan(folder: Path, critic: Path, card: str) -> dict[str, Any]:
    """With both lanes at once, or where that does not fit with one at a time."""
    found = _planned(folder, critic, card, overlap=True)
    if found["planned_gib"] is None:
        found = _planned(folder, critic, card, overlap=False)
    return found


def _planned(folder: Path, critic: Path, card: str, *, overlap: bool) -> dict[str, Any]:
    settings = {
        "dataset": str(folder / "clips"),
        "out": str(folder / "run"),
        "generator.name": str(folder / "generator"),
        "critic.name": str(critic),
        "denoise.preset": PRESET,
        "dtype": "bf16",
        "schedule.overlap": overlap,
    }
    try:
        needs = plan_run(load_config(None, settings), timed=False, card=CARDS[card])
    except DoesNotFit as error:
        return {"planned_gib": None, "changed": [], "overlap": overlap, "refused": error.fix}
    return {
        "planned_gib": round(needs.memory.required_bytes / GIB, 1),
        "changed": [change.partition(" saves ")[0] for change in needs.changed],
        "overlap": overlap,
        "refused": None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.perf.model_needs", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    offline()
    with tempfile.TemporaryDirectory() as folder:
        found = rows(Path(folder))
    document = {
        "schema": 1,
        "kind": KIND,
        "command": f"python -m bench.perf.model_needs --out {options.out}",
        "manifest": surroundings(),
        "settings": {"generator": GENERATOR, "preset": PRESET, "width": 832, "height": 480},
        "needs": found,
    }
    write_json(options.out, document)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
