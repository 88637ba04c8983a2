"""Progress of a run on a terminal: one bar per lane, one over all scenarios with the mean score.

Where stdout is no terminal (a CI log, a pipe) it writes one plain line per finished step instead. Knows
nothing of models or of the store; both displays take the same calls and never influence a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from engine.build.estimate import clock
from engine.loop.policy import CRITIC_SCORE, critic_score, why_chosen
from engine.loop.scout_policy import why_finished
from engine.protocols import Display
from engine.runs.choices import numbered
from engine.runs.live import costs_time
from engine.runs.pace import Left, Pace
from engine.types import Attempt, Outcome, PlanReply, Scout
from engine.video.files import read_note
from engine.words import counted

LANES = ("generate", "critique", "encode", "select")


class Finished:
    """Why candidates became takes, from the scouts that were compared in this process."""

    def __init__(self) -> None:
        self._scouts: dict[str, list[Scout]] = {}

    def add(self, scenario_id: str, scouts: Sequence[Scout]) -> None:
        self._scouts.setdefault(scenario_id, []).extend(scouts)

    def said(self, outcome: Outcome) -> str:
        """Of the chosen take; empty where nothing is known."""
        scouts = self._scouts.pop(outcome.scenario_id, [])
        why = "" if outcome.chosen is None else why_finished(scouts, outcome.attempts[outcome.chosen])
        return f"; it is {why}" if why else ""


class ChosenScores:
    """The critic's score of the take that was chosen in each scenario; those without a score do not count."""

    def __init__(self) -> None:
        self._scores: list[float] = []

    def add(self, outcome: Outcome) -> None:
        if outcome.chosen is not None:
            score = critic_score(outcome.attempts[outcome.chosen])
            self._scores += [] if score is None else [score]

    def __str__(self) -> str:
        if not self._scores:
            return "no score yet"
        return f"chosen takes {sum(self._scores) / len(self._scores):.1f}"


