"""The end of a demo: its run has ended, so what became of the scorer is no wrong option of the user's."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from bench.commands import demo
from engine import cli
from engine.types import Outcome


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs that were reported; nothing is rendered, and no model is run."""
    found: list[Path] = []

    def finish(folder: Path, outcomes: Mapping[str, Outcome]) -> None:
        found.append(folder)

    monkeypatch.setattr("engine.demo.showcase.write_showcase", lambda out: out.mkdir(parents=True))
    monkeypatch.setattr("engine.build.libraries.importing_ahead", lambda config: nullcontext())
    monkeypatch.setattr(demo, "execute", lambda build: {})
    monkeypatch.setattr(demo, "finish", finish)
    return found


def run_demo(out: Path) -> Result:
    return CliRunner().invoke(cli.app, ["demo", "--out", str(out)])


def told(result: Result) -> list[list[str]]:
    """Commands that score the run afterwards, as a shell reads them."""
    lines = [line.partition("to score it: ")[2] for line in result.output.splitlines()]
    return [shlex.split(line) for line in lines if line]


@pytest.mark.parametrize(("scorer", "status"), [(0, 0), (1, 1), (2, 1), (-9, 1), (130, 130)])
def test_the_status_is_that_of_a_run_that_has_ended(
    scorer: int, status: int, reported: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "run_module", lambda *words: scorer)
    out = tmp_path / "the demo"
    result = run_demo(out)
    assert result.exit_code == status, result.output
    assert reported == [out]
    again = ["retake", "score", str(out), "--all-attempts", "--allow-incomplete"]
    assert told(result) == ([again] if scorer else [])


def test_a_scorer_that_is_interrupted_says_how_to_go_on(
    reported: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*words: object) -> int:
        raise typer.Exit(130)

    monkeypatch.setattr(demo, "run_module", interrupted)
    result = run_demo(tmp_path / "demo")
    assert (result.exit_code, reported) == (130, []) and len(told(result)) == 1


def test_what_the_scorer_itself_refuses_is_a_failure_of_the_demo(
    reported: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset that the demo wrote is gone by then."""
    monkeypatch.setattr("engine.demo.showcase.write_showcase", lambda out: None)
    result = run_demo(tmp_path / "demo")
    assert (result.exit_code, len(reported)) == (1, 1), result.output
