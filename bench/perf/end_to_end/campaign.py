"""All parts in the order of their worth, a process each, as far as the time goes; none is repeated."""

from __future__ import annotations

import subprocess  # nosec B404 # this interpreter, on this package
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.perf.end_to_end.variants import (
    EXACT,
    EXACT_SEQUENTIAL,
    FAST,
    FAST_PATCHES,
    FAST_SEQUENTIAL,
    FASTEST,
    GENERATION_ONLY,
    SCRIPT,
    SCRIPT_BEST,
    Variant,
)
from kernels.files import read_json

LEAST_S = 60.0
"""With less time than this no part is begun: its models would hardly be loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A part. `num_scenarios` is the most: no more than there are clips."""

    name: str
    variant: Variant
    num_scenarios: int
    warm_up: bool = True
    quantization: str | None = None

    def arguments(self, models: Path, folder: Path, num_clips: int, budget_s: float) -> list[str]:
        words = ["run", "--models", str(models), "--variant", self.variant.name]
        words += ["--scenarios", str(min(self.num_scenarios, num_clips)), "--budget", f"{budget_s:.0f}"]
        words += [] if self.warm_up else ["--no-warm-up"]
        words += [] if self.quantization is None else ["--quantization", self.quantization]
        return [*words, "--out", str(self.file(folder))]

    def file(self, folder: Path) -> Path:
        return folder / f"{self.name}.json"

    def is_done(self, folder: Path) -> bool:
        if not self.file(folder).is_file():
            return False
        part: Any = read_json(self.file(folder))
        return bool(part["complete"])


PARTS = (
    Planned(name="fast", variant=FAST, num_scenarios=6),
    Planned(name="first-take", variant=FAST, num_scenarios=1, warm_up=False),
    Planned(name="script", variant=SCRIPT, num_scenarios=2, warm_up=False),
    Planned(name="generation-only", variant=GENERATION_ONLY, num_scenarios=6),
    Planned(name="patches", variant=FAST_PATCHES, num_scenarios=6),
    Planned(name="fastest", variant=FASTEST, num_scenarios=6),
    # transformers compiles its decoding in 16 bits only
    Planned(name="script-best", variant=SCRIPT_BEST, num_scenarios=2, warm_up=False, quantization="none"),
    Planned(name="sequential", variant=FAST_SEQUENTIAL, num_scenarios=2),
    Planned(name="exact", variant=EXACT, num_scenarios=2),
    Planned(name="exact-sequential", variant=EXACT_SEQUENTIAL, num_scenarios=2),
)


def carry_out(
    models: Path, folder: Path, *, num_clips: int, budget_s: float, began_s: float, only: frozenset[str]
) -> Iterator[str]:
    """Runs what is not there, of `only` if any are named; a line to print for each.

    A part that fails, or ends with its time, is left as it is: the next call repeats it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if only and part.name not in only:
            continue
        if part.is_done(folder):
            yield f"{part.name} is there"
            continue
        left_s = budget_s - (time.perf_counter() - began_s)
        if left_s < LEAST_S:
            yield f"{part.name}: {left_s:.0f} s are left, too few; the same command goes on from here"
            return
        yield f"{part.name} ..."
        arguments = part.arguments(models, folder, num_clips, left_s)
        command = [sys.executable, "-m", "bench.perf.end_to_end", *arguments]
        status = subprocess.run(command, check=False).returncode  # nosec B603 # as above
        if status:
            yield f"{part.name}: exit status {status}"
