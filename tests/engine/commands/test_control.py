"""The commands pause, unpause and skip on a run that goes on, with real small models."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_critic import ScriptedCritic
from tiny_run import Folders, make_folders, script_the_critic
from typer.testing import CliRunner, Result

from engine import cli
from engine.build.opened_dataset import open_dataset
from engine.runs import requests
from engine.runs.store import RunStore
from engine.types import SKIPPED, Wish
from engine.watch.view import RunView


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")
    script_the_critic(monkeypatch)
    # A scenario of tiny models can end between two looks of a quarter of a second.
    monkeypatch.setattr(requests, "LOOK_EVERY_S", 0.0)


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def text(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


def run(folders: Folders, out: Path) -> Result:
    models = ("--generator", folders.generator, "--critic", folders.critic)
    return invoke(
        "run", folders.dataset, *models, "--out", out, "--device", "cpu", "--dtype", "fp32", "--loops", 1
    )


def once_stored(monkeypatch: pytest.MonkeyPatch, then: Callable[[RunStore, str], None]) -> None:
    """Call `then` with the store and the scenario once, right after the first take was stored."""
    keep, done = RunStore.attempt, []

    def keeping(store: RunStore, name: str, *given: Any) -> None:
        keep(store, name, *given)
        if not done:
            done.append(name)
            then(store, name)

    monkeypatch.setattr(RunStore, "attempt", keeping)


def test_a_scenario_is_skipped_while_the_run_goes_on_and_made_when_that_is_undone(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, said = tmp_path / "run", []
    with monkeypatch.context() as patched:
        once_stored(patched, lambda store, name: said.append((name, invoke("skip", out, name))))
        result = run(folders, out)
    ((name, asked),) = said
    assert asked.exit_code == 0 and f"{name}: ends at the next step" in asked.output
    assert result.exit_code == 0, result.output
    assert f"{name} is skipped, as the user asked" in (out / "run.log").read_text()
    with RunStore.open(out, read_only=True) as store:
        (asked_for,) = store.requests.all()
        assert (asked_for.wish, asked_for.scenario_id) == (Wish.SKIP, name)
        skipped = store.outcomes()[name]
        assert (skipped.stopped, skipped.chosen, len(skipped.attempts)) == (SKIPPED, 0, 1)
        (other,) = (one for one in store.outcomes().values() if one.scenario_id != name)
        assert other.stopped != SKIPPED and len(other.attempts) == 2
    assert "skipped" in (out / "report.html").read_text()
    assert "is finished" in text(invoke("skip", out, name))
    assert "is not skipped" in text(invoke("skip", out, other.scenario_id, "--undo"))
    assert "none such" in text(invoke("skip", out, "none such", "--undo"))

    undone = invoke("skip", out, name, "--undo")
    assert undone.exit_code == 0 and "retake resume" in undone.output
    assert invoke("resume", out).exit_code == 0
    with RunStore.open(out, read_only=True) as store:
        assert len(store.outcomes()[name].attempts) == 2 and store.outcomes()[name].stopped != SKIPPED


def test_a_run_is_paused_and_goes_on(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stored from when the pause is recorded and what was in hand is stored until the run is told
    to go on."""
    out, takes, launched = tmp_path / "run", [], []
    start = ScriptedCritic.start

    def noting(critic: ScriptedCritic, *given: Any) -> Any:
        launched.append(1)
        return start(critic, *given)

    def goes_on() -> None:
        while True:
            with RunStore.open(out, read_only=True) as store:
                numbers = store.overview.take_numbers()
                in_hand = len(launched) - sum(map(len, numbers.values()))
                if [one.wish for one in store.requests.all()] == [Wish.PAUSE] and not in_hand:
                    takes.append((numbers, len(launched)))
                    break
        view = RunView(out)
        shown.append(view.changes(""))
        view.close()
        for _ in range(20):
            with RunStore.open(out, read_only=True) as store:
                takes.append((store.overview.take_numbers(), len(launched)))
        said.append(invoke("unpause", out))

    def pauses(store: RunStore, name: str) -> None:
        said.append(invoke("pause", out))
        threading.Thread(target=goes_on).start()

    said: list[Result] = []
    shown: list[dict[str, Any]] = []
    with monkeypatch.context() as patched:
        patched.setattr(ScriptedCritic, "start", noting)
        once_stored(patched, pauses)
        result = run(folders, out)
    assert result.exit_code == 0, result.output
    assert [one.exit_code for one in said] == [0, 0]
    assert f"retake unpause {out}" in text(said[0])
    assert len(takes) == 21 and all(each == takes[0] for each in takes)
    (page,) = shown
    assert page["live"] and 'data-state="paused"' in page["parts"]["status"] and page["latest"] is not None
    assert f"retake unpause {out}" in page["parts"]["status"] and "<video" in page["parts"]["latest"]
    assert "is paused, as the user asked" in (out / "run.log").read_text()
    with RunStore.open(out, read_only=True) as store:
        assert all(len(one.attempts) == 2 for one in store.outcomes().values())
        assert [one.wish for one in store.requests.all()] == [Wish.PAUSE, Wish.UNPAUSE]
    for command in ("pause", "unpause"):
        refused = invoke(command, out)
        assert refused.exit_code == 2 and "is finished" in text(refused), refused.output
        assert f"retake report {out}" in text(refused)
    RunStore.create(tmp_path / "begun", open_dataset(folders.dataset).scenarios(8.0)).close()
    assert f"go on with it: retake resume {tmp_path / 'begun'}" in text(invoke("pause", tmp_path / "begun"))
    assert "holds no run.sqlite" in text(invoke("pause", tmp_path))
