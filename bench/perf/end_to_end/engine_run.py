"""Retake's own run, as the command builds it, with a watch in the place of its display.

With a warm-up the models are loaded once for both runs; without, the run is built as `retake run` builds it,
so that the time to the first take is a user's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console

from bench.perf.end_to_end import facts
from bench.perf.end_to_end.measured import WARM_UP_STEPS, Measured, Options, Window, say, timed
from bench.perf.end_to_end.stand_in import InstantCritic
from bench.perf.takes_alone import in_so_many_steps
from engine.build.prepare import Prepared, load, prepare
from engine.build.run import Run, build_run
from engine.commands._progress import PlainDisplay
from engine.critics.qwen_vl import critic as qwen_vl
from engine.errors import ConfigError
from engine.protocols import Critic, Generator
from engine.runs.log_file import RunLog
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.store import RunStore
from engine.runs.trace_file import read_trace
from engine.types import Attempt
from engine.words import counted


class BudgetSpent(KeyboardInterrupt):
    """Ends a run as a user's Ctrl-C does: what is finished is stored, the trace is written."""


class Watch(PlainDisplay):
    """A line per plan, take and outcome; when each scenario ended; the end of the budget.

    `one_after_the_other`: no scenario begins that would not end in time, by the mean of those before it.
    """

    def __init__(self, num_scenarios: int, deadline_s: float | None, *, one_after_the_other: bool) -> None:
        super().__init__(Console(), num_scenarios)
        self.ended_s: dict[str, float] = {}
        self._began_s = time.perf_counter()
        self._deadline_s = deadline_s
        self._ahead = one_after_the_other
        self._num = num_scenarios

    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None:
        self._check(0.0)

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        super().attempt(scenario_id, attempt)
        self._check(0.0)

    def finished(self, scenario_ids: Iterable[str]) -> None:
        super().finished(scenario_ids)
        now_s = time.perf_counter()
        self.ended_s |= dict.fromkeys(scenario_ids, now_s)
        if self._ahead and len(self.ended_s) < self._num:
            self._check((now_s - self._began_s) / len(self.ended_s))

    def _check(self, needed_s: float) -> None:
        """On the thread of the run only: an error on a lane's own would be that of its task."""
        if self._deadline_s is None or threading.current_thread() is not threading.main_thread():
            return
        if time.perf_counter() + needed_s > self._deadline_s:
            raise BudgetSpent


def measure(options: Options) -> Measured:
    """Raises ConfigError where the critic's stand-in has no warm-up to take its replies from."""
    with replies_forgotten():
        return _measured(options)


@contextmanager
def replies_forgotten() -> Iterator[None]:
    """A critic that is loaded inside takes no drafts from its last replies.

    Here each of them is the same text, so that all drafts would hold: eight tokens a step that nobody has.
    """
    before, qwen_vl.NUM_RECENT = qwen_vl.NUM_RECENT, 0
    try:
        yield
    finally:
        qwen_vl.NUM_RECENT = before


def _measured(options: Options) -> Measured:
    if not options.variant.critic and not options.warm_up:
        raise ConfigError(
            f"{options.variant.name} needs its warm-up: it replays the replies written there",
            fix="leave --no-warm-up out",
        )
    seconds: dict[str, float] = {}
    began_s = time.perf_counter()
    config = options.config(warm_up=False)
    if not options.warm_up:
        with build_run(config) as run:
            manifest = read_manifest(config.out / MANIFEST)
            return _measure(run, options, dict(manifest["denoiser"]), dict(manifest["setup_s"]))
    prepared = prepare(config)
    timed(seconds, "prepare", began_s)
    began_s = time.perf_counter()
    generator, critic = load(prepared)
    timed(seconds, "load", began_s)
    began_s = time.perf_counter()
    planned, judged = _warm_up(options, generator, critic)
    timed(seconds, "warm_up", began_s)
    instant = InstantCritic(planned=planned, judged=judged)
    answering: Critic = critic if options.variant.critic else instant
    with _new_run(prepared, (generator, answering)) as run:
        return _measure(run, options, dict(generator.notes), seconds)


def _measure(run: Run, options: Options, notes: dict[str, str], seconds: dict[str, float]) -> Measured:
    alone = options.variant.one_after_the_other
    with Window() as window:
        watch = Watch(run.num_pending, options.deadline_s, one_after_the_other=alone)
        try:
            run.execute(watch)
        except BudgetSpent:
            of_all = counted(run.num_pending, "scenario is", "scenarios are")
            say(f"the budget is spent: {len(watch.ended_s)} of {of_all} done")
    return Measured(
        began_s=window.began_s,
        finished_s={name: end_s - window.began_s for name, end_s in watch.ended_s.items()},
        facts=facts.of_run(run.folder),
        spans=tuple(read_trace(run.folder)),
        notes=notes,
        window=window,
        seconds=seconds,
    )


def _warm_up(options: Options, generator: Generator, critic: Critic) -> tuple[str, str]:
    """One scenario of few steps, through the same kernels, graphs and streams; texts of plan and critique."""
    config = options.config(warm_up=True)
    prepared = prepare(config)
    try:
        with in_so_many_steps(generator, WARM_UP_STEPS), _new_run(prepared, (generator, critic)) as run:
            run.execute(Watch(1, options.deadline_s, one_after_the_other=False))
    except BudgetSpent:
        problem = f"the budget of {options.budget_s:g} s was spent before the measurement began"
        raise ConfigError(problem, fix="give a larger --budget") from None
    with RunStore.open(config.out, read_only=True) as store:
        outcome = store.outcomes()[prepared.scenarios[0].id]
        plan = store.history(outcome.scenario_id).plan
    judged = [attempt.critique for attempt in outcome.attempts if attempt.critique is not None]
    if outcome.failure is not None or plan is None or not judged:
        raise ConfigError(f"the warm-up failed: {outcome.failure}", fix="mend that; nothing was measured")
    return plan.raw, judged[0].raw


def _new_run(prepared: Prepared, loaded: tuple[Generator, Critic]) -> Run:
    store, log = RunStore.create(prepared.config.out, prepared.scenarios), RunLog()
    log.into(prepared.config.out)
    return Run(store, log, prepared, loaded)
