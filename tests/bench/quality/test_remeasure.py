"""The order of a campaign: what waits for what, what is repeated, and what a failure holds up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.quality import remeasure
from bench.quality.remeasure import ENGINE, PARTS, Step, steps, wanted
from engine.errors import ConfigError


def asked(tmp_path: Path, *more: str) -> list[Step]:
    options = remeasure._parser().parse_args(["--work", str(tmp_path), "--engines", "3", *more])
    return list(steps(options))


def test_every_step_waits_for_steps_that_there_are(tmp_path: Path) -> None:
    found = asked(tmp_path)
    names = [step.name for step in found]
    assert len(names) == len(set(names))
    assert {name for step in found for name in step.after} < set(names)
    assert {step.part for step in found} == set(PARTS)


def test_a_run_is_made_in_as_many_shards_as_engines_and_then_merged(tmp_path: Path) -> None:
    by_name = {step.name: step for step in asked(tmp_path)}
    merge = by_name["default/run"]
    assert merge.after == ("default/run-1/3", "default/run-2/3", "default/run-3/3")
    folders = [word for word in merge.words if word.endswith("-of-3")]
    for shard, folder in zip(merge.after, folders, strict=True):
        words = by_name[shard].words
        assert words[words.index("--out") + 1] == folder
        assert by_name[shard].kind == ENGINE


def test_a_part_brings_what_it_needs_of_others(tmp_path: Path) -> None:
    found = wanted(asked(tmp_path), ["controls"], PARTS)
    assert {"controls/figures", "default/run", "default/scenes"} < {step.name for step in found}
    assert not any(step.part in ("selectors", "denoiser", "budget") for step in found)
    assert "default/quality" not in {step.name for step in found}


def test_an_unknown_part_is_refused_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="'speed' is no part") as refused:
        wanted(asked(tmp_path), ["speed"], PARTS)
    assert all(part in str(refused.value.fix) for part in PARTS)
    assert remeasure.main(["--work", str(tmp_path), "--count", "241"]) == 2
    assert "241 scenes" in capsys.readouterr().err


def test_a_list_needs_no_folder_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert remeasure.main(["--only", "controls", "--list"]) == 0
    told = capsys.readouterr().out
    assert "controls/figures: python -m bench.quality.loop_controls --run WORK/default" in told
    with pytest.raises(SystemExit, match="2"):
        remeasure.main(["--only", "controls"])
    assert "give a folder: --work WORK" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
