"""A LoRA of step distillation brings its steps, or is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.denoise.lora import read_lora
from engine.denoise.lora_grid import Grid, grid_of, read_grid, sidecar_of
from engine.errors import ModelError

STEPS = {"timesteps": [1000, 750, 500, 250], "timesteps_are": "before shift"}


def lora(folder: Path, name: str, sidecar: object | None = None) -> Path:
    path = folder / f"{name}.safetensors"
    save_file({"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.ones(4, 2)}, path)
    if sidecar is not None:
        sidecar_of(path).write_text(sidecar if isinstance(sidecar, str) else json.dumps(sidecar))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "Wan22_TI2V_5B_4steps_lora",
        "wan2.2-Lightning_high",
        "lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank64_bf16",
        "Wan21_CausVid_14B_T2V_lora_rank32",
        "FastWan_T2V_14B_480p_lora_rank_128",
        "dmd2_lora",
        "8-step",
    ],
)
def test_one_that_says_no_steps_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    path = lora(tmp_path, name)
    with pytest.raises(ModelError, match="a LoRA of step distillation, and says no steps") as error:
        read_lora(path)
    assert f"put {name}.retake.json beside it" in error.value.fix
    sidecar_of(path).write_text("{}")
    assert read_lora(path).grid == Grid() and grid_of([read_lora(path)]) is None


@pytest.mark.parametrize("name", ["my_cat", "style-2000steps", "step0001000", "turbocharger", "admdx"])
def test_another_has_the_steps_of_its_model(tmp_path: Path, name: str) -> None:
    assert read_grid(lora(tmp_path, name)) is None


def test_steps_and_guidance_are_those_beside_it(tmp_path: Path) -> None:
    found = read_lora(lora(tmp_path, "a", STEPS))
    assert found.grid == Grid(timesteps=(1000.0, 750.0, 500.0, 250.0), timesteps_are="before shift")
    assert found.grid is not None and found.grid.guidance_scale == 1.0
    same = read_lora(lora(tmp_path, "b", STEPS))
    assert grid_of([found, same]) == found.grid
    other = read_lora(lora(tmp_path, "c", {**STEPS, "timesteps": [1000, 500]}))
    with pytest.raises(ModelError, match=r"a\.safetensors and c\.safetensors bring different steps"):
        grid_of([found, other])


@pytest.mark.parametrize(
    ("sidecar", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "no JSON object"),
        ({"timestep": [1000]}, "nearest: timesteps"),
        ({"timesteps": [1000, 500]}, "whether the flow shift is in them"),
        ({**STEPS, "timesteps": [900, 500]}, "not a falling list from 1000"),
        ({**STEPS, "timesteps": [1000, 500, 500]}, "not a falling list from 1000"),
        ({**STEPS, "timesteps_are": "shifted"}, "timesteps_are"),
    ],
)
def test_what_stands_beside_it_is_checked(tmp_path: Path, sidecar: object, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        read_lora(lora(tmp_path, "a", sidecar))
