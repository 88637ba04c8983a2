"""The user's choice over the loop's: kept, undone, and refused where there is nothing to choose."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import SCENARIOS, FakeModels, Run

from engine.errors import ConfigError, StoreError
from engine.runs.choices import choose, command, describe, users_choices
from engine.runs.store import RunStore
from engine.runs.takes import is_of, takes_of
from engine.types import Outcome

FIRST, SECOND = SCENARIOS[0], SCENARIOS[1]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The second scenario failed after its takes, the last one is not finished."""
    with RunStore.create(tmp_path / "run", SCENARIOS) as store:
        Run(store, FakeModels(seed=1)).go(limit=len(SCENARIOS) - 1, overlap=False)
        done = store.outcomes()
        store.forget_takes({SECOND.id: len(done[SECOND.id].attempts)})
        store.outcome(replace(done[SECOND.id], chosen=None, failure="lost", stopped=None))
    return tmp_path / "run"


def outcome_of(run: Path, name: str = FIRST.id) -> Outcome:
    with RunStore.open(run, read_only=True) as store:
        return store.outcomes()[name]


def clip(run: Path, output_name: str = FIRST.output_name) -> bytes:
    return (run / "chosen" / output_name).read_bytes()


def other_take(outcome: Outcome) -> int:
    return next(take.index for take in reversed(outcome.attempts) if take.index != outcome.own.chosen)


def test_a_choice_is_kept_and_its_clip_placed_until_it_is_undone(run: Path) -> None:
    own = outcome_of(run)
    take = other_take(own)
    before, after = choose(run, FIRST.id, take)
    assert (before, after) == (own, outcome_of(run))
    assert (after.chosen, after.overruled, after.stopped) == (take, own, own.stopped)
    assert clip(run) == (run / own.attempts[take].video_path).read_bytes() != b""
    assert "chosen by you" in describe(after) and f"the loop's was take {own.chosen}" in describe(after)
    assert users_choices([after, own]) == [f"{FIRST.id}: {describe(after)}"]
    for back in (None, own.chosen):  # --undo, or the loop's own take
        choose(run, FIRST.id, take)
        assert choose(run, FIRST.id, back)[1] == own == outcome_of(run)
        assert clip(run) == (run / own.attempts[own.chosen].video_path).read_bytes()


def test_scores_of_takes_outlive_a_choice_those_of_the_run_do_not(run: Path) -> None:
    with RunStore.open(run, read_only=True) as store:
        scored = {"takes": takes_of(store)}
    choose(run, FIRST.id, other_take(outcome_of(run)))
    with RunStore.open(run, read_only=True) as store:
        assert not is_of(scored, store) and is_of(scored, store, whoever_chosen=True)
        assert not is_of({"takes": {FIRST.id: {}}}, store, whoever_chosen=True)


def test_a_take_of_a_failed_scenario_is_kept_by_a_resumed_run(run: Path) -> None:
    choose(run, SECOND.id, 0)
    assert clip(run, SECOND.output_name) == (run / "videos" / SECOND.id / "attempt-0.mp4").read_bytes()
    with RunStore.open(run) as store:
        assert store.forget_failures() == ()
    choose(run, SECOND.id, None)
    assert outcome_of(run, SECOND.id).failure == "lost"
    assert not (run / "chosen" / SECOND.output_name).exists()
    with RunStore.open(run) as store:
        assert store.forget_failures() == (SECOND.id,)


def test_a_choice_outlives_takes_that_are_made_again(run: Path) -> None:
    take = other_take(outcome_of(run))
    choose(run, FIRST.id, take)
    with RunStore.open(run) as store:
        store.forget_takes({FIRST.id: 0})
        assert FIRST.id not in store.outcomes()
        Run(store, FakeModels(seed=1)).go(overlap=False)
    assert outcome_of(run).chosen == take and outcome_of(run).overruled is not None
    assert clip(run) == (run / "videos" / FIRST.id / f"attempt-{take}.mp4").read_bytes()


def test_what_cannot_be_chosen_is_refused_and_nothing_changes(run: Path) -> None:
    before, last = outcome_of(run), len(outcome_of(run).attempts) - 1
    with pytest.raises(ConfigError, match=f"has no take {last + 1}\n.*0 to {last}"):
        choose(run, FIRST.id, last + 1)
    with pytest.raises(ConfigError, match=f"nearest: {FIRST.id}"):
        choose(run, FIRST.id + "x", 0)
    with pytest.raises(StoreError, match="is not finished"):
        choose(run, SCENARIOS[-1].id, 0)
    (run / before.attempts[last].video_path).write_bytes(b"another")
    with pytest.raises(StoreError, match="missing or not as it was stored"):
        choose(run, FIRST.id, last)
    with RunStore.open(run), pytest.raises(StoreError, match="being written"):
        choose(run, FIRST.id, 0)
    assert outcome_of(run) == before


def test_an_older_store_is_read_as_it_is_and_brought_up_by_a_choice(run: Path) -> None:
    with sqlite3.connect(run / "run.sqlite") as connection:
        connection.execute("DROP TABLE choices")
        connection.execute("DROP TABLE requests")
        connection.execute("DROP TABLE scouts")
        connection.execute("ALTER TABLE attempts DROP COLUMN device")
        connection.execute("UPDATE meta SET value = '3' WHERE key = 'schema_version'")
    own = outcome_of(run)
    assert own.overruled is None
    choose(run, FIRST.id, other_take(own))
    assert outcome_of(run).overruled == own


def test_the_command_is_one_line_for_a_shell() -> None:
    assert command(Path("my runs/a"), "0001_x", 2) == "retake choose 'my runs/a' 0001_x 2"
    assert command(Path("runs/a"), "it's", None).endswith(" --undo")
