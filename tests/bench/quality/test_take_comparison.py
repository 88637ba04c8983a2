"""Variants of a generator side by side: takes, shards, what cannot load, differences and scores."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tiny_run import Folders, make_folders

from bench.quality import denoiser_quality, take_comparison
from bench.quality.take_comparison import Variant
from engine.errors import ConfigError
from engine.generators.wan import generator as wan

CONSOLE = Console(quiet=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")


def options(folders: Folders, work: Path, **changes: Any) -> argparse.Namespace:
    model = {"generator": str(folders.generator), "device": "cpu"}
    given = {"dataset": folders.dataset, "work": work, "shard": "1/1", **model}
    return argparse.Namespace(**given | changes)


def variant(folders: Folders, name: str, steps: int) -> Variant:
    def load() -> Any:
        return wan.load(folders.generator, device="cpu", dtype="fp32", num_inference_steps=steps)

    return Variant(name=name, load=load)


def refusing(name: str) -> Variant:
    def load() -> Any:
        raise ConfigError(f"{name} cannot be had", fix="none")

    return Variant(name=name, load=load)


def test_two_shards_are_one_measurement(folders: Folders, tmp_path: Path) -> None:
    variants = [
        variant(folders, "one step", 1),
        variant(folders, "same", 1),
        variant(folders, "three steps", 3),
        refusing("absent"),
    ]
    for shard in ("1/2", "2/2"):
        take_comparison.make(variants, options(folders, tmp_path, shard=shard), CONSOLE)
    settings = {one.name: {"name": one.name} for one in variants}
    document = take_comparison.score(settings, options(folders, tmp_path), CONSOLE)
    assert document["num_scenarios"] == 2 and document["not_run"].keys() == {"absent"}
    base, same, other = document["rows"]
    assert [row["name"] for row in document["rows"]] == ["one step", "same", "three steps"]
    assert base["difference"] == same["difference"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
    assert base["psnr_db"] is None and base["relative_error"] == {"median": 0.0, "p90": 0.0}
    assert same["score"] == base["score"] and 0 < base["score"]["mean"] < 100
    assert other["psnr_db"]["median"] > 0 and other["relative_error"]["median"] > 0
    assert other["difference"]["mean"] == pytest.approx(other["score"]["mean"] - base["score"]["mean"])
    assert (base["steps"], other["steps"]) == (1.0, 3.0), "encoding and decoding are no steps"
    assert base["ms_per_take"] > 0
    assert base["choices"] == {"forward": "library"} and other["settings"] == {"name": "three steps"}
    assert json.loads(json.dumps(document)) and "cpu" in str(document["manifest"])


def test_the_first_variant_must_load(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="base cannot be had"):
        take_comparison.make(
            [refusing("base"), variant(folders, "b", 1)], options(folders, tmp_path), CONSOLE
        )


def test_what_is_not_there_is_said(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no records"):
        take_comparison.score({"a": {}}, options(folders, tmp_path), CONSOLE)
    with pytest.raises(ConfigError, match=r"part 3/3 of .* holds no scene"):
        take_comparison.make([variant(folders, "a", 1)], options(folders, tmp_path, shard="3/3"), CONSOLE)


def test_difference_of_frames() -> None:
    base = np.full((2, 4, 4, 3), 100, np.uint8)
    assert take_comparison.difference(base, base) == {"psnr_db": None, "relative_error": 0.0}
    found = take_comparison.difference(base + np.uint8(10), base)
    assert found["relative_error"] == pytest.approx(0.1)
    assert found["psnr_db"] == pytest.approx(10 * np.log10(255**2 / 100))


def test_a_prefix_of_its_own_has_no_price(folders: Folders, tmp_path: Path) -> None:
    """Kept for some steps it is what it is anyway: a row of zeros would speak for other generators."""
    own = shutil.copytree(folders.generator, tmp_path / "own")
    told = json.loads((own / "retake.json").read_text(encoding="utf-8"))
    (own / "retake.json").write_text(json.dumps(told | {"prefix_attention": "own"}), encoding="utf-8")
    given = argparse.Namespace(generator=str(own), device="cpu", dtype="fp32")
    with pytest.raises(ConfigError, match="computed once a take and has no price"):
        denoiser_quality._load(given, denoiser_quality.VARIANTS["prefix kept through 0.1"])


def test_variants_of_the_denoiser_go_through_it(folders: Folders, tmp_path: Path) -> None:
    common = ("--dataset", str(folders.dataset), "--work", str(tmp_path / "w"))
    model = ("--generator", str(folders.generator), "--device", "cpu", "--dtype", "fp32")
    some = ("--variants", "fast forward,guidance gated at 0.5,FA3 FP8 attention")
    assert denoiser_quality.main(["make", *common, *model, *some]) == 0
    assert denoiser_quality.main(["score", *common, "--out", str(tmp_path / "q.json")]) == 0
    document = json.loads((tmp_path / "q.json").read_text())
    assert (document["schema"], document["kind"]) == (1, "denoiser_quality")
    names = [row["name"] for row in document["rows"]]
    assert names == ["exact", "fast forward", "guidance gated at 0.5"]
    assert document["rows"][1]["settings"]["forward"] == "fast"
    assert "FA3 FP8 attention" in document["not_run"]
    assert denoiser_quality.main(["make", *common, "--variants", "no such"]) == 2
