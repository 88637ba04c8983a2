"""`retake export` from the command line: plan, build, reuse, list, verify, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_exportable import build_exportable, build_lora
from tiny_run import make_folders
from typer.testing import CliRunner, Result

from engine import cli
from export.trt.library import is_installed

pytestmark = pytest.mark.skipif(
    not is_installed("tensorrt-rtx")
    or any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the packages of the extra 'export' (onnx, onnxruntime, onnxscript, tensorrt-rtx) are missing",
)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_exportable(tmp_path_factory.mktemp("model") / "generator")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folders(tmp_path_factory.mktemp("data")).dataset


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def call(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, ["export", *map(str, arguments)])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result


def words(result: Result) -> str:
    """What a panel says, without its frame and its ends of lines."""
    return " ".join(result.output.replace("│", " ").split())


def test_every_verb_has_help_with_an_example() -> None:
    assert "retake export demo" in call("--help").output
    for verb in ("build", "verify", "list"):
        assert "Example: retake export" in call(verb, "--help").output


@pytest.mark.parametrize("target", [("tensorrt-rtx", "--cc", "8.9"), ("onnx",)], ids=lambda target: target[0])
def test_forms_that_only_a_package_holds_are_refused_with_the_reason(
    target: tuple[str, ...], generator: Path, tmp_path: Path
) -> None:
    options = ("--target", *target, "--quant", "fp16", "--out", tmp_path / "out")
    sparse = words(call(generator, *options, "--attention", "triton_prefix_sparse", status=2))
    assert f"target {target[0]} cannot hold the form: attention triton_prefix_sparse" in sparse
    assert "a kernel of ours" in sparse and "use --target aoti, or --attention dense" in sparse
    own = shutil.copytree(generator, tmp_path / "own")
    told = json.loads((own / "retake.json").read_text(encoding="utf-8"))
    (own / "retake.json").write_text(json.dumps(told | {"prefix_attention": "own"}), encoding="utf-8")
    sparse = words(call(own, *options, "--attention", "triton_prefix_sparse", status=2))
    assert "its own prefix computed in every step" in sparse and "a kernel of ours" in sparse
    assert "its own prefix computed in every step" in words(call(own, *options, "--dry-run"))
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_would_be_made(generator: Path, tmp_path: Path) -> None:
    options = ("--target", "tensorrt-rtx", "--quant", "fp8", "--cc", "8.9,120", "--rows", "1,2", "--out", "o")
    output = call(generator, *options, "--dry-run").output
    assert "to be recorded" in output and output.count("named by the scales") == 3
    assert "tensorrt-rtx for 89" in output and "tensorrt-rtx for 120" in output
    # 6 prefix frames are padded to 9, 8 more are generated: 5 latent frames of 4x4
    assert "profile 4x4x5-rows2: B 2, F 5, h 4, w 4, L 24" in output
    assert not (tmp_path / "o").exists()


def test_a_shape_is_height_width_and_frames(generator: Path) -> None:
    options = ("--target", "onnx", "--shape", "48x64x13", "--dry-run")
    assert "profile 6x8x4-rows1: B 1, F 4, h 6, w 8" in call(generator, *options).output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--target", "tensorrt-rtx", "--cc", "86", "--quant", "fp8"),
            "needs compute capability 8.9, not 8.6",
        ),
        (("--target", "tensorrt-rtx", "--cc", "90"), "cannot build for compute capability 90"),
        (("--target", "tensorrt-rtx"), "builds for stated compute capabilities and none is given"),
        (("--target", "tensorrt-rtx", "--cc", "ada"), "'ada' is no compute capability"),
        (("--target", "coreml"), "'coreml' is not a target"),
        (("--target", "onnx", "--quant", "fp4"), "'fp4' is not a quantization recipe"),
        (("--target", "onnx", "--shape", "48x64"), "is not HEIGHTxWIDTHxFRAMES"),
        (("--target", "onnx", "--shape", "48x64x12"), "for example 48x64x13"),
        (("--target", "onnx", "--shape", "50x64x13"), "multiples of 16"),
        (("--target", "onnx", "--rows", "3"), "--rows '3'"),
        (("--target", "onnx", "--quant", "fp8", "--scales", "nowhere"), "--scales nowhere is no file"),
        (("--target", "onnx", "--lora", "nowhere.safetensors"), "is not a LoRA file"),
    ],
)
def test_bad_options_are_refused(options: tuple[str, ...], message: str, generator: Path) -> None:
    output = call(generator, *options, "--dry-run", status=2).output
    assert message in " ".join(output.replace("│", " ").split())


@pytest.mark.slow
def test_int8_engines_from_real_trajectories(generator: Path, dataset: Path, tmp_path: Path) -> None:
    """Recorded, calibrated, exported, built and gated; then listed, and verified as a graph."""
    options = ("--target", "tensorrt-rtx", "--quant", "int8", "--cc", "89", "--out", "o", "--device", "cpu")
    output = call(generator, *options, "--dataset", dataset, "--scenes", 1).output
    assert "recording 1 scene" in output
    assert "2 fused attention fp16" in output and "7 gemm int8" in output
    (graph,) = (tmp_path / "o").glob("wan_dit-int8-onnx-*")
    (engine,) = (tmp_path / "o").glob("wan_dit-int8-tensorrt-rtx-89-*")
    again = call(generator, *options).output
    assert "recording" not in again and "to be made" not in again
    listed = call("list", "--out", "o").output
    assert graph.name in listed and engine.name in listed

    verified = ("verify", graph, "--generator", generator, "--dataset", dataset, "--device", "cpu")
    assert "velocity" in call(*verified, "--json", "v.json").output
    document = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert document["failures"] == [] and document["num_forwards"] >= 6
    assert "2 fused attention" in call("verify", engine, "--files-only").output


def test_another_checkpoint_and_damage_are_found(generator: Path, dataset: Path, tmp_path: Path) -> None:
    call(generator, "--target", "onnx", "--quant", "fp16", "--out", "o", "--device", "cpu")
    (graph,) = (tmp_path / "o").glob("wan_dit-*")
    assert graph.name in call("list").output, "it is found without --out"
    lora = build_lora(tmp_path / "a.safetensors")
    other = call("verify", graph, "--generator", generator, "--lora", lora, status=2).output
    assert "cannot be compared" in other
    data = graph / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\xff")
    assert "is damaged" in call("verify", graph, "--generator", generator, status=2).output


def test_what_is_no_artifact_is_said(tmp_path: Path) -> None:
    assert "is no artifact" in call("verify", tmp_path, status=2).output
    assert call("list", "--out", "nowhere").output


@pytest.mark.parametrize("words", [("build", "demo", "--target", "onnx"), ("verify", ".")])
def test_the_hub_is_off_before_a_model_library_is_imported(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They read it once, as they are imported; else they look for files there, and draw progress bars."""
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
    code = (
        "import sys\nfrom engine import cli\nfrom export.commands import export\n"
        "def reached():\n    sys.exit(7 if {'transformers', 'diffusers'}.isdisjoint(sys.modules) else 8)\n"
        f"export.offline = reached\nsys.argv = ['retake', 'export', *{words!r}]\ncli.main()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 7
