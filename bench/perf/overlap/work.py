"""A fixed amount of work on the product's scheduler: takes of one prompt each, and critiques of one take.

All of it may begin at once, so that what is measured is the sharing of the device and not the method.
"""

from __future__ import annotations

import gc
import hashlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.perf.end_to_end.gpu_samples import GpuSampler
from bench.perf.end_to_end.made import CRITIC, GENERATOR
from bench.perf.end_to_end.models import make, make_clip
from bench.perf.end_to_end.sizes import Size
from bench.perf.overlap.sharing import STREAMS, OnLane
from engine.build.engine import lane_threads
from engine.build.prepare import load, prepare
from engine.critics.qwen_vl.slots import Slots
from engine.loop.lanes import CRITIQUE, GENERATE, HOST_THREADS, Task, make_lanes
from engine.loop.scenario import Begin, Waits
from engine.loop.scheduler import Scheduler
from engine.machine.streams import HostPool, LaneStreams
from engine.runs.idle import jobs_of
from engine.runs.trace import CudaRecorder, HostRecorder, Span
from engine.settings.config import load_config
from engine.types import Critique, Outcome, Prompt, Scenario, Video

PLACE = "overlap"
"""Folder of the clip, which is as large as a take: reading 4K is another lane's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """`at_once` critiques are written side by side."""

    takes: int
    replies: int
    at_once: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One run. `outcomes`: digests of frames and replies, the same for the same work."""

    makespan_s: float
    spans: Sequence[Span]
    takes: Sequence[str]
    replies: Sequence[str]
    tokens: int
    gpu: Mapping[str, Any]

    def step_ms(self, num_steps: int) -> float | None:
        """Median of the denoise steps; a job's first step encodes."""
        steps = [span for job in jobs_of(self.spans, GENERATE) for span in job[1 : 1 + num_steps]]
        return 1e3 * statistics.median(s.end_s - s.start_s for s in steps) if steps else None

    @property
    def tokens_per_s(self) -> float | None:
        """From the beginning of the first critique to the end of the last, prefill and all."""
        spans = [span for span in self.spans if span.lane == CRITIQUE]
        if not spans:
            return None
        return self.tokens / (max(s.end_s for s in spans) - min(s.start_s for s in spans))


class Nobody:
    """Sees no progress."""

    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None: ...

    def finished(self, scenario_ids: object) -> None: ...


@dataclass(slots=True, kw_only=True, eq=False)
class FixedWork:
    """What the scheduler takes for a scenario's loop: all tasks begin, and it ends with the last."""

    subject: Subject
    amount: Amount
    priority: int
    scenario: Scenario
    outcome: Outcome | None = None
    failure: str | None = None
    takes: list[Task[Video]] = field(default_factory=list)
    replies: list[Task[Critique]] = field(default_factory=list)

    def run(self, begin: Begin) -> Waits:
        subject, critic = self.subject, self.subject.critic(self.amount.at_once, self.priority)
        for index in range(self.amount.takes):
            start = partial(subject.generator.start, self.scenario, subject.prompt(index))
            self.takes.append(begin(self._task(GENERATE, index, start)))
        for index in range(self.amount.replies):
            start = partial(critic.start, self.scenario, subject.prompt(0), subject.shown, None)
            self.replies.append(begin(self._task(CRITIQUE, index, start)))
        yield [*self.takes, *self.replies]
        self.outcome = self._ended()

    def fail(self, failure: str) -> None:
        self.failure, self.outcome = failure, self._ended()

    def close(self) -> Outcome:
        assert self.outcome is not None, "it has not ended"
        return self.outcome

    def _task(self, lane: str, index: int, start: Any) -> Task[Any]:
        return Task(lane=lane, name=lane, scenario_id=self.scenario.id, attempt=index, start=start)

    def _ended(self) -> Outcome:
        chosen = 0 if self.failure is None else None
        return Outcome(scenario_id=self.scenario.id, attempts=(), chosen=chosen, failure=self.failure)


