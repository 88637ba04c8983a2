"""Folders of random weights in the layouts of the variants of Wan, and a clip of 3 s; no test of its own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
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
from tiny_wan import LATENT_CHANNELS, TEXT_TOKENS, build_autoencoder, build_tokenizer
from transformers import UMT5Config, UMT5EncoderModel

from engine.api.takes import finish
from engine.denoise import take as taking
from engine.generators.wan.job import WanJob
from engine.types import Prompt, Scenario
from engine.video.files import probe, write_mp4

FPS = 16.0
SIDECAR = {
    "width": 32,
    "height": 32,
    "num_frames": 8,
    "num_inference_steps": 4,
    "guidance_scale": 3.0,
    "negative_prompt": "still",
}
MODEL: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "out_channels": LATENT_CHANNELS,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "rope_max_seq_len": 64,
}


def randomised(module: Any, seed: int) -> Any:
    """Also where the library begins with ones and zeros: a swapped weight or bias would not show."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=source))
    return module.eval()


def expert(seed: int, *, num_layers: int = 3, **changes: Any) -> WanTransformer3DModel:
    """As of I2V-A14B, with Z + 4 channels beside the noisy ones."""
    torch.manual_seed(seed)
    channels = 2 * LATENT_CHANNELS + 4
    made = WanTransformer3DModel(**MODEL | {"in_channels": channels, "num_layers": num_layers} | changes)
    return randomised(made, seed)  # type: ignore[no-any-return]


def around(scheduler: Any = None) -> dict[str, Any]:
    """The components that all variants have."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = UMT5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return {
        "tokenizer": tokenizer,
        "text_encoder": UMT5EncoderModel(config).eval(),
        "vae": build_autoencoder(),
        "scheduler": scheduler
        or UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0),
    }


def with_sidecar(pipeline: Any, folder: Path, **sidecar: Any) -> Path:
    pipeline.save_pretrained(folder)
    (folder / "retake.json").write_text(json.dumps(SIDECAR | sidecar), encoding="utf-8")
    return folder


def build_i2v(folder: Path, *, experts: int = 2, boundary_ratio: float = 0.9, **sidecar: Any) -> Path:
    second = {"transformer_2": expert(2), "boundary_ratio": boundary_ratio} if experts == 2 else {}
    pipeline = WanImageToVideoPipeline(transformer=expert(1), **around(), **second)
    return with_sidecar(pipeline, folder, **sidecar)


def build_clip(folder: Path, *, seconds: float = 3.0, fps: float = FPS, shade: int = 0) -> Scenario:
    """A moving square of 32 x 32 px."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.full((round(seconds * fps), 32, 32, 3), 40 + shade, np.uint8)
    for index, frame in enumerate(frames):
        frame[8:16, index // 2 : index // 2 + 8] = (220, 60, 60)
    path = folder / "0001_left.mp4"
    write_mp4(path, frames, fps)
    return Scenario(
        id="0001_left",
        text="a red ball rolls",
        prefix=probe(path),
        category="Solid",
        output_name="0001_out.mp4",
    )


PROMPT = Prompt(text="a red ball rolls to the right", negative="still", seed=7, revision=0)


def take(job: WanJob) -> np.ndarray:
    return finish(job).frames.astype(int)


def latents_of(monkeypatch: pytest.MonkeyPatch, job: WanJob) -> tuple[torch.Tensor, np.ndarray]:
    """What a take's latents are before they are decoded, and its frames."""
    kept: list[torch.Tensor] = []
    denormalise = taking.denormalise
    with monkeypatch.context() as patch:
        patch.setattr(taking, "denormalise", lambda vae, z: kept.append(z) or denormalise(vae, z))
        frames = take(job)
    return kept[0], frames


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def without_ftfy(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """Pipelines clean texts with it where it is installed, which changes nothing in plain ASCII."""
    monkeypatch.setattr(module, "ftfy", SimpleNamespace(fix_text=str), raising=False)


def asked(steps: int) -> dict[str, Any]:
    """What a pipeline is told, so that it makes the same take."""
    return {
        "prompt": PROMPT.text,
        "negative_prompt": PROMPT.negative,
        "height": 32,
        "width": 32,
        "num_inference_steps": steps,
        "max_sequence_length": TEXT_TOKENS,
        "generator": torch.Generator().manual_seed(PROMPT.seed),
        "output_type": "latent",
    }


def control(seed: int = 3, *, num_layers: int = 4, **changes: Any) -> WanVACETransformer3DModel:
    """As of VACE, with control blocks at two of its layers."""
    torch.manual_seed(seed)
    channels = {"in_channels": LATENT_CHANNELS, "vace_in_channels": 2 * LATENT_CHANNELS + 64}
    layers = {"num_layers": num_layers, "vace_layers": [0, 2]}
    made = WanVACETransformer3DModel(**MODEL | channels | layers | changes)
    return randomised(made, seed)  # type: ignore[no-any-return]


def build_vace(folder: Path, **sidecar: Any) -> Path:
    pipeline = WanVACEPipeline(transformer=control(), **around())
    return with_sidecar(pipeline, folder, **sidecar)


def chunked(seed: int = 4, *, num_layers: int = 3, **changes: Any) -> AnyFlowFARTransformer3DModel:
    """As of AnyFlow-FAR."""
    torch.manual_seed(seed)
    sizes = {"in_channels": LATENT_CHANNELS, "compressed_patch_size": (1, 4, 4), "num_layers": num_layers}
    made = AnyFlowFARTransformer3DModel(**MODEL | sizes | changes)
    return randomised(made, seed)  # type: ignore[no-any-return]


def build_anyflow(folder: Path, **sidecar: Any) -> Path:
    scheduler = FlowMapEulerDiscreteScheduler(shift=5.0)
    pipeline = AnyFlowFARPipeline(transformer=chunked(), **around(scheduler))
    return with_sidecar(pipeline, folder, **{"num_frames": 20, "guidance_scale": 1.0} | sidecar)
