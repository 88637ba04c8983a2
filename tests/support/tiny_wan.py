"""A complete Wan folder of random weights, small enough to run in a test; no test of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from engine.generators.wan.wan22_vae import WAN22_LAYOUT
from engine.types import Scenario
from engine.video.files import probe, write_mp4

LATENT_CHANNELS = 4
TEXT_TOKENS = 24
SIDECAR = {
    "fps": 8.0,
    "width": 32,
    "height": 32,
    "prefix_frames": 6,
    "num_frames": 8,
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "negative_prompt": "still",
    "clip_prompts": False,
}


def build_autoencoder(
    *, residual: bool = False, blocks_per_level: int = 1, latents: int = LATENT_CHANNELS
) -> AutoencoderKLWan:
    """The Wan2.1 layout (8x8 pixels per latent), or the residual one of Wan2.2 (16x16).

    The decoder has one block more on each level. With 16 latents their statistics are the published ones.
    """
    layout: dict[str, Any] = {}
    if latents == LATENT_CHANNELS:
        layout = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 1.5, 0.8, 1.1]}
    if residual:
        layout |= {**WAN22_LAYOUT, "decoder_base_dim": 6}
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=latents,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=blocks_per_level,
        **layout,
    ).eval()


def build_tokenizer() -> PreTrainedTokenizerFast:
    corpus = ["a red ball rolls to the right and hits the block", "the tower falls", "still blurred frames"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=96, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_TOKENS,
        padding_side="right",
    )


def build_transformer(*, patch_px: int = 2, channels: int = LATENT_CHANNELS) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, patch_px, patch_px),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    ).eval()


def build_folder(folder: Path, *, euler: bool = False, patch_px: int = 2, residual: bool = False) -> Path:
    """Write the folder as the library does, plus the sidecar retake.json."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ).eval()
    scheduler: Any = UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0
    )
    if euler:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    pipeline = WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=build_autoencoder(residual=residual),
        scheduler=scheduler,
        transformer=build_transformer(patch_px=patch_px),
        expand_timesteps=True,
    )
    pipeline.save_pretrained(folder)
    (folder / "retake.json").write_text(json.dumps(SIDECAR), encoding="utf-8")
    return folder


def build_scenario(folder: Path, *, name: str = "0001_left", num_frames: int = 6, shade: int = 0) -> Scenario:
    """A moving square, 32x32 px at 8 fps, written as mp4."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.full((num_frames, 32, 32, 3), 40 + shade, np.uint8)
    for index, frame in enumerate(frames):
        frame[8:16, 2 * index : 2 * index + 8] = (220, 60, 60)
    path = folder / f"{name}.mp4"
    write_mp4(path, frames, 8.0)
    return Scenario(
        id=name, text="a red ball rolls", prefix=probe(path), category="Solid", output_name=f"{name}_out.mp4"
    )


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(values | changes))


def copy(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / "copy"))
