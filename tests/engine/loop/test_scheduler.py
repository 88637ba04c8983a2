"""The scheduler with fake jobs: overlapped equals serial, failures stay local, resuming is exact.

The policy, store, recorder and host pool are the real ones; only the models are fakes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import (
    BY_CRITIC,
    BY_LOOKS,
    OF_THREE,
    PLAN_FIRST,
    POLICIES,
    SCENARIOS,
    FakeJob,
    FakeModels,
    LateFence,
    Run,
    without_timings,
)

from engine.errors import DeviceError
from engine.loop.lanes import CRITIQUE, GENERATE, Threads
from engine.loop.policy import RefinementPolicy
from engine.loop.scenario import ScenarioLoop
from engine.machine.streams import HostThread
from engine.protocols import Fence, Job
from engine.runs.store import RunStore
from engine.runs.timeline import totals
from engine.types import (
    History,
    Outcome,
    PlanReply,
    Scenario,
)


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Outcome]]:
    """By policy: one job at a time, nothing fails."""
    found = {}
    for name, policy in POLICIES.items():
        with RunStore.create(tmp_path_factory.mktemp("serial") / "run", SCENARIOS) as store:
            found[name] = Run(store, policy=policy).go(overlap=False)
    return found


@pytest.fixture(scope="module")
def serial(oracles) -> dict[str, Outcome]:
    return oracles["critic"]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durability is not tested here, and flushing a thousand tiny files takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def make_run(tmp_path: Path):
    runs: list[Run] = []

    def make(seed: int = 0, policy: RefinementPolicy = BY_CRITIC) -> Run:
        store = RunStore.create(tmp_path / f"run-{len(runs)}", SCENARIOS)
        runs.append(Run(store, FakeModels(seed=seed), policy=policy))
        return runs[-1]

    yield make
    for run in runs:
        run.store.close()


def test_serial_equals_overlapped(make_run, serial) -> None:
    assert len(serial) == len(SCENARIOS) and all(o.chosen is not None and o.stopped for o in serial.values())
    assert len({len(o.attempts) for o in serial.values()}) > 1, "the fakes should stop at different rounds"
    for seed, ahead in [(0, 1), (1, 3), (2, 8)]:
        assert without_timings(make_run(seed).go(ahead=ahead)) == without_timings(serial)


def test_steps_that_end_between_launch_and_retire_do_not_stop_the_run(make_run, serial) -> None:
    """Both steps in flight are over at the same look: that tick launches nothing and lands nothing."""

    class Together(FakeJob):
        def launch(self) -> Fence:
            super().launch()
            return LateFence(3 if self.steps_left % 2 == 0 else 1)

    class Models(FakeModels):
        def _job(self, name: str, scene: Scenario, revision: int, value: object) -> FakeJob:
            return Together(value, 5)

    for overlap in (True, False):
        run = make_run()
        run.models = Models()
        assert without_timings(run.go(overlap=overlap, ahead=1)) == without_timings(serial)


@pytest.mark.parametrize("name", POLICIES)
def test_serial_equals_overlapped_under_every_policy(make_run, oracles, name: str) -> None:
    expected = oracles[name]
    assert all(outcome.chosen is not None for outcome in expected.values())
    for seed, ahead in [(1, 1), (2, 8)]:
        found = make_run(seed, POLICIES[name]).go(ahead=ahead)
        assert without_timings(found) == without_timings(expected)


@pytest.mark.parametrize("name", POLICIES)
def test_serial_equals_overlapped_with_a_thread_for_each_lane(make_run, oracles, name: str) -> None:
    with HostThread("generate") as one, HostThread("critique") as other, HostThread("start") as starts:
        threads = Threads(of={GENERATE: one, CRITIQUE: other}, starts=starts)
        for seed, ahead, replies in [(1, 2, 1), (2, 4, 4)]:
            found = make_run(seed, POLICIES[name]).go(ahead=ahead, threads=threads, replies=replies)
            assert without_timings(found) == without_timings(oracles[name])


def test_without_overlap_a_take_is_stored_before_it_is_judged(make_run) -> None:
    run = make_run()
    run.go(overlap=False)
    order = [(s.scenario_id, s.attempt, s.name) for s in run.recorder.spans() if s.name != "plan"]
    steps = list(dict.fromkeys(order))
    for (one, index, name), following in itertools.pairwise(steps):
        if name == "generate":
            assert following == (one, index, "encode")
        if name == "encode":
            assert following == (one, index, "critique")


def test_rounds_of_three(make_run) -> None:
    run = make_run(policy=OF_THREE)
    for scene_id, outcome in run.go().items():
        takes = outcome.attempts
        assert [(t.index, t.round, t.sample) for t in takes] == [
            (i, i // 3, i % 3) for i in range(len(takes))
        ]
        for round_number in range(len(takes) // 3):
            mates = takes[3 * round_number : 3 * round_number + 3]
            assert len({t.prompt.text for t in mates}) == 1 and len({t.prompt.seed for t in mates}) == 3
            judged = [t for t in mates if t.critique is not None]
            brightest = max(mates, key=lambda t: t.selector_scores["brightness"])
            assert judged == [brightest] and "critique" in brightest.timings
        assert outcome.chosen is not None and takes[outcome.chosen].critique is not None
        made = [call for call in run.models.calls if call[1] == scene_id]
        assert sum(call[0] == "generate" for call in made) == len(takes)
        assert sum(call[0] == "critique" for call in made) == len(takes) // 3
    lanes = {(span.lane, span.name) for span in run.recorder.spans()}
    assert {("select", "select"), ("select", "read"), ("encode", "encode")} <= lanes


def test_sample_0_of_round_0_is_the_take_of_a_run_with_one_sample(oracles) -> None:
    for name, outcome in oracles["of three"].items():
        assert outcome.attempts[0].prompt == oracles["critic"][name].attempts[0].prompt
        # and so is round 1's, which is the plan's prompt with the scenario's seed
        if len(oracles["critic"][name].attempts) > 1 and len(outcome.attempts) > 3:
            assert outcome.attempts[3].prompt == oracles["critic"][name].attempts[1].prompt


def test_a_loop_that_begins_with_the_plan_makes_no_take_before_it(make_run, oracles) -> None:
    run = make_run(policy=PLAN_FIRST)
    found = without_timings(run.go())
    assert found == without_timings(oracles["plan first"])
    for name, outcome in found.items():
        assert [(t.round, t.sample) for t in outcome.attempts[:2]] == [(1, 0), (1, 1)]
        assert all(t.prompt.plan is not None for t in outcome.attempts)
        calls = [call[0] for call in run.models.calls if call[1] == name]
        assert calls.index("plan") < calls.index("generate")
        of_brief_first = oracles["critic"][name].attempts
        if len(of_brief_first) > 1:
            assert outcome.attempts[0].prompt == of_brief_first[1].prompt, "it would have come second"


class Killed(BaseException):
    """Unlike an Exception, passes through the scheduler as a kill does."""


def kill_at(count: int, *, after: bool, target: object, piece: str, counter: list[int]) -> None:
    """Raise Killed before or after piece of work number `count`; `counter` is shared by all pieces."""
    original = getattr(target, piece)

    def dying(*arguments: object) -> object:
        counter[0] += 1
        number = counter[0]
        if number == count and not after:
            raise Killed
        value = original(*arguments)
        if number == count:
            raise Killed
        return value

    setattr(target, piece, dying)


STORED = ("plan", "scout", "ranked", "attempt", "judged", "outcome")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["looks", "of three", "all judged", "plan first", "scouts"])
def test_killed_at_any_piece_of_work_the_outcome_is_the_same(
    make_run, oracles, name: str, after: bool
) -> None:
    """Between takes of a round, at the selectors, at the critique, at the outcome."""
    expected = oracles[name]
    for count in itertools.count(1):
        run, counter = make_run(policy=POLICIES[name]), [0]
        for piece in STORED:
            kill_at(count, after=after, target=run.store, piece=piece, counter=counter)
        for piece in ("select", "read", "preview"):
            kill_at(count, after=after, target=run, piece=piece, counter=counter)
        try:
            run.go(ahead=1, limit=1)
        except Killed:
            pass
        else:
            break
        stored = {scene.id: len(run.store.attempts(scene.id)) for scene in SCENARIOS[:1]}
        looks = {scene.id: run.store.scouts.of(scene.id) for scene in SCENARIOS[:1]}
        for piece in STORED:
            delattr(run.store, piece)
        del run.select, run.read, run.preview
        run.models.calls.clear()
        found = run.go(ahead=1, limit=1)
        for scene_id, num_stored in stored.items():
            assert without_timings(found)[scene_id] == without_timings(expected)[scene_id], count
            made = sum(call[:2] == ("generate", scene_id) for call in run.models.calls)
            assert made == len(expected[scene_id].attempts) - num_stored, "a stored take was made again"
            scouted = sum(call[:2] == ("scout", scene_id) for call in run.models.calls)
            there = run.store.scouts.of(scene_id)
            assert scouted == len(there) - len(looks[scene_id]), "a stored scout was made again"
            assert there[: len(looks[scene_id])] == looks[scene_id] or any(
                s.place is None for s in looks[scene_id]
            )
            assert [scout.number for scout in there] == list(range(len(there)))
    assert count > 8


def test_scouts_are_the_same_with_and_without_overlap(make_run) -> None:
    found = []
    for overlap, ahead in [(False, 1), (True, 4)]:
        run = make_run(policy=POLICIES["scouts"])
        run.go(overlap=overlap, ahead=ahead)
        looks = [replace(s, timings={}) for one in SCENARIOS for s in run.store.scouts.of(one.id)]
        found.append(looks)
    assert found[0] == found[1]
    assert {look.round for look in found[0]} > {0, 1}, "some scenarios have further rounds"
    assert sum(look.round == 0 and look.stage == 0 for look in found[0]) == 4 * len(SCENARIOS)


def test_a_scout_that_fails_costs_its_scenario_alone(make_run, oracles) -> None:
    run = make_run(policy=POLICIES["scouts"])
    lost = SCENARIOS[1].id
    run.models.fails["scout", lost] = RuntimeError("no scout")
    found = run.go()
    assert found.pop(lost).failure == "RuntimeError: no scout"
    expected = {name: one for name, one in oracles["scouts"].items() if name != lost}
    assert without_timings(found) == without_timings(expected)


def test_take_is_complete_and_champion_is_copied(make_run) -> None:
    run = make_run()
    outcomes = run.go()
    assert sorted(run.progress.ids) == [s.id for s in SCENARIOS]
    for scene in SCENARIOS:
        outcome = outcomes[scene.id]
        assert outcome.chosen is not None
        chosen = outcome.attempts[outcome.chosen]
        assert set(chosen.timings) == {"generate", "critique", "encode"}
        assert set(chosen.selector_scores) <= {"critic_score"}
        copied = (run.store.folder / "chosen" / scene.output_name).read_bytes()
        assert copied == (run.store.folder / chosen.video_path).read_bytes()
        assert run.store.history(scene.id).plan is not None
    assert all(done == total for done, total in run.progress.last.values())


def test_lanes_overlap_and_serial_does_not(make_run) -> None:
    active: list[dict[str, int]] = []

    class Watched(FakeModels):
        def _job(self, name: str, scene: Scenario, revision: int, value: object) -> FakeJob:
            jobs.append((name, job := super()._job(name, scene, revision, value)))
            running = [kind for kind, other in jobs if other.steps_left and other is not job]
            active.append({kind: running.count(kind) for kind in set(running)})
            return job

    for overlap in (True, False):
        jobs: list[tuple[str, FakeJob]] = []
        active.clear()
        run = make_run()
        run.models = Watched()
        run.go(overlap=overlap)
        assert any(active) == overlap, "jobs of other lanes run while one starts, if and only if overlapped"
        share = totals(run.recorder.spans()).overlap_share
        assert overlap or share == 0.0


def test_ahead_bounds_the_scenarios_in_flight(make_run) -> None:
    run = make_run()
    begun: list[str] = []
    most = 0

    class Watched(FakeModels):
        def plan(self, scene: Scenario) -> Job[PlanReply]:
            nonlocal most
            begun.append(scene.id)
            most = max(most, len(set(begun)) - len(run.progress.ids))
            return super().plan(scene)

    run.models = Watched()
    run.go(ahead=2)
    assert most == 2


@pytest.mark.parametrize(
    ("lane", "overlap"),
    [("plan", True), ("generate", True), ("generate", False), ("critique", True), ("encode", True)],
)
def test_failure_costs_one_scenario(make_run, serial, lane: str, overlap: bool) -> None:
    run = make_run()
    broken = SCENARIOS[2].id
    run.models.fails[lane, broken] = ValueError("bad prefix")
    outcomes = run.go(overlap=overlap)
    assert outcomes[broken].failure == "ValueError: bad prefix" and outcomes[broken].chosen is None
    others = {name: o for name, o in outcomes.items() if name != broken}
    assert without_timings(others) == without_timings({n: o for n, o in serial.items() if n != broken})
    # The failure is not for ever: once its cause is mended, only this scenario runs again.
    run.models.fails.clear()
    run.models.calls.clear()
    assert run.store.forget_failures() == (broken,)
    assert without_timings(run.go()) == without_timings(serial)
    assert {name for _, name, _ in run.models.calls} == {broken}


class AcceleratorError(RuntimeError):
    pass


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: illegal access"), AcceleratorError("x")])
def test_lost_device_ends_the_run_and_keeps_the_store(make_run, serial, error: Exception) -> None:
    run = make_run()
    run.models.fails["generate", SCENARIOS[3].id] = error
    with pytest.raises(DeviceError, match="retake resume"):
        run.go(ahead=1)
    assert list(run.store.outcomes()) == [s.id for s in SCENARIOS[:3]]
    run.models.fails.clear()
    assert without_timings(run.go()) == without_timings(serial)


def test_out_of_memory_is_not_a_lost_device(make_run) -> None:
    run = make_run()
    run.models.fails["generate", SCENARIOS[3].id] = RuntimeError("CUDA out of memory.")
    assert sum(o.failure is not None for o in run.go().values()) == 1


def test_interrupt_passes_and_resume_repeats_nothing(make_run, serial) -> None:
    run = make_run()
    original = run.models._job
    budget = 14

    def interrupting(name: str, scene: Scenario, revision: int, value: object) -> FakeJob:
        nonlocal budget
        budget -= 1
        if budget == 0:
            raise KeyboardInterrupt
        return original(name, scene, revision, value)

    run.models._job = interrupting  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.go()
    stored: dict[str, History] = {s.id: run.store.history(s.id) for s in SCENARIOS}
    assert any(history.attempts for history in stored.values())
    run.models.calls.clear()
    assert without_timings(run.go()) == without_timings(serial)
    for scene in SCENARIOS:
        known = stored[scene.id]
        generated = sum(call[:2] == ("generate", scene.id) for call in run.models.calls)
        assert generated == len(serial[scene.id].attempts) - len(known.attempts)
        assert known.plan is None or ("plan", scene.id, 0) not in run.models.calls


def test_stopped_consumer_leaves_finished_outcomes(make_run) -> None:
    run = make_run()
    finished = run.go(ahead=2, limit=1)
    assert 1 <= len(finished) <= 2 < len(SCENARIOS), "of two in flight both may end in one tick"
    outcomes = run.go()
    assert len(outcomes) == len(SCENARIOS) and finished.items() <= outcomes.items()


def test_selector_that_gives_no_number_costs_one_scenario(make_run) -> None:
    run = make_run(policy=BY_LOOKS)
    run.select = lambda scene, attempts: [  # type: ignore[method-assign]
        {"x": float("nan") if scene == SCENARIOS[0] else 1.0} for _ in attempts
    ]
    failed = [name for name, outcome in run.go().items() if outcome.failure]
    assert failed == [SCENARIOS[0].id]


def test_a_source_is_asked_again_until_it_ends(
    serial: dict[str, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a cluster, whose driver hands out scenarios: often there is none at the moment, also with none in
    flight, and no more is taken than there is room for."""
    monkeypatch.setattr("engine.loop.scheduler.IDLE_S", 0.0)
    asked: list[int] = []
    with RunStore.create(tmp_path / "run", SCENARIOS) as store:
        run = Run(store)

        def handed(loops: list[ScenarioLoop]) -> Iterator[ScenarioLoop | None]:
            for number, loop in enumerate(loops):
                yield from [None] * (number * 7)
                asked.append(number - len(store.outcomes()))
                yield loop
            yield from [None] * 1000

        assert without_timings(run.go(ahead=2, source=handed)) == without_timings(serial)
    assert len(asked) == len(SCENARIOS) and max(asked) < 2
