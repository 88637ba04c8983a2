"""The run folder: round trips, refusals, and a child process killed at random loses and repeats nothing."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import SCENARIOS, FakeModels, Run, make_plan, without_timings

from engine.errors import RunLost, StoreError
from engine.runs.store import RunStore
from engine.types import (
    Attempt,
    Critique,
    Fault,
    Finding,
    Outcome,
    PhysicsPlan,
    PlanEvent,
    PlanObject,
    PlanReply,
    PlanRest,
    Prompt,
    Verdict,
)

PLAN = PhysicsPlan(
    objects=(PlanObject(name="ball", trait="red"),),
    motion=make_plan("left").motion,
    events=(PlanEvent(t=1.5, what="the ball hits “the block”"),),
    rest=(PlanRest(object="ball", t=None), PlanRest(object="block", t=2.5)),
    still=("table",),
    camera="static",
)
PROMPT = Prompt(text='A "ball"\n', negative="blurry", seed=2**32 - 1, revision=1, plan=PLAN)
CRITIQUE = Critique(
    verdict=Verdict.REVISE,
    score=41.5,
    seen=("a",),
    expected=("b", "c"),
    findings=(Finding(t=2.0, object="ball", issue="<b>passes through</b>"),),
    fault=Fault.TOO_ABSTRACT,
    revised=PLAN,
    raw="{…}",
    num_tokens=99,
    seconds=1.25,
    problem="plan.colour: not permitted",
)
REPLY = PlanReply(plan=PLAN, raw="raw", num_tokens=7, seconds=0.5)
FIRST = SCENARIOS[0].id


@pytest.fixture
def store(tmp_path: Path):
    with RunStore.create(tmp_path / "run", SCENARIOS) as created:
        yield created


def add_attempt(store: RunStore, index: int = 0) -> Attempt:
    path = store.video_path(FIRST, index)
    (store.folder / path).write_bytes(b"video %d" % index)
    attempt = Attempt(
        index=index, prompt=PROMPT, video_path=path, critique=CRITIQUE, timings={"generate": 0.1}
    )
    store.attempt(FIRST, attempt)
    return attempt


def test_a_store_reads_back_what_was_written(store: RunStore) -> None:
    store.plan(FIRST, REPLY)
    attempts = (add_attempt(store, 0), replace(add_attempt(store, 1), selector_scores={"consensus": 0.25}))
    outcome = Outcome(scenario_id=FIRST, attempts=attempts, chosen=1, stopped="accepted")
    store.outcome(outcome)
    failed = Outcome(scenario_id=SCENARIOS[1].id, attempts=(), failure="VideoError: gone")
    store.outcome(failed)
    store.opened([Path("b.mp4"), Path("a.mp4"), Path("b.mp4")])
    store.close()
    for read_only in (True, False):
        with RunStore.open(store.folder, read_only=read_only) as again:
            assert again.scenarios() == tuple(SCENARIOS)
            assert again.history(FIRST).plan == REPLY and again.history(FIRST).attempts == attempts
            assert again.outcomes() == {FIRST: outcome, SCENARIOS[1].id: failed}
            assert again.pending() == tuple(SCENARIOS[2:])
            assert again.opened_files() == (Path("a.mp4"), Path("b.mp4"))
            assert (again.folder / "chosen" / SCENARIOS[0].output_name).read_bytes() == b"video 1"


def test_readers_see_a_run_while_it_is_written(store: RunStore) -> None:
    attempt = add_attempt(store)
    with RunStore.open(store.folder, read_only=True) as reader:
        assert reader.attempts(FIRST) == (attempt,)
        with pytest.raises(RunLost, match="readonly"):
            reader.plan(FIRST, REPLY)


def test_one_writer_only(store: RunStore) -> None:
    with pytest.raises(StoreError, match="another process"):
        RunStore.open(store.folder)
    store.close()
    RunStore.open(store.folder).close()


def test_an_attempt_is_recorded_once_and_only_with_its_video(store: RunStore) -> None:
    attempt = add_attempt(store)
    with pytest.raises(sqlite3.IntegrityError):
        store.attempt(FIRST, attempt)
    with pytest.raises(FileNotFoundError):
        store.attempt(FIRST, replace(attempt, index=1, video_path=store.video_path(FIRST, 1)))
    with pytest.raises(ValueError, match="JSON compliant"):
        store.attempt(FIRST, replace(attempt, index=2, timings={"generate": float("nan")}))
    assert store.attempts(FIRST) == (attempt,)


def test_video_without_a_row_is_ignored_and_row_without_its_video_told(store: RunStore) -> None:
    attempt = add_attempt(store)
    (store.folder / store.video_path(FIRST, 1)).write_bytes(b"unfinished business")
    store.close()
    with RunStore.open(store.folder) as again:
        assert again.attempts(FIRST) == (attempt,)
        assert again.damaged_takes() == {}
        with (again.folder / attempt.video_path).open("ab") as file:
            file.truncate(3)
        assert again.damaged_takes() == {FIRST: 0}
        (again.folder / attempt.video_path).unlink()
        assert again.damaged_takes() == {FIRST: 0}
        second = add_attempt(again, 1)
        add_attempt(again, 2)
        (again.folder / second.video_path).write_bytes(b"video 2")
        places = {(FIRST, take.index): again.folder / take.video_path for take in (attempt, second)}
        assert again.changed_takes() == places and again.damaged_takes() == {FIRST: 0}


def test_takes_are_forgotten_with_those_that_followed(store: RunStore) -> None:
    attempts = tuple(add_attempt(store, index) for index in range(3))
    store.outcome(Outcome(scenario_id=FIRST, attempts=attempts, chosen=2, stopped="accepted"))
    store.forget_takes({FIRST: 1})
    assert store.attempts(FIRST) == attempts[:1] and store.pending() == tuple(SCENARIOS)


def test_a_chosen_clip_comes_back(store: RunStore) -> None:
    attempt = add_attempt(store)
    store.outcome(Outcome(scenario_id=FIRST, attempts=(attempt,), chosen=0, stopped="accepted"))
    clip = store.chosen_path(FIRST)
    assert store.restore_chosen() == ()
    clip.unlink()
    assert store.restore_chosen() == (clip.name,) and clip.read_bytes() == b"video 0"
    clip.write_bytes(b"vid")
    assert store.changed_chosen() == {FIRST: clip}
    assert store.restore_chosen() == (clip.name,) and clip.read_bytes() == b"video 0"


def test_newer_schema_is_refused(store: RunStore) -> None:
    store.close()
    with sqlite3.connect(store.folder / "run.sqlite") as database:
        database.execute("UPDATE meta SET value = '8' WHERE key = 'schema_version'")
    with pytest.raises(StoreError, match="schema version 8"):
        RunStore.open(store.folder)


def test_runs_of_version_1_are_read_and_continued(store: RunStore) -> None:
    attempts = tuple(add_attempt(store, index) for index in range(2))
    store.close()
    with sqlite3.connect(store.folder / "run.sqlite") as database:
        database.executescript(
            "ALTER TABLE attempts DROP COLUMN round; ALTER TABLE attempts DROP COLUMN sample;"
            "ALTER TABLE attempts DROP COLUMN video_sha256; DROP TABLE choices; DROP TABLE requests;"
            "DROP TABLE scouts;"
            "ALTER TABLE attempts DROP COLUMN device;"
            "UPDATE meta SET value = '1' WHERE key = 'schema_version'"
        )
    expected = tuple(replace(attempt, round=attempt.index) for attempt in attempts)
    with RunStore.open(store.folder, read_only=True) as old:
        assert old.attempts(FIRST) == expected and old.video_digests() == {}
    with RunStore.open(store.folder) as old:
        added = replace(add_attempt(old, 2), round=2, sample=1)
        old.judged(FIRST, added)
        assert old.attempts(FIRST)[:2] == expected and len(old.video_digests()) == 1
    with RunStore.open(store.folder, read_only=True) as new:
        assert len(new.attempts(FIRST)) == 3


def test_a_take_is_judged_later(store: RunStore) -> None:
    path = store.video_path(FIRST, 0)
    (store.folder / path).write_bytes(b"video")
    take = Attempt(index=0, prompt=PROMPT, video_path=path, critique=None, round=2, sample=3)
    store.attempt(FIRST, take)
    assert store.attempts(FIRST) == (take,)
    judged = replace(take, critique=CRITIQUE, timings={"generate": 1.0, "critique": 0.5})
    store.judged(FIRST, judged)
    assert store.attempts(FIRST) == (judged,)


def test_folders_that_are_no_run(tmp_path: Path, store: RunStore) -> None:
    with pytest.raises(StoreError, match="already holds a run"):
        RunStore.create(store.folder, SCENARIOS)
    with pytest.raises(StoreError, match="not a run folder"):
        RunStore.open(tmp_path / "nothing")
    (tmp_path / "run.sqlite").write_text("certainly not a database, but long enough to be read as one" * 20)
    for read_only in (True, False):
        with pytest.raises(StoreError, match="not a run store"):
            RunStore.open(tmp_path, read_only=read_only)


@pytest.mark.parametrize(
    "changed",
    [{"id": SCENARIOS[1].id}, {"output_name": SCENARIOS[1].output_name}, {"id": "../x"}, {"id": ".."}],
)
def test_names_that_would_collide_or_escape(tmp_path: Path, changed: dict[str, str]) -> None:
    with pytest.raises(StoreError, match=r"twice|file name"):
        RunStore.create(tmp_path / "other", [replace(SCENARIOS[0], **changed), *SCENARIOS[1:]])
    assert not (tmp_path / "other" / "run.sqlite").exists()


CHILD = """
import sys, time
sys.path[:0] = [{repo!r}, {tests!r}]
from pathlib import Path
from fake_run import SCENARIOS, FakeModels, Run
from engine.runs.store import RunStore

