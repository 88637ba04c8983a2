"""Takes, their scouts and what finishes a scout, for generators whose jobs begin and end at any step.

Knows no family: a generator says how a job is made, and how its models run in another number of steps.
"""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Self, TypeVar

from torch import Tensor

from engine.denoise.beginnings import Beginnings, for_few_steps, key_of
from engine.denoise.recent import Recent
from engine.denoise.sampler import Schedule
from engine.denoise.take import TakeJob, pad_first, smaller
from engine.protocols import Fence
from engine.settings.presets import DenoiseSettings
from engine.types import Prompt, Restarts, Scenario, ScoutForm, StateSites, Video
from engine.video.prefix import read_prefix
from kernels.files import file_digest

AJob = TypeVar("AJob", bound=TakeJob)


class Together:
    """Job[tuple[Video, ...]]: the scouts of one `TakeJob`, in its order."""

    def __init__(self, job: TakeJob) -> None:
        self._job = job

    @property
    def steps_left(self) -> int:
        return self._job.steps_left

    @property
    def stage(self) -> str:
        return self._job.stage

    @property
    def num_denoised(self) -> int:
        return self._job.num_denoised

    def launch(self) -> Fence:
        return self._job.launch()

    def result(self) -> tuple[Video, ...]:
        """As `TakeJob.results`."""
        return self._job.results()


class MakesScouts(ABC, Generic[AJob]):
    """`start`, `scout` and `finish` of `engine.protocols.Generator`."""

    parts: Any
    """A dataclass of the models; `spec` says what their videos are."""
    schedule: Schedule
    extrapolated: frozenset[int]
    settings: DenoiseSettings
    prefixes: Recent[Tensor]
    """Encoded ones, by what decides them."""
    beginnings: Beginnings

    @property
    @abstractmethod
    def sites(self) -> StateSites | None:
        """Where takes keep hidden states; None: nowhere."""

    @abstractmethod
    def check_scouts(self, form: ScoutForm) -> None:
        """ConfigError where `scout` cannot make them."""

    @abstractmethod
    def check_restarts(self, steps: int) -> None:
        """ConfigError where takes cannot take their first `steps` again."""

    @abstractmethod
    def _schedule(self, num_steps: int) -> Schedule:
        """What `schedule` is in so many steps."""

    def in_steps(self, num_steps: int) -> Self:
        """The same models over a schedule of so few steps; it shares what is kept of prefixes and texts."""
        other = copy.copy(self)
        other.schedule, other.extrapolated = self._schedule(num_steps), frozenset()
        other.settings = for_few_steps(self.settings)
        return other

    def in_size(self, shrink: int) -> Self:
        """The same models for videos whose sides are those of a take over `shrink`."""
        other = copy.copy(self)
        other.parts = dataclasses.replace(self.parts, spec=smaller(self.parts.spec, shrink))
        return other

    @abstractmethod
    def _job(self, scenario: Scenario, prompts: Sequence[Prompt], asked: Mapping[str, Any]) -> AJob:
        """Of a take of each prompt; several share each forward. `asked`: the fields of `TakeRequest`."""

    def _made(
        self,
        scenario: Scenario,
        prompts: Sequence[Prompt],
        *,
        scout: ScoutForm | None = None,
        after: ScoutForm | None = None,
        shown: Sequence[int] = (0,),
        restarts: Restarts | None = None,
    ) -> AJob:
        """The job of a take, or of scouts, of which `shown` are decoded."""
        spec, path = self.parts.spec, scenario.prefix.path
        # "" where there is no file: reading its frames then says what is wrong
        digest = file_digest(path) if path.is_file() else ""
        key = (scenario.id, digest, spec.width, spec.height)
        encoded = self.prefixes.get(key)
        asked = {
            "prefix_key": key,
            "prefix": pad_first(read_prefix(scenario.prefix, spec)) if encoded is None else None,
            "encoded_prefix": encoded,
            "seeds": tuple(one.seed for one in prompts),
            "rows": tuple(shown),
            "restarts": restarts,
            "shrink": 1 if scout is None else scout.shrink,
            **self.beginnings.asked(key_of(key, prompts[0]), scout, after, anew=self.sites is not None),
        }
        return self._job(scenario, prompts, asked)

    def start(self, scenario: Scenario, prompt: Prompt, *, restarts: Restarts | None = None) -> AJob:
        """A job of 1 encode step, N denoise steps and the decode steps. Reads the prefix file now.

        Behind the steps that a scout of this prompt took, where they are kept; with `restarts` it takes its
        first steps again. Raises VideoError when the prefix is unreadable or too short, ModelError when a
        text is too long, and as `check_restarts`.
        """
        if restarts is not None:
            self.check_restarts(restarts.steps)
        return self._made(scenario, [prompt], restarts=restarts)

    def scout(self, scenario: Scenario, prompt: Prompt, form: ScoutForm) -> AJob:
        """As `start`, in `form.steps` denoise steps. Raises as it and as `check_scouts`."""
        self.check_scouts(form)
        if form.whole:
            return self._maker(form)._made(scenario, [prompt], scout=form)
        return self._made(scenario, [prompt], scout=form)

    def scouts(
        self, scenario: Scenario, prompts: Sequence[Prompt], form: ScoutForm, shown: Sequence[int]
    ) -> Together:
        """As `scout`, for several prompts whose rows share each forward; the `shown` ones are decoded.

        What is remembered between steps is of each row. Equal company gives equal bits; of another size the
        last ones may differ, since libraries choose kernels by size (docs/loops.md).
        """
        assert 0 < len(prompts) <= form.together, f"{len(prompts)} of {form.together} at once"
        self.check_scouts(form)
        maker = self._maker(form) if form.whole else self
        return Together(maker._made(scenario, prompts, scout=form, shown=shown))

    def _maker(self, form: ScoutForm) -> Self:
        """Of whole scouts."""
        maker = self.in_steps(form.steps)
        return maker if form.shrink == 1 else maker.in_size(form.shrink)

    def finish(
        self, scenario: Scenario, prompt: Prompt, form: ScoutForm, restarts: Restarts | None = None
    ) -> AJob:
        """The take of such a scout; with `form.kept` it begins where that ended. Raises as `start` and as
        `check_scouts`."""
        self.check_scouts(form)
        if not form.kept:
            return self.start(scenario, prompt, restarts=restarts)
        assert restarts is None, "refused with the settings"
        return self._made(scenario, [prompt], after=form)
