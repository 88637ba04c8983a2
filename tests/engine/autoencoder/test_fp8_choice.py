"""The choice of FP8 convolutions: what is given up for which error, its file, what a setting makes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_wan import build_autoencoder

from engine.autoencoder import fp8_choice
from engine.autoencoder.fp8_choice import (
    FILE,
    Fp8Choice,
    choose,
    find,
    limit_of,
    psnr_db,
    use_vae,
    vae_bytes,
)
from engine.autoencoder.fp8_conv import Fp8Conv, fp8_convolutions
from engine.autoencoder.vae_fused import use_fused_vae
from engine.errors import ModelError
from engine.machine.outline import bytes_of
from engine.quant.precision_policy import checkpoint_digest
from engine.quant.recipes import SurgeryError

torch.set_num_threads(1)
NAME = "decoder.mid_block.resnets.0.conv1"


class Decoder:
    """Two clips; each name adds to their errors, together `factor` times the sum."""

    def __init__(self, *, factor: float = 1.0, **added: tuple[float, float]) -> None:
        self.added, self.factor, self.asked = added, factor, list[tuple[str, ...]]()

    def __call__(self, names: Collection[str]) -> list[float]:
        self.asked.append(tuple(names))
        factor = self.factor if len(names) > 1 else 1.0
        return [1.0 + factor * sum(self.added[name][clip] for name in names) for clip in range(2)]


def test_what_is_least_lost_for_its_work_comes_first_and_the_worst_clip_counts() -> None:
    decoder = Decoder(a=(1.0, 0.0), b=(0.1, 2.0), c=(0.5, 0.5), d=(0.0, 0.0))
    work = {"a": 10.0, "b": 1.0, "c": 2.0, "d": 1.0}
    assert choose(decoder, work, 2.6) == (["d", "a", "c"], [2.5, 1.5])
    assert decoder.asked[:5] == [(), ("a",), ("b",), ("c",), ("d",)]
    assert choose(decoder, work, 2.0) == (["d", "a"], [2.0, 1.0])
    assert choose(decoder, work, 0.9) == ([], [1.0, 1.0]), "too far without any"


def test_what_was_foreseen_is_measured() -> None:
    decoder = Decoder(factor=2.0, a=(1.0, 0.0), b=(0.125, 0.125), c=(0.25, 0.25))
    assert choose(decoder, dict.fromkeys("abc", 1.0), 2.5) == (["b", "c"], [1.75, 1.75])
    assert decoder.asked[-2:] == [("b", "c", "a"), ("b", "c")]


def test_no_number_is_no_permission() -> None:
    decoder = Decoder(a=(math.nan, 0.0), b=(0.1, 0.1))
    assert choose(decoder, {"a": 1.0, "b": 1.0}, 9.0)[0] == ["b"]


def test_decibels() -> None:
    assert psnr_db([4e-5, 1e-6]) == pytest.approx(50.0) and psnr_db([0.0]) == pytest.approx(206.02, abs=0.01)
    assert psnr_db([limit_of(45.0)]) == pytest.approx(45.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_autoencoder().save_pretrained(tmp_path / "vae")
    return tmp_path


def choice(folder: Path) -> Fp8Choice:
    source = checkpoint_digest(folder, "vae")
    return Fp8Choice(source=source, producer="a test", psnr_db=47.25, convolutions=(NAME,))


def test_the_file_is_bound_to_its_weights(folder: Path) -> None:
    for missing in (None, folder):
        with pytest.raises(ModelError, match="was not measured") as refusal:
            find(missing)
        assert 'denoise.vae = "fused"' in str(refusal.value.fix)
    made, path = choice(folder), folder / FILE
    made.save(path)
    assert find(folder) == made
    replace(made, source="0" * 64).save(path)
    with pytest.raises(ModelError, match="0000000000000000, the model has"):
        find(folder)
    made.save(path)
    document = json.loads(path.read_text())
    for wrong in (
        document | {"schema": 2},
        document | {"convolutions": NAME},
        document | {"other": 1},
        {key: value for key, value in document.items() if key != "psnr_db"},
        [document],
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ModelError, match="is not usable"):
            find(folder)


def test_weights_in_fp8_are_planned_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = build_autoencoder()
    plain = bytes_of(vae)
    assert vae_bytes(vae, "fused", None) == plain
    with pytest.raises(ModelError, match="was not measured"):
        vae_bytes(vae, "fp8", folder)
    choice(folder).save(folder / FILE)
    planned = vae_bytes(vae, "fp8", folder)
    assert planned == plain + vae.get_submodule(NAME).weight.numel()
    monkeypatch.setattr("engine.autoencoder.vae_fused.check_convolutions", lambda vae, names: None)
    use_fused_vae(vae, fp8=[NAME])
    assert vae_bytes(vae, "fp8", folder) == bytes_of(vae) >= planned


def test_a_setting_makes_the_decoder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert use_vae(build_autoencoder(), "fused", None).startswith("fused: ")
    with pytest.raises(ModelError, match="was not measured"):
        use_vae(build_autoencoder(), "fp8", folder)
    choice(folder).save(folder / FILE)
    vae = build_autoencoder()
    with pytest.raises(SurgeryError, match=f"{NAME} cannot be FP8 here: 16 input channels") as refusal:
        use_vae(vae, "fp8", folder)
    assert 'denoise.vae = "fused"' in str(refusal.value.fix)
    assert fp8_convolutions(vae), "nothing was replaced"
    monkeypatch.setattr(fp8_choice, "fp8_convolutions", lambda vae: dict.fromkeys((NAME, "other")))
    monkeypatch.setattr("engine.autoencoder.vae_fused.check_convolutions", lambda vae, names: None)
    note = use_vae(vae, "fp8", folder)
    assert "1 of 2 convolutions in FP8, 47.2 dB (a test)" in note
    assert sum(isinstance(module, Fp8Conv) for module in vae.modules()) == 1
