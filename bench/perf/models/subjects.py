"""What the rows of one model are measured on: its generators, the critic, the library's pipeline.

Each is loaded when it is first asked for, and kept as long as later rows need it. Knows no row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.perf.end_to_end.made import CLIPS, CRITIC
from bench.perf.memory.runs import Loaded, empty, loaded_models
from bench.perf.models.beside import Library
from bench.perf.models.folders import LORA_FILE
from bench.perf.models.sizes import Model
from bench.perf.models.steps import kinds_of, whole_clip
from bench.perf.takes_alone import Timed, in_so_many_steps, latents_of, timed_take
from engine.build.prepare import Prepared, load_generator, prepare
from engine.denoise.recent import Recent
from engine.denoise.sampler import read_schedule
from engine.generators.wan.generator import REMEMBERED
from engine.settings.config import RunConfig, load_config
from engine.types import Prompt, Scenario

CHECK_STEPS = 2
"""Of takes that are compared, only warm up, or are there for their peak: both attentions of preset fast."""

Found = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the rows of this process share. `out` is an empty folder."""

    model: Model
    preset: str
    models: Path
    out: Path
    deadline_s: float

    def config(self, *, vram: str = "", preset: str = "", fit: str = "auto", lora: bool = False) -> RunConfig:
        folder, on_gpu = self.models / self.model.name, torch.cuda.is_available()
        return load_config(
            None,
            {
                "dataset": str(self.models / CLIPS),
                "out": str(self.out / "run"),
                "generator.name": str(folder),
                "generator.steps": self.model.timed_steps,
                "generator.loras": (str(folder / LORA_FILE),) if lora else (),
                "critic.name": str(self.models / CRITIC),
                "critic.quantization": "nf4" if on_gpu else "none",
                "dtype": "bf16" if on_gpu else "fp32",
                "denoise.preset": preset or self.preset,
                "loop.loops": 0,
                "memory.vram": vram,
                "memory.fit": fit,
            },
        )

    def ours(self, generator: Any, timed: Timed) -> Found:
        """Of a take of few steps, with what a clip of all its steps takes by it."""
        timesteps = read_schedule(generator.parts.scheduler, self.model.whole_steps).timesteps
        kinds = kinds_of(generator, generator.schedule.timesteps)
        return whole_clip(timed, kinds, kinds_of(generator, timesteps))

    def library(self, timed: Timed) -> Found:
        """The same of the pipeline, whose steps are all alike."""
        model = self.model
        return whole_clip(timed, [None] * model.timed_steps, [None] * model.whole_steps)


class Subjects:
    """Of one process. The generator of the last budget is that without one where it would be the same."""

    def __init__(self, work: Work) -> None:
        self._work, self.loaded = work, Loaded()
        self._prepared: Prepared | None = None
        self._timed: Any = None
        self._exact: Any = None
        self._library: Library | None = None
        self._plain: Tensor | None = None

    def under(self, prepared: Prepared) -> tuple[Any, Any, dict[str, int], bool]:
        """Generator, critic and their bytes as a budget has them, and whether they were loaded anew."""
        before = self.loaded.key if self.loaded.models else None
        models = loaded_models(prepared, self.loaded)
        return *models, self.loaded.key != before

    def drop(self) -> None:
        """What was loaded for a budget."""
        self.loaded.models = None
        empty()

    def timed(self) -> Any:
        """The generator of the preset, warm and without a budget, the critic beside it. DoesNotFit."""
        if self._timed is None:
            empty()
            self._prepared = prepare(self._work.config(fit="refuse"))
            generator, _, _, is_new = self.under(self._prepared)
            if is_new:
                warm_up(generator, self.scenario)
            self._timed = generator
        return self._timed

    @property
    def scenario(self) -> Scenario:
        assert self._prepared is not None, "timed() prepares it"
        return self._prepared.usable[0]

    def exact(self) -> Any:
        """That of preset exact, whose modules the pipeline has."""
        self.timed()
        if self._exact is None:
            empty()
            self._exact = self._again(self._work.config(preset="exact"))
        return self._exact

    def library(self) -> Library:
        if self._library is None:
            self._library = Library(self._work.model.name, self.exact(), self.scenario)
        return self._library

    def plain_latents(self) -> Tensor:
        """Of the timed generator after CHECK_STEPS."""
        if self._plain is None:
            self._plain = latents(self.timed(), self.scenario).cpu()
        return self._plain

    def merged(self) -> Any:
        """The timed generator with the LoRA of the folder in its weights; the pipeline makes room for it."""
        self.timed()
        self._exact = self._library = None
        empty()
        return self._again(self._work.config(lora=True))

    def _again(self, config: RunConfig) -> Any:
        """Another generator of the same folder, without a plan: that would count what is here as taken."""
        prepared = self._prepared
        assert prepared is not None, "timed() prepares it"
        return load_generator(config, prepared.generator, prepared.device, prepared.dtype, with_weights=True)


def prompt_of(generator: Any, scenario: Scenario, seed: int) -> Prompt:
    return Prompt(text=scenario.text, negative=generator.negative_prompt, seed=seed, revision=0)


def take_of(generator: Any, scenario: Scenario, *, seed: int) -> Timed:
    """A take as of a scenario that is new."""
    generator.prefixes = Recent(REMEMBERED)
    prompt = prompt_of(generator, scenario, seed)
    return timed_take(lambda: generator.start(scenario, prompt))[1]


def warm_up(generator: Any, scenario: Scenario) -> None:
    with in_so_many_steps(generator, CHECK_STEPS):
        take_of(generator, scenario, seed=0)


def latents(generator: Any, scenario: Scenario) -> Tensor:
    """After a few steps, as the autoencoder gets them: its statistics are 0 and 1."""
    with in_so_many_steps(generator, CHECK_STEPS):
        job = generator.start(scenario, prompt_of(generator, scenario, 0))
        return latents_of(job, generator.parts.vae)
