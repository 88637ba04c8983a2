"""Measurements as processes: what waits for what, how many at once, what is repeated, what the time allows.

A step that ended well is not repeated, so that the same command goes on with what is missing, and what fails
holds up only what needs it. Knows no measurement: `bench.quality.remeasure` and `bench.perf.remeasure` do.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess  # nosec B404 # this interpreter, on this package
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.commands._interrupts import STATUS, interruptible
from engine.errors import ConfigError
from engine.settings.environment import chosen_gpus, inherited
from engine.words import command_line

CORES: Final = "cores"
GPU: Final = "gpu"
"""The kind of which each place is a GPU: where there are several, a step sees those it was given alone."""
MARGIN_S: Final = 10.0
"""Between the end of a step's own budget and that of the campaign, at which it is stopped."""
OUT_OF_TIME: Final = 124
"""The exit status of a step that was stopped, as timeout(1) has it."""
LOOK_EVERY_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A process: `words` behind the interpreter. It starts when all of `after`, which come before it, have
    ended well."""

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()
    kind: str = CORES
    places: int = 1  # of its kind, taken while it runs
    least_s: float = 0.0  # with less time it is not begun
    most_s: float | None = None  # of one that ends by itself: it is told --budget SECONDS
    writes: str = ""  # of the steps that write one file only one runs at a time

    @property
    def part(self) -> str:
        return self.name.partition("/")[0]


class Campaign:
    """Starts steps as soon as they can; says when each ends, and keeps what it printed in WORK/logs."""

    def __init__(
        self,
        work: Path,
        places: Mapping[str, int],
        *,
        ends_s: float | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`places`: how many steps of each kind at once. No step outlives `ends_s` of the clock `now`."""
        self._work, self._ends_s, self._now, self._is_over = work, ends_s, now, False
        self._free = {kind: list(range(count)) for kind, count in places.items()}
        self._num_gpus, self._began_s = places.get(GPU, 0), now()

    def carry_out(self, asked: Sequence[Step]) -> list[str]:
        """The names of steps that failed, had no time, or could not start since one before them had not
        ended well. ConfigError where one takes more places than there are."""
        for step in asked:
            if step.places > (there := len(self._free[step.kind])):
                needed = f"{step.name} takes {step.places} places of {step.kind!r}"
                raise ConfigError(f"{needed}, and there are {there}", fix="leave it out, or give more")
        ended = {step.name for step in asked if self._mark(step).is_file()}
        waiting = [step for step in asked if step.name not in ended]
        self._is_over = False
        with ThreadPoolExecutor(sum(map(len, self._free.values()))) as pool:
            try:
                return self._carry_out(pool, waiting, ended)
            finally:  # after Ctrl-C too, which steps do not hear: they have a session of their own
                self._is_over = True

    def _carry_out(self, pool: ThreadPoolExecutor, waiting: list[Step], ended: set[str]) -> list[str]:
        running: dict[Future[int], tuple[Step, list[int]]] = {}
        failed: list[str] = []
        while waiting or running:
            for step in [one for one in waiting if ended.issuperset(one.after)]:
                if _is_held_up(step, waiting, failed):
                    continue
                if self._left_s() < step.least_s:
                    waiting.remove(step)
                    failed.append(step.name)
                    needs = f"{self._left_s():.0f} s are left, {step.least_s:.0f} are needed"
                    self._say(step, f"not begun: {needs}")
                elif self._can_begin(step, [one for one, _ in running.values()]):
                    waiting.remove(step)
                    taken = [self._free[step.kind].pop(0) for _ in range(step.places)]
                    running[pool.submit(self._process, step, taken)] = step, taken
            if not running:
                return failed + [step.name for step in waiting]
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step, taken = running.pop(future)
                self._free[step.kind] = sorted(self._free[step.kind] + taken)
                (failed.append if future.result() else ended.add)(step.name)
        return failed

    def _can_begin(self, step: Step, running: Iterable[Step]) -> bool:
        written = {one.writes for one in running} - {""}
        return len(self._free[step.kind]) >= step.places and step.writes not in written

    def _left_s(self) -> float:
        if self._is_over:
            return 0.0
        return math.inf if self._ends_s is None else self._ends_s - self._now()

    def _process(self, step: Step, taken: Sequence[int]) -> int:
        log = self._work / "logs" / f"{_file_name(step)}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        began_s, left_s = self._now(), self._left_s()
        words = list(step.words)
        if step.most_s is not None:
            words += ["--budget", f"{max(0.0, min(step.most_s, left_s - MARGIN_S)):.0f}"]
        with log.open("ab") as out:
            status = self._status([sys.executable, *words], out.fileno(), self._environment(step, taken))
        why = "stopped at the end of the time" if status == OUT_OF_TIME else f"status {status}"
        told = "done" if status == 0 else f"{why}, see {log}"
        self._say(step, f"{told}, {self._now() - began_s:.0f} s")
        if status == 0:
            self._mark(step).parent.mkdir(parents=True, exist_ok=True)
            self._mark(step).touch()
        return status

    def _status(self, command: Sequence[str], out: int, environment: Mapping[str, str]) -> int:
        """Of the process, which is killed when the time is over with all that it has started: a model that
        stays on the GPU would be in the way of the next step."""
        with subprocess.Popen(  # nosec B603 # our own interpreter
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        ) as process:
            while True:
                try:
                    return process.wait(LOOK_EVERY_S)
                except subprocess.TimeoutExpired:
                    if self._left_s() <= 0:
                        os.killpg(process.pid, signal.SIGKILL)
                        return OUT_OF_TIME

    def _environment(self, step: Step, taken: Sequence[int]) -> dict[str, str]:
        if step.kind != GPU or self._num_gpus < 2:
            return inherited()
        chosen = chosen_gpus()
        names = chosen.split(",") if chosen else list(map(str, range(self._num_gpus)))
        return inherited() | {"CUDA_VISIBLE_DEVICES": ",".join(names[place] for place in taken)}

    def _say(self, step: Step, told: str) -> None:
        print(f"[{self._now() - self._began_s:5.0f} s] {step.name}: {told}", flush=True)

    def _mark(self, step: Step) -> Path:
        return self._work / "ended" / _file_name(step)


