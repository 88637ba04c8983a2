"""A complete Cosmos3 folder of random weights in the layout of the published ones; no test of its own.

The pipeline's parts in folders of their own; beside them what makes the same weights a reasoner: config.json,
tokenizer, eyes, and an index at the top that points into the folders (NVIDIA/cosmos-framework,
scripts/_convert_model_to_diffusers.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, Cosmos3OmniPipeline, Cosmos3OmniTransformer, UniPCMultistepScheduler
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_vlm import SPECIALS, tiny_tokenizer
from tiny_wan import LATENT_CHANNELS, build_autoencoder
from transformers import Cosmos3OmniConfig, Qwen3VLTextConfig, Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from bench.perf.end_to_end.sizes import WAN22_VAE
from bench.perf.published import COSMOS3_SIZES

EDGE: dict[str, Any] = {
    name: COSMOS3_SIZES["edge"][name] for name in ("hidden_act", "qk_norm_for_text", "use_und_k_norm_for_gen")
}
SIDECAR: dict[str, Any] = {
    "fps": 8.0,
    "width": 64,
    "height": 48,  # 3 latent rows: half a patch is empty, as with 720 lines
    "prefix_frames": 6,
    "num_frames": 8,
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "negative_prompt": "still",
}
REASONER_SIDECAR: dict[str, Any] = {"num_prefix_frames": 2, "num_take_frames": 2, "frame_px": 32}


def transformer(vocabulary: int, layout: dict[str, Any] | None = None) -> Cosmos3OmniTransformer:
    """Random, also in the norms; as the published ones it could make sound and actions too."""
    config: dict[str, Any] = {
        "head_dim": 16,
        "hidden_size": 64,
        "intermediate_size": 128,
        "latent_channel": LATENT_CHANNELS,
        "patch_latent_dim": 4 * LATENT_CHANNELS,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rope_axes_dim": (4, 2, 2),
        "rope_theta": 10000.0,
        "sound_gen": True,
        "sound_dim": 4,
        "action_gen": True,
        "action_dim": 3,
        "num_embodiment_domains": 2,
    }
    made = Cosmos3OmniTransformer(vocab_size=vocabulary, **config | (layout or {})).eval()
    for name, parameter in made.named_parameters():
        if "norm" in name:
            parameter.data = 1 + 0.3 * torch.randn_like(parameter)
    return made.requires_grad_(False)


def vision() -> Qwen3VLVisionConfig:
    return Qwen3VLVisionConfig(
        depth=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        patch_size=8,
        out_hidden_size=64,
        num_position_embeddings=16,
        deepstack_visual_indexes=[0],
    )


def build_folder(folder: Path, *, layout: dict[str, Any] | None = None, **sidecar: Any) -> Path:
    """The pipeline alone: what a generator reads."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    scheduler = UniPCMultistepScheduler(  # as published: Karras' levels would win over any flow shift
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        use_karras_sigmas=True,
        sigma_max=200.0,
        sigma_min=0.147,
    )
    pipeline = Cosmos3OmniPipeline(
        transformer=transformer(len(tokenizer), layout),
        text_tokenizer=tokenizer,
        vae=build_autoencoder(residual=True),
        scheduler=scheduler,
        enable_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    (folder / "retake.json").write_text(json.dumps(SIDECAR | sidecar), encoding="utf-8")
    return folder


def add_reasoner(folder: Path) -> Path:
    """What makes the folder a critic too."""
    tokenizer = tiny_tokenizer()
    ids: dict[str, int] = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}
    text = Qwen3VLTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    config = Cosmos3OmniConfig(
        text_config=text.to_dict(),
        vision_config=vision().to_dict(),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        architectures=["Cosmos3OmniForConditionalGeneration"],
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    Qwen3VLVisionModel(vision()).save_pretrained(folder / "vision_encoder")
    weight_map = {}
    for part in ("transformer", "vision_encoder"):
        for path in sorted((folder / part).glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                weight_map |= {name: f"{part}/{path.name}" for name in file.keys()}  # noqa: SIM118
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def outline_folder(folder: Path, architecture: str, **sidecar: Any) -> Path:
    """A folder of a published size whose files of weights hold none: a plan reads headers at most."""
    with torch.device("meta"):
        made = Cosmos3OmniTransformer(**COSMOS3_SIZES[architecture])
        vae = AutoencoderKLWan(**WAN22_VAE)
    made.save_config(folder / "transformer")
    vae.save_config(folder / "vae")
    UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction").save_pretrained(
        folder / "scheduler"
    )
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "text_tokenizer")
    tokenizer.save_pretrained(folder)
    for path in ("transformer/weights.safetensors", "vae/weights.safetensors", "model.safetensors"):
        save_file({}, folder / path)
    index = {"_class_name": "Cosmos3OmniPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "retake.json").write_text(json.dumps(sidecar), encoding="utf-8")
    _reasoner_config(made.config, tokenizer, architecture).save_pretrained(folder)
    return folder


def _reasoner_config(sizes: Any, tokenizer: Any, architecture: str) -> Any:
    """The text tower as transformers has it, and eyes of Qwen3-VL's size."""
    ids: dict[str, int] = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "head_dim")
    text = Qwen3VLTextConfig(**{name: getattr(sizes, name) for name in names})
    eyes = Qwen3VLVisionConfig(out_hidden_size=sizes.hidden_size)
    config = Cosmos3OmniConfig(
        text_config=text.to_dict(),
        vision_config=eyes.to_dict(),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    if architecture == "edge":
        config.model_type = "cosmos3_edge"
    return config
