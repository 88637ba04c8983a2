"""I2V-A14B of two files and VACE of one, as ComfyUI's users have them: added, read, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_variants import HIGH, LOW, VACE, Made, write_variants
from typer.testing import CliRunner, Result

from engine import cli
from engine.generators.wan.folder import WanParts, read_folder
from engine.settings.environment import models_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write_variants(tmp_path_factory.mktemp("files"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


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


def test_two_files_are_the_two_experts_of_i2v(made: Made) -> None:
    parts = added(made.files[HIGH], "own", "--transformer-2", made.files[LOW], *made.beside)
    assert parts.variant.name == "Wan I2V" and parts.boundary == 900
    assert parts.scheduler.config.flow_shift == 5.0
    for found, name in zip(parts.transformers, (HIGH, LOW), strict=True):
        same(found, made.models[name])


def test_one_file_is_vace_with_its_control_blocks(made: Made) -> None:
    parts = added(made.files[VACE], "own", *made.beside)
    assert parts.variant.name == "Wan VACE" and parts.boundary is None
    assert parts.scheduler.config.flow_shift == 3.0
    assert parts.transformer.config.vace_layers == [0, 2]
    same(parts.transformer, made.models[VACE])


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