def _is_held_up(step: Step, waiting: Sequence[Step], failed: Collection[str]) -> bool:
    """By an earlier one that takes several places at once, which would else never be free together. What
    cannot start any more, since something before it failed, holds up nothing."""
    lost = set(failed)
    for one in waiting:
        if one is step:
            return False
        if lost.intersection(one.after):
            lost.add(one.name)
        elif one.places > 1 and one.kind == step.kind:
            return True
    return False


def exit_status(campaign: Campaign, asked: Sequence[Step]) -> int:
    """Carries it out: 0 all is done; 1 something is left, which is told; 130 interrupted."""
    try:
        with interruptible():
            left = campaign.carry_out(asked)
    except KeyboardInterrupt:
        print("interrupted: what was running is stopped; the same command goes on", file=sys.stderr)
        return STATUS
    for name in left:
        print(f"not done: {name}", file=sys.stderr)
    if left:
        print("the same command goes on with it", file=sys.stderr)
    return 1 if left else 0


def parser_of(
    program: str, description: str | None, parts: Sequence[str], *, holds: str
) -> argparse.ArgumentParser:
    """With the options that all campaigns have. `holds`: what is in WORK beside its results."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=program, description=description, formatter_class=plain)
    add, names = parser.add_argument, ",".join(parts)
    add("--work", type=Path, help=f"{holds} and WORK/results; taken up again; --list needs none")
    add("--only", default=names, help=f"some of {names}; what they need is made too")
    add("--list", action="store_true", help="only say what would be started")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """`work` is a path: without one there is nothing but a list, in which WORK stands for it."""
    options = parser.parse_args(arguments)
    if options.work is None and not options.list:
        parser.error("give a folder: --work WORK; or --list, which only says what would be started")
    options.work = options.work or Path("WORK")
    return options


def listed(asked: Iterable[Step]) -> str:
    """A line for each step: its name, and what is started."""
    return "\n".join(f"{step.name}: {command_line('python', *step.words)}" for step in asked)


def _file_name(step: Step) -> str:
    return step.name.replace("/", "-")


def wanted(found: Iterable[Step], parts: Sequence[str], known: Collection[str]) -> list[Step]:
    """Of these parts, and what they need of others. ConfigError for a part that is not `known`."""
    if unknown := [part for part in parts if part not in known]:
        raise ConfigError(f"--only {unknown[0]!r} is no part", fix=f"give some of: {', '.join(known)}")
    every = {step.name: step for step in found}
    needed: set[str] = set()
    todo = [step.name for step in every.values() if step.part in parts]
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += every[name].after
    return [step for step in every.values() if step.name in needed]
