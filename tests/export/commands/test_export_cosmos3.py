"""`retake export` of the generation tower of Cosmos3: calibrated on its own takes, built, gated, verified."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import tiny_cosmos3_folder as tiny
from sliding import SlidingSquare
from typer.testing import CliRunner, Result

from engine import cli
from engine.demo.layout import write_dataset
from export.trt.library import is_installed

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the packages of the extra 'export' (onnx, onnxruntime, onnxscript) are missing",
)
SHAPE = {"structured_prompt": False, "max_text_tokens": 256, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_folder(tmp_path_factory.mktemp("model") / "cosmos3", **SHAPE)


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


def test_a_dry_run_says_what_would_be_made(folder: Path) -> None:
    """17 frames of 48 lines: 5 latent frames of 3 x 4, in 2 x 2 patches, of which a row is half empty."""
    output = call(folder, "--subject", "cosmos3", "--target", "onnx", "--quant", "int8", "--dry-run").output
    assert "profile 3x4x5-rows1: B 1, F 5, h 3, w 4, L 256, S 20" in output and "to be recorded" in output
    wide = call(folder, "--subject", "cosmos3", "--target", "onnx", "--shape", "80x48x9", "--dry-run").output
    assert "profile 5x3x3-rows1: B 1, F 3, h 5, w 3, L 256, S 18" in wide
    refused = call(folder, "--subject", "cosmos3", "--target", "onnx", "--shape", "72x48x9", status=2).output
    assert "multiples of 16" in refused


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["fp16", "int8"])
def test_a_graph_is_built_and_verified_on_real_takes(folder: Path, tmp_path: Path, quant: str) -> None:
    write_dataset(tmp_path / "scenes", [SlidingSquare(0)], views=("perspective-center",))
    scenes = ("--dataset", tmp_path / "scenes", "--scenes", "1")
    words = ("--subject", "cosmos3", "--target", "onnx", "--quant", quant, "--out", "o", *scenes)
    call(folder, *words)
    (made,) = tmp_path.glob("o/cosmos3-*")
    call("verify", made, "--generator", folder, *scenes, "--json", "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("tensorrt-rtx"), reason="tensorrt-rtx is missing")
def test_an_engine_of_8_bits_passes_its_gates(tmp_path: Path) -> None:
    """Heads of 64, as builders fuse them: an attention a layer, and every product of a layer in fp8."""
    sizes = {"head_dim": 64, "rope_axes_dim": (12, 10, 10), "hidden_size": 128, "intermediate_size": 256}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    folder = tiny.build_folder(tmp_path / "model", layout=sizes | heads, **SHAPE)
    write_dataset(tmp_path / "scenes", [SlidingSquare(0)], views=("perspective-center",))
    words = ("--subject", "cosmos3", "--target", "tensorrt-rtx", "--cc", "89", "--quant", "fp8", "--out", "o")
    output = call(folder, *words, "--dataset", tmp_path / "scenes", "--scenes", "1").output
    assert "7 gates passed" in output and "3 fused attention" in output and "12 gemm fp8" in output