@dataclass(slots=True, kw_only=True)
class Subject:
    """The loaded models. `critics` by replies at once and priority: each has slots and graphs of its own."""

    generator: Any
    loaded_critic: Any
    scenario: Scenario
    device: torch.device
    lanes: LaneStreams
    shown: Any = None  # the take that is critiqued
    critics: dict[tuple[int, int], Any] = field(default_factory=dict)

    def prompt(self, index: int) -> Prompt:
        return Prompt(
            text=self.scenario.text, negative=self.generator.negative_prompt, seed=index, revision=0
        )

    def critic(self, at_once: int, priority: int) -> Any:
        key = at_once, priority
        if key not in self.critics:
            self.critics[key] = _with_slots(self.loaded_critic, at_once)
        return self.critics[key]

    def run(
        self,
        amount: Amount,
        on_lane: OnLane,
        *,
        overlap: bool = True,
        priority: int = STREAMS.critic_priority,
        threads: bool = True,
    ) -> Ran:
        """RuntimeError with the reason where a task failed. `threads`: the lanes have host threads."""
        work = FixedWork(subject=self, amount=amount, priority=priority, scenario=self.scenario)
        whole: Any = work  # the part of a ScenarioLoop that the scheduler knows
        with (
            GpuSampler() as sampler,
            HostPool(HOST_THREADS) as host,
            lane_threads(threads and overlap and self.device.type == "cuda") as own,
        ):
            self._settle()
            recorder = CudaRecorder() if self.device.type == "cuda" else HostRecorder()
            began_s = time.perf_counter()
            lanes = make_lanes(
                host=host,
                recorder=recorder,
                progress=Nobody(),
                on_lane=on_lane,
                threads=own,
                widths={CRITIQUE: amount.at_once},
            )
            for _ in Scheduler([whole], lanes, progress=Nobody(), overlap=overlap, ahead=1).run():
                pass
            self._settle()
            makespan_s = time.perf_counter() - began_s
        if work.failure is not None:
            raise RuntimeError(work.failure)
        critiques = [task.claim() for task in work.replies]
        return Ran(
            makespan_s=makespan_s,
            spans=recorder.spans(),
            takes=[hashlib.sha256(task.claim().frames.tobytes()).hexdigest() for task in work.takes],
            replies=[hashlib.sha256(critique.raw.encode()).hexdigest() for critique in critiques],
            tokens=sum(critique.num_tokens for critique in critiques),
            gpu=sampler.summary(),
        )

    def show(self) -> None:
        """Makes the take that is critiqued, with what a first take has to compile."""
        job = self.generator.start(self.scenario, self.prompt(0))
        while job.steps_left:
            job.launch().wait()
        self.shown = job.result()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # of a stream that no lane has

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def subject_of(folder: Path, size: Size, *, steps: int, preset: str) -> Subject:
    """Models of `size` in `folder`, made there where they are not, as `bench.perf.end_to_end` makes them."""
    on_gpu = torch.cuda.is_available()
    make(folder, size, 1, torch.device("cuda" if on_gpu else "cpu"))
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()  # of the models that were made
    shape = size.generator_sidecar
    small = replace(size, clip_width=shape["width"], clip_height=shape["height"])
    make_clip(folder / PLACE / "clip.mp4", 0, small)
    config = load_config(
        None,
        {
            "dataset": str(folder / PLACE),
            "out": str(folder / "runs" / PLACE),  # nothing is written there
            "generator.name": str(folder / GENERATOR),
            "generator.steps": steps,
            "critic.name": str(folder / CRITIC),
            "critic.quantization": "nf4" if on_gpu else "none",
            "denoise.preset": preset,
        },
    )
    prepared = prepare(config)
    loaded: tuple[Any, Any] = load(prepared)
    generator, critic = loaded
    device = torch.device(prepared.device, 0) if on_gpu else torch.device("cpu")
    return Subject(
        generator=generator,
        loaded_critic=critic,
        scenario=prepared.usable[0],
        device=device,
        lanes=LaneStreams(device),
    )


def _with_slots(critic: Any, at_once: int) -> Any:
    """The critic with slots of its own, without drafts: of equal replies all would hold."""
    slots = Slots(
        critic.slots.step,
        device=critic.slots.device,
        eos_ids=critic.slots.eos_ids,
        max_new_tokens=critic.slots.max_new_tokens,
        drafts=0,
        at_once=at_once,
    )
    return replace(critic, slots=slots)


def medians(values: Iterator[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.median(found) if found else None
