"""Models by their name on the hub: told where one is not here, fetched only when asked, then found."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import hub_of
from tiny_run import Folders, make_folders
from typer.testing import CliRunner, Result

from engine import cli

NAME = "someone/tiny-wan"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def hub(folders: Folders) -> Iterator[tuple[str, list[str]]]:
    with hub_of(NAME, folders.generator) as found:
        yield found


@pytest.fixture(autouse=True)
def home(hub: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's library reads its environment when it is imported; the command that fetches is a process."""
    folder = tmp_path / "hf"
    for name in list(os.environ):
        if name.startswith("HF_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(folder))
    monkeypatch.setenv("HF_ENDPOINT", hub[0])
    monkeypatch.setattr("engine.settings.environment._before_offline", {})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    return folder


def retake(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [*map(str, words)])


def plain(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_a_model_of_the_hub_is_named_fetched_when_asked_and_found(
    hub: tuple[str, list[str]], folders: Folders, home: Path, tmp_path: Path
) -> None:
    _, asked = hub
    words = ["plan", folders.dataset, "--generator", NAME, "--critic", folders.critic, "--no-time"]
    absent = retake(*words)
    assert absent.exit_code == 2 and asked == []
    assert f"hf download {NAME}" in absent.stderr and f"https://huggingface.co/{NAME}" in plain(absent.stderr)
    unknown = retake("models", "check", NAME)
    assert unknown.exit_code == 2 and f"hf download {NAME}" in unknown.stderr
    fetched = retake(*words, "--download", "--json", tmp_path / "needs.json")
    assert fetched.exit_code == 0, fetched.stderr
    assert f"fetching {NAME}" in fetched.stderr and asked
    assert json.loads((tmp_path / "needs.json").read_text())["memory"]["required_bytes"] > 0
    known = retake("models", "check", NAME)
    assert known.exit_code == 0 and "generator of the family wan" in known.stdout
    asked.clear()
    again = retake(*words, "--download")
    assert again.exit_code == 0 and "fetching" not in again.stderr and asked == []
    listed = retake("doctor", "--json", tmp_path / "doctor.json")
    checks = {check["name"]: check for check in json.loads((tmp_path / "doctor.json").read_text())["checks"]}
    assert listed.exit_code == 0 and NAME in checks["models of the hub"]["detail"]
    assert f"({home / 'hub'})" in checks["disk"]["detail"] and "GB free" in checks["disk"]["detail"]
    (cut,) = home.rglob("snapshots/*/vae")
    shutil.rmtree(cut)
    assert f"hf download {NAME}" in retake(*words).stderr


def test_a_known_model_is_told_with_its_size_licence_and_the_layout_that_is_read(folders: Folders) -> None:
    told = plain(retake("plan", folders.dataset, "--generator", "Wan-AI/Wan2.2-TI2V-5B", "--no-time").stderr)
    assert "about 34 GB, licence Apache-2.0" in told
    assert "hf download Wan-AI/Wan2.2-TI2V-5B-Diffusers or" in told
    unsized = plain(retake("plan", folders.dataset, "--generator", "Wan-AI/Wan2.2-I2V-A14B").stderr)
    assert "it, licence Apache-2.0, https://huggingface.co/Wan-AI/Wan2.2-I2V-A14B-Diffusers:" in unsized
    dry = retake("run", folders.dataset, "--critic", "Qwen/Qwen3-VL-8B-Instruct", "--dry-run", "--download")
    assert dry.exit_code == 2 and "hf download Qwen/Qwen3-VL-8B-Instruct or" in plain(dry.stderr)


def test_a_half_folder_of_the_cache_says_how_it_is_completed(
    folders: Folders, home: Path, tmp_path: Path
) -> None:
    half = home / "hub" / "models--someone--half" / "snapshots" / "abc"
    shutil.copytree(folders.generator, half)
    shutil.rmtree(half / "vae")
    told = plain(retake("plan", folders.dataset, "--generator", half, "--no-time").stderr)
    assert "lacks vae" in told and "complete the download: hf download someone/half" in told


def test_a_disk_that_is_too_small_is_told_before_anything_is_asked(
    hub: tuple[str, list[str]], folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.build.hub.GB", 10**15)
    words = ["plan", folders.dataset, "--generator", "Wan-AI/Wan2.2-TI2V-5B", "--download"]
    refused = retake(*words)
    assert refused.exit_code == 2 and "takes about 34 GB" in plain(refused.stderr) and hub[1] == []
