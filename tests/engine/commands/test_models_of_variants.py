"""I2V-A14B of two files and VACE of one, as ComfyUI's users have them: added, read, or refused by name."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
from foreign_files import save, scaled_fp8
from foreign_wan import TEXT_WIDTH, is_layer
from tiny_wan import build_autoencoder, build_tokenizer
from tiny_wan_variants import randomised
from transformers import UMT5Config, UMT5EncoderModel
from typer.testing import CliRunner, Result

from engine import cli
from engine.generators.wan.folder import WanParts, read_folder
from engine.generators.wan.published_names import published_name, published_vae_name
from engine.settings.environment import models_folder

SIZES: dict[str, Any] = {
    "num_attention_heads": 1,
    "attention_head_dim": 128,
    "out_channels": 16,
    "text_dim": TEXT_WIDTH,
    "freq_dim": 32,
    "ffn_dim": 128,
}


@dataclass(frozen=True)
class Made:
    models: dict[str, Any]
    files: dict[str, Path]

    @property
    def beside(self) -> list[object]:
        names = (("--vae", "vae"), ("--text-encoder", "text_encoder"), ("--tokenizer", "tokenizer"))
        return [word for option, name in names for word in (option, self.files[name])]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """In the publisher's names; VACE with control blocks at every second of its layers."""
    folder = tmp_path_factory.mktemp("files")
    experts = {
        name: randomised(WanTransformer3DModel(**SIZES, in_channels=36, num_layers=1), seed)
        for seed, name in enumerate(("wan2.2_i2v_high_noise_14B", "wan2.2_i2v_low_noise_14B"))
    }
    control = WanVACETransformer3DModel(**SIZES, in_channels=16, num_layers=4, vace_layers=[0, 2])
    models = {**experts, "wan2.1_vace_14B": randomised(control, 2)}
    files = {
        name: save(folder / f"{name}.safetensors", published(model), prefix="model.diffusion_model.")
        for name, model in models.items()
    }
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    sizes = {"vocab_size": len(tokenizer), "d_model": TEXT_WIDTH, "d_kv": 8, "d_ff": 32}
    encoder = UMT5EncoderModel(UMT5Config(**sizes, num_layers=1, num_heads=2))
    renamed = functools.partial(published_vae_name, residual=False, num_res_blocks=2)
    vae = build_autoencoder(blocks_per_level=2, latents=16).state_dict()
    files |= {
        "vae": save(folder / "wan_2.1_vae.safetensors", {renamed(name): one for name, one in vae.items()}),
        "text_encoder": save(folder / "umt5_xxl.safetensors", dict(encoder.named_parameters())),
        "tokenizer": folder / "tokenizer",
    }
    return Made(models, files)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def published(model: Any) -> dict[str, torch.Tensor]:
    return {published_name(name): tensor for name, tensor in model.state_dict().items()}


def models(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["models", *map(str, words)])


def plain(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def added(*words: object) -> WanParts:
    """The folder of links, as a run reads it."""
    result = models("add", *words)
    assert result.exit_code == 0, result.output
    folder = models_folder() / "own"
    assert models("check", folder).exit_code == 0
    return read_folder(folder, "cpu", "fp32")


def same(found: Any, like: Any) -> None:
    wanted = like.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.state_dict().items())


HIGH, LOW, VACE = "wan2.2_i2v_high_noise_14B", "wan2.2_i2v_low_noise_14B", "wan2.1_vace_14B"


def test_two_files_are_the_two_experts_of_i2v(made: Made) -> None:
    parts = added(made.files[HIGH], "own", "--transformer-2", made.files[LOW], *made.beside)
    assert parts.variant.name == "Wan I2V" and parts.boundary == 900
    assert parts.scheduler.config.flow_shift == 5.0
    for found, name in zip(parts.transformers, (HIGH, LOW), strict=True):
        same(found, made.models[name])


def test_one_file_is_vace_with_its_control_blocks(made: Made, home: Path) -> None:
    parts = added(made.files[VACE], "own", *made.beside)
    assert parts.variant.name == "Wan VACE" and parts.boundary is None
    assert parts.scheduler.config.flow_shift == 3.0
    assert parts.transformer.config.vace_layers == [0, 2]
    same(parts.transformer, made.models[VACE])
    layers = scaled_fp8(published(made.models[VACE]), lambda name: is_layer(name.removeprefix("vace_")))
    assert "vace_blocks.1.ffn.0.scale_weight" in layers
    assert models("check", save(home / "vace_fp8_scaled.safetensors", layers)).exit_code == 0


def test_the_other_expert_is_asked_for_and_offered(made: Made, home: Path) -> None:
    told = plain(models("add", made.files[HIGH], "own", *made.beside).stderr)
    assert "beside it a model needs: transformer 2" in told
    assert f"--transformer-2{made.files[LOW]}" in "".join(told.split()), "long paths are broken at any place"
    assert models("check", made.files[HIGH], "--json", home / "check.json").exit_code == 0
    document = json.loads((home / "check.json").read_text())
    assert f"--transformer-2 {made.files[LOW]} --vae {made.files['vae']}" in document["use"]


def test_experts_in_the_wrong_order_and_too_many_are_refused(made: Made) -> None:
    high, low, vace = (made.files[name] for name in (HIGH, LOW, VACE))
    for first, second in ((low, high), (high, high)):
        told = plain(models("add", first, "own", "--transformer-2", second, *made.beside).stderr)
        assert "give the file of high noise first, and that of low noise with --transformer-2" in told
    told = plain(models("add", vace, "own", "--transformer-2", low, *made.beside).stderr)
    assert "has one transformer" in told and "leave --transformer-2 out" in told
    told = plain(models("add", high, "own", "--transformer-2", vace, *made.beside).stderr)
    assert "is a Wan VACE transformer" in told and "give the two experts of one model" in told
    assert not list(models_folder().glob("*"))
