"""Scales and errors of a generator in the form that its graph has, whatever its prefix looks at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_wan import build_folder, edit

from bench.quality import export_calibration
from engine.generators.wan.settings import ALL, OWN
from export.quantization.scales import read_scales


@pytest.mark.parametrize("prefix_attention", [OWN, pytest.param(ALL, marks=pytest.mark.slow)])
def test_magnitudes_then_errors_by_layer(prefix_attention: str, tmp_path: Path) -> None:
    folder = build_folder(tmp_path / "m")
    # its text encoder reads 24 tokens
    edit(folder, "retake.json", clip_prompts=True, num_inference_steps=1, prefix_attention=prefix_attention)
    scales, out = tmp_path / "scales.safetensors", tmp_path / "errors.json"
    given = ["--generator", str(folder), "--scenes", "1", "--scales", str(scales)]
    assert export_calibration.main(["scales", *given]) == 0
    seen = read_scales(scales)
    assert seen.num_forwards == 2 and seen.input_amax and seen.attention_amax  # both branches of guidance
    assert export_calibration.main(["errors", *given, "--recipes", "fp8", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert 0 < row["largest_output_error"] < 0.3
