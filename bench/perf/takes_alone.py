"""One take alone, timed step by step, and its latents as the autoencoder is given them.

For whoever sets a generator of any family beside its library's pipeline. Knows no family.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from engine.denoise.take import DENOISE, VAE_PASS
from engine.types import Video


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Seconds of a take in all, by stage, and of each denoise step; the device was waited for after each."""

    seconds: float
    stages: dict[str, float] = field(default_factory=dict)
    steps_s: tuple[float, ...] = ()

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {"seconds": self.seconds, "stages": dict(self.stages), "steps_s": list(self.steps_s)}


def timed_take(start: Callable[[], Any]) -> tuple[Video, Timed]:
    """The take of the job that `start` begins, by which it reads its clip."""
    began_s = time.perf_counter()
    stages: dict[str, float] = {}
    steps_s: list[float] = []
    job = start()
    stages["clip"] = time.perf_counter() - began_s
    while job.steps_left:
        stage, step_s = job.stage, time.perf_counter()
        job.launch().wait()
        passed_s = time.perf_counter() - step_s
        stages[stage] = stages.get(stage, 0.0) + passed_s
        if stage == DENOISE:
            steps_s.append(passed_s)
    video: Video = job.result()
    return video, Timed(seconds=time.perf_counter() - began_s, stages=stages, steps_s=tuple(steps_s))


def denoise_steps_s(job: Any) -> list[float]:
    """Of each denoise step of a job that has just begun; it is left there, with nothing decoded."""
    steps_s: list[float] = []
    while (stage := job.stage) != VAE_PASS:
        step_s = time.perf_counter()
        job.launch().wait()
        if stage == DENOISE:
            steps_s.append(time.perf_counter() - step_s)
    return steps_s


def latents_of(job: Any, vae: Any) -> Tensor:
    """What the job's first pass of the autoencoder is given: its own units, [1, Z, F, h, w]."""
    with seeing(vae.post_quant_conv) as seen:
        while not seen:
            job.launch().wait()
    return seen[0]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Of all values at once (L2)."""
    expected = expected.float()
    return float((found.float() - expected).norm() / expected.norm())


@contextmanager
def in_so_many_steps(generator: Any, num_steps: int) -> Iterator[None]:
    """Inside, takes have so many denoise steps: to compile, or for what does not hang on their number."""
    before = generator.schedule
    generator.schedule = generator.in_steps(num_steps).schedule
    try:
        yield
    finally:
        generator.schedule = before


@contextmanager
def seeing(module: Any) -> Iterator[list[Tensor]]:
    """The first argument of each call."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    try:
        yield seen
    finally:
        handle.remove()
