"""Cosmos3 in the speed measurements: its sizes, its work, and that a wrong forward would not be timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import Cosmos3OmniTransformer

from bench.perf import denoiser, variants
from bench.perf.denoisers import cosmos3 as cosmos3_subject
from bench.perf.denoisers.by_name import SUBJECTS

NANO, TINY = SUBJECTS["cosmos3-nano"], SUBJECTS["tiny-cosmos3"]


def test_the_full_size_is_that_of_the_published_recipe() -> None:
    assert isinstance(NANO, cosmos3_subject.Cosmos3Subject)
    assert NANO.latent_shape == (1, 48, 49, 30, 52) and NANO.grid == (49, 15, 26)
    assert NANO.num_tokens == 19110 and NANO.prefix_frames == 19


def test_flops_are_those_of_the_generation_tower() -> None:
    """Twice the weights per token, and two GEMMs over text and video; counted on a real module."""
    assert isinstance(NANO, cosmos3_subject.Cosmos3Subject)
    with torch.device("meta"):
        layer = Cosmos3OmniTransformer(**NANO.config | {"num_hidden_layers": 1}).layers[0]
    weights = sum(
        parameter.numel()
        for name, parameter in layer.named_parameters()
        if name.endswith("weight") and any(part in name for part in ("add_", "mlp_moe_gen"))
        if parameter.ndim == 2
    )
    assert NANO.linear_flops == 36 * 2 * weights * NANO.num_tokens
    assert NANO.attention_flops == 36 * 2 * 2 * 32 * 128 * 19110 * 19410
    assert NANO.flops == pytest.approx(4.76e14, rel=0.02)


def test_every_variant_for_any_machine_runs_and_is_written_down(tmp_path: Path) -> None:
    out = tmp_path / "document.json"
    given = ["--subjects", "tiny-cosmos3", "--variants", "everywhere", "--rounds", "2", "--out", str(out)]
    assert denoiser.main(given) == 0
    (subject,) = json.loads(out.read_text(encoding="utf-8"))["subjects"]
    assert subject["name"] == TINY.name and subject["tokens"] == TINY.num_tokens == 60
    assert "both towers over 7 text tokens" in subject["note"]
    assert [row["name"] for row in subject["variants"]] == [v.name for v in variants.EVERYWHERE]
    for row in subject["variants"]:
        assert row["summary"]["median"] > 0 and "reason" not in row
    assert all(0 < row["relative_error"] < 0.03 for row in subject["variants"][1:])


def test_both_backends_of_the_library_have_a_row_that_names_what_ran(tmp_path: Path) -> None:
    out = tmp_path / "document.json"
    given = ["--subjects", "tiny-cosmos3", "--variants", "library", "--rounds", "1", "--out", str(out)]
    assert denoiser.main(given) == 0
    (subject,) = json.loads(out.read_text(encoding="utf-8"))["subjects"]
    first, native, cudnn = subject["variants"]
    assert native["name"] == "diffusers eager, backend native" and native["summary"]["median"] > 0
    assert native["note"] == "it ran aten::_scaled_dot_product_flash_attention_for_cpu 8 times"
    assert first["note"] == native["note"] and native["relative_error"] == 0
    if not torch.cuda.is_available():
        assert cudnn["name"] == "diffusers eager, backend _native_cudnn" and "RuntimeError" in cudnn["reason"]


def test_an_attention_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards SHARPNESS: with keys that all look alike, attention could return anything."""
    from engine.generators.cosmos3.block import FastCosmos3Block

    attend = FastCosmos3Block._attend
    # heads of queries on keys of another group: what a mistake in grouping would do
    monkeypatch.setattr(FastCosmos3Block, "_attend", lambda self, *x: attend(self, *x).roll(64, dims=-1))
    found = denoiser.measure(TINY, variants.EVERYWHERE[:2], 1, {})
    assert "not timed" in found["variants"][1]["reason"]
