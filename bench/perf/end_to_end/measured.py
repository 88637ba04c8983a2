"""What one process is asked to measure, the window in which it counts, and what it found."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from bench.perf.end_to_end.facts import Facts
from bench.perf.end_to_end.gpu_samples import GpuSampler
from bench.perf.end_to_end.made import CLIPS, CRITIC, GENERATOR, WARM_UP
from bench.perf.end_to_end.variants import Variant
from engine.runs.trace import Span
from engine.settings.config import RunConfig, load_config

LOOPS = 1
"""Of refinement: a plan, two takes and two critiques a scenario."""
WARM_UP_STEPS = 4
"""Of denoising, in the scenario that is not counted: few, and every preset runs all its forwards in them."""
MARGIN_S = 10.0
"""Of the budget, at most a tenth: for ending the steps in flight and writing what was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`budget_s` is of the whole process, from `started_s` on the clock of perf_counter.

    `runs` is an empty folder of this process alone: one variant may be measured on two cards at once.
    """

    models: Path
    runs: Path
    variant: Variant
    num_scenarios: int
    num_steps: int
    budget_s: float | None = None
    warm_up: bool = True
    quantization: str = "none"
    started_s: float = 0.0

    @property
    def deadline_s(self) -> float | None:
        """On the clock of perf_counter."""
        if self.budget_s is None:
            return None
        return self.started_s + self.budget_s - min(MARGIN_S, 0.1 * self.budget_s)

    def config(self, *, warm_up: bool) -> RunConfig:
        """The settings of the measured run, or of the scenario before it."""
        return load_config(
            None,
            {
                "dataset": str(self.models / (WARM_UP if warm_up else CLIPS)),
                "out": str(self.runs / ("warm_up" if warm_up else "measured")),
                "limit": None if warm_up else self.num_scenarios,
                "generator.name": str(self.models / GENERATOR),
                "generator.steps": self.num_steps,
                "critic.name": str(self.models / CRITIC),
                "critic.quantization": self.quantization,
                "denoise.preset": self.variant.preset,
                "schedule.overlap": self.variant.overlap,
                "loop.loops": LOOPS,
                **self.variant.settings,
            },
        )


@dataclass(slots=True, kw_only=True)
class Measured:
    """Of the finished scenarios. Times are seconds since `began_s`, which is on the clock of perf_counter."""

    began_s: float
    finished_s: Mapping[str, float]  # by scenario, in the order of finishing
    facts: Mapping[str, Facts]
    spans: Sequence[Span]
    notes: Mapping[str, str]
    window: Window
    seconds: dict[str, float] = field(default_factory=dict)  # before the window, by what was done


class Window:
    """A context around what counts: peaks of memory from here on, samples of the GPU meanwhile."""

    def __init__(self) -> None:
        self.began_s = 0.0
        self.sampler = GpuSampler()
        self.memory: dict[str, float] = {}

    def __enter__(self) -> Self:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.sampler.__enter__()
        self.began_s = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sampler.__exit__(kind, error, trace)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.memory = {
                "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
                "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
            }


def timed(seconds: dict[str, float], what: str, began_s: float) -> None:
    """Notes and tells how long `what` took."""
    seconds[what] = time.perf_counter() - began_s
    say(f"{what}: {seconds[what]:.1f} s")


def say(text: str) -> None:
    print(text, flush=True)
