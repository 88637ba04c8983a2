"""Makes one Cosmos3 folder, generator and critic, of random weights; and a view of it for each video size.

Speed and memory do not depend on the weights, so nothing here may be read as a result of a published model.
Invariant: a folder that is there is whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import Cosmos3OmniPipeline, Cosmos3OmniTransformer, UniPCMultistepScheduler
from safetensors import safe_open
from transformers import Cosmos3OmniConfig, Qwen3VLTextConfig, Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from bench.perf.cosmos3.sizes import PREFIX_FRAMES, Size
from bench.perf.denoisers.base import random_weights
from bench.perf.end_to_end import reply
from bench.perf.end_to_end.models import SHARD, chain, dtype_on, make_autoencoder, on, once
from bench.perf.end_to_end.sizes import FPS

MODEL = "cosmos3"
SAME = (
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("vocab_size", "hidden_size", "intermediate_size"),
)
"""Of the text tower, by the names that both libraries have for it."""


def make(folder: Path, size: Size, device: torch.device) -> Path:
    """The folder with the weights, made unless it is there."""
    place = folder / f"{MODEL}-{size.name}"
    once(place, lambda part: _make(part, size, device))
    return place


def view(model: Path, size: Size, part: str, *, steps: int) -> Path:
    """A folder of links to the weights with settings of its own: those of one video size."""
    place = model.parent / f"{model.name}-{part}"
    place.mkdir(exist_ok=True)
    for path in model.iterdir():
        link = place / path.name
        if not link.is_symlink():
            link.symlink_to(path.absolute(), target_is_directory=path.is_dir())
    width, height = size.videos[part]
    settings = {
        "fps": FPS,
        "width": width,
        "height": height,
        "prefix_frames": PREFIX_FRAMES,
        "num_frames": size.num_frames,
        "num_inference_steps": steps,
        "structured_prompt": False,  # the pipeline beside it reads the same sentence
        "negative_metadata": "inverse",
        "critic": dict(size.critic),
    }
    (place / "retake.json").write_text(json.dumps(settings), encoding="utf-8")
    return place


def _make(folder: Path, size: Size, device: torch.device) -> None:
    tokenizer, replies = reply.critic_tokenizer(size.reply_tokens)
    ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in reply.SPECIALS}
    transformer: Any = random_weights(Cosmos3OmniTransformer, size.transformer, device)
    if device.type == "cpu":
        transformer = transformer.float()
    assert len(tokenizer) <= transformer.config.vocab_size, f"{len(tokenizer)} words"
    orders = [[ids[start], *tokens] for start, tokens in replies.items()]
    words = transformer.embed_tokens.weight, transformer.lm_head.weight
    chain(*words, orders, end=ids[reply.END], gain=size.next_token_gain)
    pipeline = Cosmos3OmniPipeline(
        transformer=transformer,
        text_tokenizer=tokenizer,
        vae=make_autoencoder(size.vae, device),
        scheduler=UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
        enable_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    eyes = Qwen3VLVisionConfig(**size.eyes, out_hidden_size=transformer.config.hidden_size)
    with on(device, dtype_on(device)):
        Qwen3VLVisionModel(eyes).save_pretrained(folder / "vision_encoder", max_shard_size=SHARD)
    _reasoner_config(transformer.config, eyes, size, ids).save_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps(_index(folder)), encoding="utf-8")


def _reasoner_config(config: Any, eyes: Any, size: Size, ids: dict[str, int]) -> Any:
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    text = Qwen3VLTextConfig(
        **{name: getattr(config, name) for name in SAME},
        rope_parameters=rope | {"mrope_section": list(size.mrope_section), "mrope_interleaved": True},
        eos_token_id=ids[reply.END],
        pad_token_id=ids[reply.PAD],
    )
    return Cosmos3OmniConfig(
        text_config=text.to_dict(),
        vision_config=eyes.to_dict(),
        image_token_id=ids[reply.IMAGE],
        video_token_id=ids[reply.VIDEO],
        vision_start_token_id=ids[reply.VISION_START],
        vision_end_token_id=ids[reply.VISION_END],
    )


def _index(folder: Path) -> dict[str, Any]:
    """As in the published folders: one index at the top over the shards below."""
    weight_map: dict[str, str] = {}
    for part in ("transformer", "vision_encoder"):
        for path in sorted((folder / part).glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                weight_map |= dict.fromkeys(file.keys(), f"{part}/{path.name}")
    return {"metadata": {}, "weight_map": weight_map}
