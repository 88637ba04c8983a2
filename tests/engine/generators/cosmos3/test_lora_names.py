"""LoRA files of Cosmos3: merged by diffusers' and NVIDIA's names, refused where they would judge."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny_cosmos3_folder as tiny
import torch
from safetensors.torch import save_file

from engine.denoise.lora import read_lora
from engine.denoise.lora_grid import Grid
from engine.errors import ConfigError, ModelError
from engine.generators.cosmos3 import generator as cosmos3
from engine.generators.cosmos3.lora_names import published_name

HERE = "layers.1.self_attn.add_q_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_folder(tmp_path_factory.mktemp("models") / "cosmos3")


def lora(path: Path, target: str) -> Path:
    source = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 64, generator=source), torch.randn(64, 2, generator=source)
    save_file({f"{target}.lora_A.weight": down, f"{target}.lora_B.weight": up}, path)
    return path


@pytest.mark.parametrize(
    "target", [f"transformer.{HERE}", "language_model.model.layers.1.self_attn.q_proj_moe_gen"]
)
def test_a_file_is_merged_under_either_name(folder: Path, tmp_path: Path, target: str) -> None:
    loras = [read_lora(lora(tmp_path / "a.safetensors", target), 0.5)]
    plain = cosmos3.load(folder, device="cpu", dtype="fp32")
    made = cosmos3.load(folder, device="cpu", dtype="fp32", loras=loras)
    after, before = (one.parts.transformer.get_submodule(HERE).weight for one in (made, plain))
    (update,) = loras[0].updates.values()
    torch.testing.assert_close(after - before, 0.5 * update.up @ update.down, atol=1e-5, rtol=1e-5)


def test_names_are_those_of_the_publishers_conversion() -> None:
    for ours, theirs in (
        ("layers.0.self_attn.to_add_out", "language_model.model.layers.0.self_attn.o_proj_moe_gen"),
        ("layers.0.self_attn.to_k", "language_model.model.layers.0.self_attn.k_proj"),
        ("layers.0.self_attn.norm_added_k", "language_model.model.layers.0.self_attn.k_norm_moe_gen"),
        ("layers.0.mlp_moe_gen.up_proj", "language_model.model.layers.0.mlp_moe_gen.up_proj"),
        ("time_embedder.linear_2", "time_embedder.mlp.2"),
    ):
        assert published_name(ours) == theirs


def test_a_file_that_changes_what_the_critic_reads_by_is_refused(folder: Path, tmp_path: Path) -> None:
    loras = [read_lora(lora(tmp_path / "a.safetensors", "transformer.layers.0.self_attn.to_q"))]
    cosmos3.load(folder, device="cpu", dtype="fp32", loras=loras, with_weights=False)
    with pytest.raises(ModelError, match=r"1 part of the text tower, among them layers\.0\.self_attn\.to_q"):
        cosmos3.load(folder, device="cpu", dtype="fp32", loras=loras, with_weights=False, lends=True)


def test_steps_that_a_distillation_brings_are_refused(folder: Path, tmp_path: Path) -> None:
    loras = [read_lora(lora(tmp_path / "a.safetensors", HERE))]
    grid = Grid(timesteps=(1000.0, 500.0), timesteps_are="after shift")
    with pytest.raises(ConfigError, match="brings its steps, and Cosmos3 has those of its scheduler"):
        distilled = [dataclasses.replace(loras[0], grid=grid)]
        cosmos3.load(folder, device="cpu", dtype="fp32", loras=distilled, with_weights=False)
