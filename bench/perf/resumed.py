"""A benchmark whose rows are measured by one process after another, as far as the time goes.

What was measured is in --out already and is not repeated, so that the same command goes on where the time
ended. Knows no benchmark: each says what its parts are, and measures one of them in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess  # nosec B404 # this interpreter, on a module of ours
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bench.console import user_error
from bench.perf.document import told
from engine.errors import RetakeError
from engine.settings.environment import offline

MARGIN_S = 5.0
"""Of a process, for writing what was measured."""


class Named(Protocol):
    """What --only is told of."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rows of one process."""

    name: str
    left: tuple[str, ...]  # rows that are not measured yet
    least_s: float  # with less time it is not begun: its models would hardly be loaded
    words: tuple[str, ...]  # of its command


def parser_of(
    program: str, description: str | None, *, budget_s: float, models: Path | None
) -> argparse.ArgumentParser:
    """With the options that all have. `models` is where the benchmark makes them; None: it makes none."""
    plain = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(prog=program, description=description, formatter_class=plain)
    made.add_argument(
        "--models",
        type=Path,
        default=models,
        required=models is None,
        metavar="DIR",
        help="made if need be" if models else "the folder that bench.perf.end_to_end made",
    )
    made.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    made.add_argument(
        "--budget",
        type=float,
        default=budget_s,
        metavar="SECONDS",
        help=f"of the whole process; {budget_s:g}",
    )
    return made


def exit_status(work: Callable[[], int]) -> int:
    """Of `work`, which may not load anything from the network; 2 for the user's error, which is told."""
    offline()  # before the model libraries are imported
    try:
        return work()
    except RetakeError as error:
        return user_error(error)


def measure_parts(module: str, parts: Iterable[Part], ends_s: float) -> list[Part]:
    """A process of `module` for each part that lacks rows; `ends_s` on the clock of perf_counter. Returns the
    parts whose process failed."""
    broken = []
    for part in parts:
        if not part.left:
            print(f"{part.name} is there", flush=True)
            continue
        left_s = ends_s - time.perf_counter()
        if left_s < part.least_s:
            print(f"{part.name}: {left_s:.0f} s are left, {part.least_s:.0f} are needed", flush=True)
            continue  # another part may need less
        command = [sys.executable, "-m", module, *part.words, "--budget", f"{left_s:.0f}"]
        status = subprocess.run(command, check=False).returncode  # nosec B603 # as above
        if status:
            print(f"{part.name}: exit status {status}", flush=True)
            broken.append(part)
    return broken


def finished(document: Mapping[str, Any], left: Sequence[str]) -> int:
    """Tell the document and what it lacks; 0 where that is nothing and all checks hold, else 1."""
    print(told(document), flush=True)
    return 0 if is_all(left) and document["all_checks_hold"] else 1


def is_all(left: Sequence[str]) -> bool:
    """Whether nothing is left to measure; what is, is told."""
    if left:
        print(f"not measured yet: {', '.join(left)}; the same command goes on", flush=True)
    return not left


def asked_of(parser: argparse.ArgumentParser, groups: Iterable[N], only: str) -> list[N]:
    """Those whose names begin so; the parser's error where there is none."""
    every = list(groups)
    found = [group for group in every if group.name.startswith(only)]
    if not found:
        names = ", ".join(group.name for group in every)
        parser.error(f"--only {only!r} begins the name of no group; they are: {names}")
    return found
