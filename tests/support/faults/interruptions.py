"""Kills and signals: in front of each file event, at random moments, again and again."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from faults.process import Command, Ended
from faults.syscalls import KILL, Call
from faults.trial import Disturbed, Finding, Trial, disturbed
from faults.workload import Workload

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = (0, 1, 130)
"""Statuses of a command that was interrupted: done in spite of it, before a run was there, and after that."""


def killed_before(number: int) -> Disturbed:
    """By SIGKILL, in front of file event `number`, from 0."""

    def disturb(load: Workload, out: Path) -> Ended:
        return load.run(load.go_on(out), answer=lambda command, call: KILL if call.index == number else None)

    return disturb


def killed_in_between(load: Workload, out: Path) -> Ended:
    """When a scenario's second take is about to get its name: work is stored, and more is to be done."""
    return load.run(load.go_on(out), answer=lambda command, call: KILL if _is_in_between(call) else None)


def interrupted_in_between(load: Workload, out: Path) -> Ended:
    """By SIGINT at the same place, so that the process ends in order."""

    def answer(command: Command, call: Call) -> None:
        if _is_in_between(call):
            command.send(signal.SIGINT)

    return load.run(load.go_on(out), answer=answer)


def _is_in_between(call: Call) -> bool:
    return call.name.startswith("rename") and call.path.endswith("attempt-1.mp4")


def signalled_before(number: int, which: signal.Signals, *, times: int = 1) -> Disturbed:
    """At file event `number` and, with `times`, at those after it."""

    def disturb(load: Workload, out: Path) -> Ended:
        def answer(command: Command, call: Call) -> None:
            if number <= call.index < number + times:
                command.send(which)

        return load.run(load.go_on(out), answer=answer)

    return disturb


def sent_after(seconds: float, which: signal.Signals) -> Disturbed:
    """At a moment of the clock, wherever the process is then."""

    def disturb(load: Workload, out: Path) -> Ended:
        command = load.start(load.go_on(out))
        command.ended_within(seconds)
        command.send(which)
        return command.wait()

    return disturb


def stopped_for(seconds: float, number: int) -> Disturbed:
    """Halted at file event `number` and continued, as a terminal does with Ctrl-Z and fg."""

    def disturb(load: Workload, out: Path) -> Ended:
        def answer(command: Command, call: Call) -> None:
            if call.index == number:
                command.send(signal.SIGSTOP)
                time.sleep(seconds)
                command.send(signal.SIGCONT)

        return load.run(load.go_on(out), answer=answer)

    return disturb


def kills_at_events(load: Workload, *, stride: int = 1, what: str = "") -> Iterator[Trial]:
    """One for each event of the undisturbed run, and a few beyond, as runs differ by some."""
    for number in range(0, load.num_calls() + 3, stride):
        yield Trial(
            fault=f"SIGKILL in front of each file event{what}",
            name=str(number),
            run=lambda load, number=number: disturbed(load, killed_before(number)),
        )


def kills_again_and_again(load: Workload, count: int, *, what: str = "") -> Iterator[Trial]:
    """Up to eight processes of one run, each killed at a random event."""
    num_calls = load.num_calls()
    for seed in range(count):
        draw = random.Random(f"again {seed}")
        numbers = [draw.randrange(num_calls) for _ in range(8)]
        yield Trial(
            fault=f"SIGKILL again and again while resuming{what}",
            name=str(seed),
            run=lambda load, numbers=numbers: disturbed(load, *map(killed_before, numbers)),
        )


def kills_at_moments(seconds: float, count: int) -> Iterator[Trial]:
    """`seconds` is about how long a run takes."""
    for seed in range(count):
        moment = random.Random(f"moment {seed}").uniform(0, seconds)
        yield Trial(
            fault="SIGKILL at a random moment",
            name=str(seed),
            run=lambda load, moment=moment: disturbed(load, sent_after(moment, signal.SIGKILL)),
        )


def signals(load: Workload, *, stride: int) -> Iterator[Trial]:
    num_calls = load.num_calls()
    for which in SIGNALS:
        for number in range(0, num_calls, stride):
            yield Trial(
                fault=f"{which.name} at file events",
                name=str(number),
                run=lambda load, number=number, which=which: _signalled(load, number, which, times=1),
            )
    for number in range(1, num_calls, 2 * stride):
        yield Trial(
            fault="SIGINT three times in a row",
            name=str(number),
            run=lambda load, number=number: _signalled(load, number, signal.SIGINT, times=3),
        )
    for number in range(2, num_calls, 2 * stride):
        yield Trial(
            fault="SIGSTOP and SIGCONT",
            name=str(number),
            run=lambda load, number=number: disturbed(load, stopped_for(0.05, number), statuses=(0,)),
        )


def _signalled(load: Workload, number: int, which: signal.Signals, *, times: int) -> Finding:
    return disturbed(load, signalled_before(number, which, times=times), statuses=INTERRUPTED)
