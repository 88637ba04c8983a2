"""What a user asks of a run that goes on: pauses change nothing that is stored, a skip ends its scenario."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fake_run import SCENARIOS, FakeModels, Run, without_timings

from engine.loop import scheduler
from engine.loop.lanes import CRITIQUE, GENERATE, Threads
from engine.machine.streams import HostThread
from engine.runs.store import RunStore
from engine.types import SKIPPED, Asked, Outcome

NAMES = [scenario.id for scenario in SCENARIOS]
PAUSED = Asked(is_paused=True)
GOES_ON = Asked()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(scheduler, "IDLE_S", 0.0)


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[[], Run]]:
    stores: list[RunStore] = []

    def make() -> Run:
        stores.append(RunStore.create(tmp_path / f"run-{len(stores)}", SCENARIOS))
        return Run(stores[-1], FakeModels())

    yield make
    for store in stores:
        store.close()


@dataclass
class Script:
    """Says `says(turn)` at each turn, by what the models were asked for so far; notes how often they were."""

    run: Run
    says: Callable[[int], Asked]
    turn: int = 0
    calls: list[int] = field(default_factory=list)
    last: Asked = GOES_ON

    def look(self) -> Asked:
        self.calls.append(len(self.run.models.calls))
        self.turn += 1
        said = self.says(self.turn)
        self.last = self.last if said == self.last else said
        return self.last


def undisturbed(make_run: Callable[[], Run]) -> dict[str, Outcome]:
    return make_run().go()


@pytest.mark.parametrize("overlap", [True, False])
def test_a_pause_launches_nothing_and_changes_no_outcome(make_run, overlap: bool) -> None:
    expected, run = undisturbed(make_run), make_run()
    script = Script(run, lambda turn: PAUSED if 5 <= turn < 60 else GOES_ON)
    found = run.go(overlap=overlap, control=script)
    assert without_timings(found) == without_timings(expected)
    during = script.calls[5:60]
    assert during and len(set(during)) == 1, "models were asked for something meanwhile"
    assert 0 < during[0] < script.calls[-1]


def test_a_pause_with_a_thread_for_each_lane(make_run) -> None:
    expected, run = undisturbed(make_run), make_run()
    with HostThread("generate") as one, HostThread("critique") as other, HostThread("start") as starts:
        threads = Threads(of={GENERATE: one, CRITIQUE: other}, starts=starts)
        script = Script(run, lambda turn: PAUSED if turn % 50 > 25 else GOES_ON)
        found = run.go(threads=threads, control=script)
    assert without_timings(found) == without_timings(expected)


def test_a_scenario_that_is_held_waits_while_the_others_end(make_run) -> None:
    """Held before it began, and in the middle; with room for one scenario at a time too."""
    expected = undisturbed(make_run)
    for ahead, held in ((1, NAMES[0]), (3, NAMES[2])):
        run = make_run()

        def says(turn: int, run: Run = run, held: str = held) -> Asked:
            others_over = len(run.progress.ids) == len(NAMES) - 1
            return GOES_ON if turn < 3 or others_over else Asked(held=frozenset({held}))

        found = run.go(ahead=ahead, control=Script(run, says))
        assert run.progress.ids[-1] == held
        assert without_timings(found) == without_timings(expected)


def test_a_skipped_scenario_ends_with_the_best_of_its_takes(make_run) -> None:
    expected = undisturbed(make_run)
    name = max(expected, key=lambda each: len(expected[each].attempts))
    assert len(expected[name].attempts) > 2
    run = make_run()

    def says(turn: int) -> Asked:
        return Asked(skipped=frozenset({name})) if len(run.store.attempts(name)) == 2 else GOES_ON

    found = run.go(control=Script(run, says))
    skipped = found.pop(name)
    takes = expected.pop(name).attempts[:2]
    assert (skipped.stopped, skipped.failure) == (SKIPPED, None)
    assert [(a.prompt, a.critique) for a in skipped.attempts] == [(a.prompt, a.critique) for a in takes]
    assert skipped.chosen == run.policy.choose(takes)
    assert (run.store.folder / "chosen" / SCENARIOS[NAMES.index(name)].output_name).is_file()
    assert without_timings(found) == without_timings(expected), "the others are as ever"


@pytest.mark.parametrize("ahead", [1, 3])
def test_what_is_skipped_before_it_began_is_never_begun(make_run, ahead: int) -> None:
    run = make_run()
    asked = Asked(skipped=frozenset({NAMES[0], NAMES[4]}), held=frozenset())
    found = run.go(ahead=ahead, control=Script(run, lambda turn: asked))
    assert len(found) == len(NAMES)
    for name in (NAMES[0], NAMES[4]):
        assert (found[name].stopped, found[name].chosen, found[name].attempts) == (SKIPPED, None, ())
        assert "skipped by the user" in (found[name].failure or "")
        assert all(called != name for _, called, _ in run.models.calls)


def test_skipping_ends_a_scenario_of_a_run_that_is_paused(make_run) -> None:
    """The pause goes on until that one is told."""
    run = make_run()

    def says(turn: int) -> Asked:
        if turn < 8 or run.progress.ids:
            return GOES_ON
        return Asked(is_paused=True, skipped=frozenset({NAMES[1]}) if turn > 20 else frozenset())

    run.go(control=Script(run, says))
    assert run.progress.ids[0] == NAMES[1] and len(run.progress.ids) == len(NAMES)