class TimeLeft:
    """How long the rest takes if it goes on as so far; unknown before the first scenario has ended.

    Scenarios that were refused cost no time and do not count. `now`: seconds that the run has worked.
    """

    def __init__(self, num_scenarios: int, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._start_s = now, now()
        self._pace, self._num_left = Pace(), num_scenarios

    def outcome(self, outcome: Outcome) -> None:
        self._num_left -= 1
        if costs_time(outcome):
            self._pace.ended(self._now() - self._start_s)

    @property
    def left(self) -> Left | None:
        return self._pace.left(self._num_left)

    def __str__(self) -> str:
        """ "about 12 min left (9 min to 15 min)", or nothing."""
        found = self.left
        if found is None or not found.seconds:
            return ""
        if found.low is None or found.high is None:
            return f"about {clock(found.seconds)} left"
        return f"about {clock(found.seconds)} left ({clock(found.low)} to {clock(found.high)})"


class LiveDisplay:
    """Bars that move in place."""

    def __init__(
        self, console: Console, num_scenarios: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._scores, self._finished = ChosenScores(), Finished()
        self._left = TimeLeft(num_scenarios, now)
        self._done: set[str] = set()
        columns = (TextColumn("{task.description:<9}"), BarColumn(bar_width=28), MofNCompleteColumn())
        note = TextColumn("{task.fields[note]}", markup=False)
        self._lanes = Progress(*columns, note)
        left = TextColumn("{task.fields[left]}", markup=False)
        self._overall = Progress(*columns, note, TimeElapsedColumn(), left)
        self._lane_ids: dict[str, TaskID] = {
            lane: self._lanes.add_task(lane, total=None, note="") for lane in LANES
        }
        self._overall_id = self._overall.add_task(
            "scenarios", total=num_scenarios, note=str(self._scores), left=""
        )
        self._live = Live(Group(self._lanes, self._overall), console=console, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None:
        self._lanes.update(self._lane_ids[lane], completed=done, total=total, note=scenario_id)

    def finished(self, scenario_ids: Iterable[str]) -> None:
        self._done.update(scenario_ids)
        self._overall.update(self._overall_id, completed=len(self._done))

    def plan(self, scenario_id: str, reply: PlanReply) -> None:
        pass

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        pass

    def judged(self, scenario_id: str, attempt: Attempt) -> None:
        pass

    def outcome(self, outcome: Outcome) -> None:
        self._scores.add(outcome)
        self._left.outcome(outcome)
        self._overall.update(self._overall_id, note=str(self._scores), left=str(self._left))
        style = None if outcome.failure is None else "red"
        said = describe_outcome(outcome) + self._finished.said(outcome)
        self._live.console.print(said, style=style, markup=False, highlight=False)

    def scout(self, scenario_id: str, scout: Scout) -> None:
        pass

    def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None:
        self._finished.add(scenario_id, scouts)
        said = f"{scenario_id}: {describe_stage(scouts)}"
        self._live.console.print(said, markup=False, highlight=False)


class PlainDisplay:
    """One line per plan, take and finished scenario; nothing for single steps."""

    def __init__(
        self, console: Console, num_scenarios: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._scores, self._finished = ChosenScores(), Finished()
        self._left = TimeLeft(num_scenarios, now)
        self._num_scenarios = num_scenarios
        self._done: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None:
        pass

    def finished(self, scenario_ids: Iterable[str]) -> None:
        self._done.update(scenario_ids)

    def plan(self, scenario_id: str, reply: PlanReply) -> None:
        self._line(f"{scenario_id}: plan {'read' if reply.plan else 'unreadable'} in {reply.seconds:.1f} s")

    def scout(self, scenario_id: str, scout: Scout) -> None:
        pass  # said with the others of its stage

    def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None:
        self._finished.add(scenario_id, scouts)
        self._line(f"{scenario_id}: {describe_stage(scouts)}")

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        self._line(f"{scenario_id}: {describe_take(attempt)}")

    def judged(self, scenario_id: str, attempt: Attempt) -> None:
        said = f"{describe_take(attempt)}{describe_selection(attempt)}"
        self._line(f"{scenario_id}: winner of round {attempt.round}: {said}")

    def outcome(self, outcome: Outcome) -> None:
        self._done.add(outcome.scenario_id)
        self._scores.add(outcome)
        self._left.outcome(outcome)
        done = f"{len(self._done)}/{self._num_scenarios}"
        said = ", ".join(filter(None, (done, str(self._scores), str(self._left))))
        self._line(f"{describe_outcome(outcome)}{self._finished.said(outcome)} [{said}]")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def make_display(console: Console, num_scenarios: int, now: Callable[[], float] = time.monotonic) -> Display:
    """Bars on a terminal, lines elsewhere. `now`: seconds that the run has worked, pauses left out."""
    return (LiveDisplay if console.is_terminal else PlainDisplay)(console, num_scenarios, now)


def describe_take(attempt: Attempt) -> str:
    """One line on a take: where it belongs, if its round has several, and what the critic said."""
    critique = attempt.critique
    place = ""
    if attempt.sample or attempt.round < attempt.index:
        place = f" (round {attempt.round}, sample {attempt.sample})"
    elif not attempt.index and attempt.prompt.plan is not None:
        place = " of the plan"
    verdict = "made" if critique is None else str(critique.verdict)
    score = "" if critique is None or critique.score is None else f", score {critique.score:.1f}"
    return f"take {attempt.index}{place}: {verdict}{score}"


def describe_stage(scouts: Sequence[Scout]) -> str:
    """One line on the scouts of a stage: who goes on, the best one first, and by how much."""
    order = sorted(scouts, key=lambda scout: (scout.place is None, scout.place or 0))
    names = tuple(dict.fromkeys(name for scout in scouts for name in scout.scores))
    told = [
        " ".join(
            [str(scout.candidate), *(f"{scout.scores[name]:.3g}" for name in names if name in scout.scores)]
        )
        for scout in order
    ]
    kept = sum(scout.kept for scout in order)
    return (
        f"{counted(len(order), 'scout')} of {counted(order[0].form.steps, 'step')} by "
        f"{', '.join(names) or 'their order'}: "
        f"{', '.join(told[:kept])} {'go' if kept > 1 else 'goes'} on, before {', '.join(told[kept:])}"
    )


def odd_takes(folder: Path, outcomes: Iterable[Outcome]) -> list[str]:
    """A line for each way in which takes are odd: they are scored like any, and may come from a fault."""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        for attempt in outcome.attempts:
            note = read_note(folder / attempt.video_path)
            if note is not None:
                chosen = " (chosen)" if outcome.chosen == attempt.index else ""
                found.setdefault(note, []).append(f"{outcome.scenario_id} take {attempt.index}{chosen}")
    return [f"{note}: {counted(len(takes), 'take')}: {', '.join(takes)}" for note, takes in found.items()]


def describe_outcome(outcome: Outcome) -> str:
    """One line on what became of a scenario: the chosen take, by its number, and why it was chosen."""
    if outcome.failure is not None:
        return f"{outcome.scenario_id}: failed: {outcome.failure}"
    assert outcome.chosen is not None, "either chosen or failed"
    judged = [str(take.index) for take in outcome.attempts if take.critique is not None]
    some = f"; judged: {', '.join(judged)}" if 0 < len(judged) < len(outcome.attempts) else ""
    return (
        f"{outcome.scenario_id}: chose {numbered(outcome)} ({outcome.stopped}): "
        f"{why_chosen(outcome.attempts, outcome.chosen)}{some}"
    )


def describe_selection(attempt: Attempt) -> str:
    """Why this take of its round was the one to be judged; empty where no selector looked at them."""
    found = [f"{name} {value:.3g}" for name, value in attempt.selector_scores.items() if name != CRITIC_SCORE]
    return f"; best of its round by {', '.join(found)}" if found else ""
