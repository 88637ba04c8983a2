"""A loop beside itself with a setting changed: real small runs, what differs, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import make_folders, script_the_critic

import engine
import retake
from bench.quality.loop_variants import changed, main, scenes_of
from bench.results_page.result_files import ResultFile, read_file
from bench.results_page.variants_section import loop_variants
from engine.settings.config import LoopConfig, RunConfig


def test_what_differs_is_told_by_name_but_for_places() -> None:
    base = RunConfig(dataset=Path("a"), out=Path("b"))
    other = replace(base, dataset=Path("c"), out=Path("d"), loop=LoopConfig(finish_restarts=2), device="cpu")
    assert changed(base, other) == {"loop.finish_restarts": 2, "device": "cpu"}
    assert changed(base, replace(base, out=Path("e"), limit=3)) == {}
    gain = replace(base, loop=LoopConfig(gain="/home/me/models/gain.json"))
    assert changed(base, gain) == {"loop.gain": "gain.json"}, "a published file names no folder"
    held = {"trimmed-ball-relay-1200000", "trimmed-ball-relay-1200001"}  # as datasets name them
    names = {*held, "ball-relay-1605003", "0007_view"}
    assert scenes_of(names) == {"other": 1, "held-out": 2, "tuning": 1}


def test_a_run_is_compared_with_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script_the_critic(monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(engine.__file__).parents[1]))
    monkeypatch.setenv("RETAKE_CACHE", str(tmp_path / "cache"))
    folders, out = make_folders(tmp_path), tmp_path / "variants.json"
    models = {"generator.name": str(folders.generator), "critic.name": str(folders.critic), "device": "cpu"}
    settings = {**models, "loop.loops": 0, "generator.steps": 3}
    again = {"loop.finish_restarts": 1, "loop.restart_steps": 2}
    for name, more in (("base", {}), ("again", again), ("same", {})):
        retake.run(folders.dataset, tmp_path / name, settings | more)
    given = ["--run", str(tmp_path / "base"), "--out", str(out)]
    assert main([*given, "--variant", str(tmp_path / "same")]) == 2 and not out.exists()
    assert "has the settings of" in capsys.readouterr().err
    assert main([*given, "--variant", str(tmp_path / "again")]) == 0
    document = json.loads(out.read_text())
    (row,) = document["rows"]
    assert row["settings"] == {"loop.finish_restarts": 1, "loop.restart_steps": 2}
    assert row["name"] == "loop.finish_restarts = 1, loop.restart_steps = 2"
    gain = row["score"]["mean"] - row["base_score"]["mean"]
    assert row["difference"]["mean"] == pytest.approx(gain) != 0
    assert (row["left_out"], row["also_differs"], document["base"]["scenes"]) == ([], [], {"other": 2})
    assert (row["num_scenarios"], row["takes_a_scenario"]) == (2, 1.0)
    assert read_file(out).kind == "loop_variants" and str(tmp_path) not in out.read_text()


def test_the_section_has_a_row_a_setting_and_its_categories() -> None:
    difference = {"mean": 1.2, "ci95": [0.4, 2.0]}
    row = {
        "name": "loop.finish_restarts = 2",
        "num_scenarios": 240,
        "score": {"mean": 64.7, "ci95": [63.0, 66.0]},
        "base_score": {"mean": 63.5, "ci95": [62.0, 65.0]},
        "difference": difference,
        "by_category": {"Optics": {"n": 48} | difference},
        "takes_a_scenario": 1.0,
        "left_out": ["0007"],
        "also_differs": ["commit of retake: a, now b"],
    }
    base = {"num_scenarios": 240, "scenes": {"held-out": 240}, "takes_a_scenario": 1.0}
    manifest = {"config": {"loop": {"first_prompt": "plan"}}}
    document = {"base": base, "rows": [row], "manifest": manifest}
    section = loop_variants(ResultFile(name="x", kind="loop_variants", document=document))
    assert section.headline == "240 held-out scenes: `loop.finish_restarts = 2` +1.20 (+0.40 to +2.00) points"
    line = "| 240 | 64.7 (63.0 to 66.0) | 63.5 (62.0 to 65.0) | +1.20 (+0.40 to +2.00) | 1.00 |"
    assert f"| loop.finish_restarts = 2 {line}" in section.body and "| setting | Optics |" in section.body
    assert "First prompt: plan" in section.body and "1 scenario is left out" in section.body
    assert "not only the setting differs: commit of retake: a, now b" in section.body