class Logging(FakeModels):
    def _job(self, name, scenario, revision, value):
        with open({log!r}, "a") as log:
            log.write(f"{{name}} {{scenario.id}} {{revision}}\\n")
        time.sleep(0.012)
        return super()._job(name, scenario, revision, value)

folder = Path({folder!r})
store = RunStore.open(folder) if (folder / "run.sqlite").exists() else RunStore.create(folder, SCENARIOS)
print("ready", flush=True)
with store:
    Run(store, Logging()).go(ahead=3)
"""


def snapshot(folder: Path) -> dict[str, tuple[bool, tuple[Attempt, ...]]]:
    with RunStore.open(folder) as store:
        histories = {scene.id: store.history(scene.id) for scene in SCENARIOS}
    # The selectors' scores are written later, with the outcome.
    return {
        name: (h.plan is not None, tuple(replace(a, selector_scores={}) for a in h.attempts))
        for name, h in histories.items()
    }


def test_killed_at_random_moments_nothing_is_lost_or_repeated(tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "killed"
    tests = Path(__file__).parents[2]
    support = str(tests / "support")
    code = CHILD.format(repo=str(tests.parent), tests=support, log=str(log), folder=str(folder))
    draw = random.Random(5)
    num_kills = 0
    known = {scene.id: (False, ()) for scene in SCENARIOS}
    while True:
        log.write_text("")
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline() == b"ready\n"
            if num_kills < 5:
                time.sleep(draw.uniform(0.0, 0.15))
                child.send_signal(signal.SIGKILL)
        now = snapshot(folder)
        started = log.read_text().splitlines()
        for scene in SCENARIOS:
            had_plan, attempts = known[scene.id]
            has_plan, longer = now[scene.id]
            assert longer[: len(attempts)] == attempts and has_plan >= had_plan, "finished work is lost"
            assert not (had_plan and f"plan {scene.id} 0" in started), "a stored plan was made again"
            num_started = sum(line.startswith(f"generate {scene.id} ") for line in started)
            assert num_started <= len(longer) - len(attempts) + 1, "a stored attempt was made again"
        known = now
        if child.returncode == 0:
            break
        num_kills += 1
    assert num_kills >= 3, "the child was too fast to be killed"
    with RunStore.create(tmp_path / "whole", SCENARIOS) as store:
        expected = Run(store, FakeModels()).go(overlap=False)
    with RunStore.open(folder) as store:
        assert without_timings(store.outcomes()) == without_timings(expected)
        assert len(list((folder / "chosen").glob("*.mp4"))) == len(SCENARIOS)
