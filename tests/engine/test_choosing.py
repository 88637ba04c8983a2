"""Choosing another take as a user types it: resume, merge and score keep it and say whose it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from evaluators import in_this_process
from tiny_run import Folders, make_folders, script_the_critic
from typer.testing import CliRunner

from engine import cli
from engine.runs.store import RunStore


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    script_the_critic(monkeypatch)
    in_this_process(monkeypatch)


def call(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result.output


def test_choosing_another_take(
    folders: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, models = tmp_path / "run", ("--generator", folders.generator, "--critic", folders.critic)
    options = (*models, "--device", "cpu", "--dtype", "fp32", "--loops", 1, "--shard", "1/1")
    call("run", folders.dataset, *options, "--out", run)
    call("score", run, "--all-attempts", "--no-cache", "--jobs", 1)
    with RunStore.open(run, read_only=True) as store:
        first, second = store.scenarios()
        assert store.outcomes()[first.id].chosen == 1
    headline = json.loads((run / "scores.json").read_text())["physics_iq_verified"]

    said = call("choose", run, first.id, 0)
    assert f"{first.id}: take 0 of 0 to 1, chosen by you; the loop's was take 1" in said
    assert f"undo: retake choose {run} {first.id} --undo" in said
    assert "score again: retake score" in said
    chosen, takes = run / "chosen" / first.output_name, run / "videos" / first.id
    assert chosen.read_bytes() == (takes / "attempt-0.mp4").read_bytes()
    assert "Chosen by you" in (run / "report.html").read_text()

    whose = f"{first.id}: take 0 of 0 to 1, chosen by you; the loop's was take 1"
    chosen.unlink()
    said = call("resume", run)  # and what it puts back is the user's
    assert whose in said and second.id not in said
    assert chosen.read_bytes() == (takes / "attempt-0.mp4").read_bytes()
    assert whose in call("merge", run, "--out", tmp_path / "whole")
    merged = tmp_path / "whole" / "chosen" / first.output_name
    assert merged.read_bytes() == chosen.read_bytes()

    assert "the user chose the take" in call("table", run)  # of single takes, which one pass scored
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said = call("score", run, "--jobs", 1)
    assert whose in said
    scores = json.loads((run / "scores.json").read_text())
    assert any(whose in note for note in scores["notes"]) and scores["physics_iq_verified"] != headline
    assert scores["takes"][first.id]["loops"] == 1
    assert f"next: retake report {run}" in said and f"retake compare {run} OTHER" in said
    assert f"retake table {run}   (with --all-attempts here it has a row for each round)" in said
    assert f"Only the chosen clips of {run} are scored" in call("table", run)
    clips = shutil.copytree(tmp_path / "whole" / "chosen", tmp_path / "clips")
    said = call("compare", run, clips)
    assert f"A: {run}" in said and f"B: {clips}" in said and "A minus B" in said

    assert "chosen by the loop" in call("choose", run, first.id, "--undo")
    assert chosen.read_bytes() == (takes / "attempt-1.mp4").read_bytes()
    assert "already" in call("choose", run, first.id, 1)
    assert "chosen by you" not in call("resume", run)

    assert "0 to 1" in call("choose", run, first.id, 2, status=2)
    assert "nearest" in call("choose", run, first.id[:-1], 0, status=2)
    assert "no take is named" in call("choose", run, first.id, status=2)
    assert "exclude one another" in call("choose", run, first.id, 0, "--undo", status=2)


def test_samples_and_selectors_say_what_was_judged_and_why_it_was_chosen(
    folders: Folders, tmp_path: Path
) -> None:
    """The critic sees one take of the round: the report says so where a score would stand."""
    run, models = tmp_path / "run", ("--generator", folders.generator, "--critic", folders.critic)
    options = (*models, "--device", "cpu", "--dtype", "fp32", "--loops", 0, "--limit", 1)
    said = call("run", folders.dataset, *options, "--samples", 3, "--selectors", "consensus", "--out", run)
    with RunStore.open(run, read_only=True) as store:
        (outcome,) = store.outcomes().values()
    (judged,) = (take.index for take in outcome.attempts if take.critique is not None)
    assert f"winner of round 0: take {judged}" in said and "best of its round by consensus" in said
    assert f"chose take {outcome.chosen} of 0 to 2 (" in said and f"; judged: {judged}" in said
    page = (run / "report.html").read_text()
    others = sum(take.critique is None for take in outcome.attempts)
    assert page.count('<span class="chip">not judged</span>') >= others == 2
    filled = judged == 0 == outcome.chosen
    assert ("no scenario has a score of both" in page) is not filled
    assert "from one scored case alone" in call("score", run, "--all-attempts", "--no-cache", "--jobs", 1)
    call("report", run)
    page = (run / "report.html").read_text()
    assert "from one scored scenario alone" in page and "mean of 1 scenario, too few" in page
