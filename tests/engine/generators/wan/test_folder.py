"""What is wrong with a Wan folder is said by name: a missing, damaged or unfit component, a bad default."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_wan import build_folder, build_transformer, copy, edit

from engine.errors import ModelError
from engine.generators.wan import folder as reading
from engine.generators.wan import generator as wan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder(tmp_path_factory.mktemp("models") / "wan")


def remove_weights(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def truncate_weights(folder: Path) -> None:
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])


def drop_tensor(folder: Path) -> None:
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["blocks.1.attn1.to_q.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


REFUSALS: list[tuple[str, Callable[[Path], None], str]] = [
    ("no index", lambda f: (f / "model_index.json").unlink(), "model_index.json does not exist"),
    ("index no json", lambda f: (f / "model_index.json").write_text("{"), "model_index.json is not JSON"),
    (
        "other pipeline",
        lambda f: edit(f, "model_index.json", _class_name="FluxPipeline"),
        "FluxPipeline",
    ),
    (
        "scalar timestep",
        lambda f: edit(f, "model_index.json", expand_timesteps=False),
        r"channels \(4, 4\)",
    ),
    (
        "two models",
        lambda f: edit(f, "model_index.json", boundary_ratio=0.9),
        "boundary_ratio without transformer_2",
    ),
    ("no transformer", lambda f: shutil.rmtree(f / "transformer"), "lacks the component transformer"),
    ("no vae", lambda f: shutil.rmtree(f / "vae"), "lacks the component vae"),
    ("no text encoder", lambda f: shutil.rmtree(f / "text_encoder"), "lacks the component text_encoder"),
    ("no tokenizer", lambda f: shutil.rmtree(f / "tokenizer"), "lacks the component tokenizer"),
    ("no scheduler", lambda f: shutil.rmtree(f / "scheduler"), "lacks the component scheduler"),
    ("no weights", remove_weights, "component vae cannot be loaded"),
    ("truncated", truncate_weights, "component transformer cannot be loaded"),
    ("missing tensor", drop_tensor, "missing_keys.*blocks.1.attn1.to_q.weight"),
    ("encoder type", lambda f: edit(f, "text_encoder/config.json", model_type="bert"), "'bert'"),
    (
        "ddim",
        lambda f: edit(f, "scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
        "DDIMSched",
    ),
    ("karras", lambda f: edit(f, "scheduler/scheduler_config.json", use_karras_sigmas=True), "karras"),
    (
        "epsilon",
        lambda f: edit(f, "scheduler/scheduler_config.json", use_flow_sigmas=False),
        "flow sigmas",
    ),
    (
        "no shift",
        lambda f: edit(f, "scheduler/scheduler_config.json", flow_shift="5"),
        "flow_shift '5'; .* a number above 0",
    ),
    (
        "autoencoder with the same tensors",
        lambda f: edit(f, "vae/config.json", _class_name="AutoencoderKLQwenImage"),
        "vae has _class_name 'AutoencoderKLQwenImage'; .* AutoencoderKLWan",
    ),
    (
        "transformer of another class",
        lambda f: edit(f, "transformer/config.json", _class_name="WanVACETransformer3DModel"),
        "transformer has _class_name 'WanVACETransformer3DModel'",
    ),
    (
        "means of a channel",
        lambda f: edit(f, "vae/config.json", latents_mean=[1]),
        r"latents_mean \[1\];.*4 num",
    ),
    ("no deviation", lambda f: edit(f, "vae/config.json", latents_std=[1, 1, 1, 0]), "4 numbers above 0"),
    ("words for sizes", lambda f: edit(f, "transformer/config.json", num_layers="two"), "cannot be loaded"),
    ("words in the encoder", lambda f: edit(f, "text_encoder/config.json", d_model="x"), "cannot be loaded"),
    (
        "sidecar key",
        lambda f: edit(f, "retake.json", num_frame=8),
        "num_frame is not a setting; nearest",
    ),
    (
        "sidecar type",
        lambda f: edit(f, "retake.json", width="32"),
        "width is '32', which is not a whole",
    ),
    ("width", lambda f: edit(f, "retake.json", width=40), "width 40; .* a multiple of 16"),
    ("num_frames", lambda f: edit(f, "retake.json", num_frames=9), "num_frames 9; .* a multiple of 4"),
    ("prefix", lambda f: edit(f, "retake.json", prefix_frames=0), "prefix_frames is 0, out of range"),
    (
        "steps",
        lambda f: edit(f, "retake.json", num_inference_steps=10**9),
        "out of range\n.* from 1 to 1000",
    ),
    (
        "guidance",
        lambda f: edit(f, "retake.json", guidance_scale=-1),
        r"is -1\.0, out of range",
    ),
    (
        "no number",
        lambda f: edit(f, "retake.json", guidance_scale=float("nan")),
        "is nan, out of range",
    ),
    ("fps", lambda f: edit(f, "retake.json", fps=float("inf")), "fps is inf, out of range"),
    ("digits", lambda f: edit(f, "retake.json", fps=10**400), "fps is inf, out of range"),
    ("no object", lambda f: (f / "retake.json").write_text("[]"), "retake.json holds no JSON object"),
    (
        "adapter",
        lambda f: (f / "pytorch_lora_weights.safetensors").write_bytes(b""),
        r"adapter \(pytorch_lora_weights.safetensors\), which is not loaded\n.*--lora FILE",
    ),
    (
        "inner adapter",
        lambda f: (f / "transformer" / "adapter_config.json").write_text("{}"),
        r"adapter \(transformer/adapter_config.json\), which is not loaded",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_unfit_folders_are_refused_by_name(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoiled = copy(folder, tmp_path)
    spoil(spoiled)
    with pytest.raises(ModelError, match=message):
        wan.load(spoiled, device="cpu", dtype="fp32")


def test_components_of_other_models_are_refused(folder: Path, tmp_path: Path) -> None:
    mixed = copy(folder, tmp_path)
    shutil.rmtree(mixed / "transformer")
    build_transformer(channels=8).save_pretrained(mixed / "transformer")
    with pytest.raises(ModelError, match=r"channels \(8, 8\)"):
        wan.load(mixed, device="cpu", dtype="fp32")


def test_the_text_encoder_is_read_straight_to_its_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = reading.UMT5EncoderModel.from_pretrained
    asked: list[dict[str, Any]] = []

    def spied(folder: Path, **options: Any) -> Any:
        asked.append(options)
        return library(folder, **options)

    monkeypatch.setattr(reading.UMT5EncoderModel, "from_pretrained", spied)
    encoder = reading.read_folder(folder, "cpu", "bf16").text_encoder
    assert asked[0]["device_map"] == {"": torch.device("cpu")}
    whole = library(folder / "text_encoder", dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in encoder.state_dict().items())
    assert not any(hasattr(module, "_hf_hook") for module in encoder.modules())
