"""The scales file comes back as it was written, and is refused where it does not belong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_export import scales, subject

from export.quantization.scales import Scales, read_scales, require_scales, write_scales
from export.spec import ExportError


@pytest.fixture(scope="module")
def made() -> Scales:
    return scales()


def test_round_trip(made: Scales, tmp_path: Path) -> None:
    write_scales(tmp_path / "sub" / "s.safetensors", made)
    read = read_scales(tmp_path / "sub" / "s.safetensors")
    assert (read.subject, read.weights_digest, read.producer, read.num_forwards) == (
        "wan_dit",
        "sha256:tiny",
        "retake",
        3,
    )
    for written, found in (
        (made.input_amax, read.input_amax),
        (made.attention_amax, read.attention_amax),
    ):
        assert sorted(written) == sorted(found) and written
        assert all(torch.equal(written[name], found[name]) for name in written)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["s.safetensors"]


def test_foreign_scales_are_refused(made: Scales) -> None:
    assert require_scales(made, subject(), "fp8") is made
    with pytest.raises(ExportError, match="checkpoint sha256:other"):
        require_scales(replace(made, weights_digest="sha256:other"), subject(), "fp8")
    with pytest.raises(ExportError, match="subject vae_decoder, not wan_dit"):
        require_scales(replace(made, subject="vae_decoder"), subject(), "fp8")
    with pytest.raises(ExportError, match="needs the magnitudes"):
        require_scales(None, subject(), "int8")


def test_incomplete_scales_are_refused(made: Scales) -> None:
    short = {name: amax for name, amax in made.input_amax.items() if name != "text"}
    with pytest.raises(ExportError, match="nothing for text"):
        require_scales(replace(made, input_amax=short), subject(), "fp8")
    narrow = {**made.input_amax, "text": torch.ones(31)}
    with pytest.raises(ExportError, match=r"shape \(31,\) for text, which has 32"):
        require_scales(replace(made, input_amax=narrow), subject(), "fp8")
    blind = replace(made, attention_amax={})
    require_scales(blind, subject(), "fp8")
    with pytest.raises(ExportError, match=r"nothing for .*attn1\.processor\.core"):
        require_scales(blind, subject(), "fp8-attention")


def test_damaged_files_are_refused(made: Scales, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    with pytest.raises(ExportError, match="not a scales file"):
        read_scales(path)
    path.write_bytes(b"no")
    with pytest.raises(ExportError, match="not a scales file"):
        read_scales(path)
    save_file({"input_amax/a": torch.ones(1)}, path)
    with pytest.raises(ExportError, match="not a scales file"):
        read_scales(path)
    save_file({}, path, metadata={"retake": json.dumps({"schema": 99})})
    with pytest.raises(ExportError, match="schema 99"):
        read_scales(path)
    write_scales(path, replace(made, input_amax={"a": torch.tensor([float("nan")])}))
    with pytest.raises(ExportError, match="input_amax/a is not finite"):
        read_scales(path)
