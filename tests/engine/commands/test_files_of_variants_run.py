"""Files of I2V-A14B and VACE, from `retake models add` to a stored take: that of the library's folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from foreign_variants import HIGH, LOW, VACE, Made, library_folder, write_variants
from tiny_run import script_the_critic
from tiny_vlm import save_tiny_vlm
from tiny_wan_variants import SIDECAR, build_clip
from typer.testing import CliRunner, Result

from engine import cli
from engine.runs.manifest import MANIFEST, read_manifest
from engine.settings.environment import models_folder
from engine.types import Frames
from engine.video.files import probe, read_frames

NAMES = {"i2v": (HIGH, LOW), "vace": (VACE,)}
STORED = {
    "plain": "safetensors, F32",
    "scaled": "safetensors, fp8_scaled: dequantized",
    "comfy_quant": "safetensors, fp8_scaled: dequantized",
    "gguf": "gguf, Q8_0: dequantized",
}
PARTS = ("transformer", "transformer_2")
DENOISE_STEPS = 2  # by the publisher's flow shift and boundary one for each expert


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write_variants(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = build_clip(tmp_path_factory.mktemp("clips")).prefix.path
    clip.with_suffix(".txt").write_text("A red box slides.")
    return clip.parent


@pytest.fixture(scope="module")
def critic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("models") / "critic", sidecar="{}")


@pytest.fixture(scope="module")
def likes() -> dict[str, Frames]:
    """The take of the library's folder by variant, made once."""
    return {}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("RETAKE_THREADS", "1")
    script_the_critic(monkeypatch)
    return tmp_path


def retake(*words: object) -> Result:
    result = CliRunner().invoke(cli.app, [*map(str, words)])
    assert result.exit_code == 0, result.output
    return result


def add(files: list[Path], beside: list[object]) -> None:
    first, *second = files
    words = ["--transformer-2", second[0]] if second else []
    retake("models", "add", first, "own", *words, *beside)
    small(models_folder() / "own")


def small(folder: Path) -> Path:
    told = {**SIDECAR, "num_inference_steps": DENOISE_STEPS, "clip_prompts": True}
    (folder / "retake.json").write_text(json.dumps(told))
    return folder


def take(clips: Path, critic: Path, generator: object, out: Path) -> Frames:
    """The chosen one of a run."""
    models = ("--generator", generator, "--critic", critic, "--device", "cpu", "--dtype", "fp32")
    retake("run", clips, *models, "--preset", "exact", "--loops", 0, "--out", out)
    (chosen,) = (out / "chosen").glob("*.mp4")
    return read_frames(probe(chosen))


def difference(frames: Frames, other: Frames) -> float:
    """Mean, in levels of 0 to 255. Sums in another order are up to 0.6 here: H.264 makes more of them."""
    return float(np.abs(frames.astype(int) - other).mean())


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("variant", NAMES)
def test_a_take_is_made_from_every_kind_of_file(
    made: Made, clips: Path, critic: Path, home: Path, likes: dict[str, Frames], variant: str, kind: str
) -> None:
    names = NAMES[variant]
    add([made.file(name, kind, home) for name in names], made.beside)
    frames = take(clips, critic, "own", home / "run")
    manifest = read_manifest(home / "run" / MANIFEST)["denoiser"]
    assert all(STORED[kind] in manifest[f"{part} file"] for part in PARTS[: len(names)])
    if variant not in likes:
        likes[variant] = take(clips, critic, small(library_folder(made, home / "folder", *names)), home / "b")
    least, most = (0, 1) if kind == "plain" else (1, 10)
    assert least <= difference(frames, likes[variant]) < most


@pytest.mark.parametrize("twice", [HIGH, LOW])
def test_both_experts_make_the_take(made: Made, clips: Path, critic: Path, home: Path, twice: str) -> None:
    add([made.files[HIGH], made.files[LOW]], made.beside)
    frames = take(clips, critic, "own", home / "run")
    other = take(clips, critic, small(library_folder(made, home / "folder", twice, twice)), home / "other")
    assert difference(frames, other) > 15
