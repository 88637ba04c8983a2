"""Settings that make a run fit its memory: what saves some is tried in turn, what costs least first.

Knows no model: whoever asks says what a run with some settings would take. Invariant: what fits as it is
given is left as it is, and what is changed is named with what it costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import RetakeError
from engine.machine.memory import MemoryPlan, in_gib
from engine.settings.config import DEVICE, STREAMED, RunConfig
from engine.types import Footprint

Footprints = Callable[[RunConfig], Mapping[str, Footprint]]
"""Raises RetakeError for settings that these models or this machine do not allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """One way to take less memory. `settings` by dotted key; None: there is nothing to change."""

    costs: str
    on_gpu_only: bool = True
    settings: Callable[[RunConfig], Mapping[str, Any] | None]


def _text_encoder(config: RunConfig) -> Mapping[str, Any] | None:
    return {"memory.text_encoder": STREAMED} if config.memory.text_encoder == DEVICE else None


def _fewer_replies(most: int) -> Callable[[RunConfig], Mapping[str, Any] | None]:
    return lambda config: {"schedule.replies": most} if config.schedule.replies > most else None


def _fewer_scouts(most: int) -> Callable[[RunConfig], Mapping[str, Any] | None]:
    return lambda config: {"loop.scout_batch": most} if config.loop.scout_batch > most else None


def _smaller_chunks(most: int) -> Callable[[RunConfig], Mapping[str, Any] | None]:
    def settings(config: RunConfig) -> Mapping[str, Any] | None:
        now = config.denoise.settings().vae_chunk
        return {"denoise.vae_chunk": most} if now == 0 or now > most else None

    return settings


def _prefix_in_each_step(config: RunConfig) -> Mapping[str, Any] | None:
    return {"denoise.prefix_kept": 0.0} if config.denoise.settings().prefix_kept else None


def _quantized_generator(config: RunConfig) -> Mapping[str, Any] | None:
    if config.denoise.engine or config.denoise.settings().linear != "bf16" or config.memory.blocks != DEVICE:
        return None
    return {
        "denoise.forward": "fast",
        "denoise.linear": "auto",
        "denoise.policy": "auto",
        "denoise.compile": "auto",
    }


def _quantized_critic(config: RunConfig) -> Mapping[str, Any] | None:
    return {"critic.quantization": "nf4"} if config.critic.quantization == "none" else None


def _critic_of_its_own(config: RunConfig) -> Mapping[str, Any] | None:
    """Where one folder is generator and critic: neither of the two saves anything without the other."""
    text, critic = _text_encoder(config), _quantized_critic(config)
    return None if text is None or critic is None else {**critic, **text}


def _experts_in_turn(config: RunConfig) -> Mapping[str, Any] | None:
    """Refused for a generator of one transformer, and beside streamed blocks."""
    return {"memory.experts": STREAMED} if config.memory.experts == DEVICE else None


def _streamed_blocks(config: RunConfig) -> Mapping[str, Any] | None:
    if config.memory.blocks != DEVICE:
        return None
    experts = {"memory.experts": DEVICE} if config.memory.experts == STREAMED else {}
    return {"memory.blocks": STREAMED, **experts}


SAVINGS = (
    *(
        Saving(
            costs=f"scouts share a forward {words}, and may differ in their last bits",
            on_gpu_only=False,
            settings=_fewer_scouts(most),
        )
        for most, words in ((8, "eight at a time"), (4, "four at a time"), (2, "two at a time"))
    ),
    Saving(costs="scouts are made one at a time", on_gpu_only=False, settings=_fewer_scouts(1)),
    Saving(
        costs="each new text goes through an encoder that is read from the host, about a second a take",
        settings=_text_encoder,
    ),
    Saving(
        costs="each take reads both transformers from the host, a second or two",
        settings=_experts_in_turn,
    ),
    Saving(costs="the critic answers four at a time", settings=_fewer_replies(4)),
    Saving(costs="the critic answers two at a time", settings=_fewer_replies(2)),
    Saving(costs="the critic answers one at a time", settings=_fewer_replies(1)),
    Saving(
        costs="the prefix is computed in every step, which makes most steps half as long again",
        on_gpu_only=False,
        settings=_prefix_in_each_step,
    ),
    Saving(costs="the autoencoder takes more passes", on_gpu_only=False, settings=_smaller_chunks(2)),
    Saving(costs="the autoencoder takes twice as long", on_gpu_only=False, settings=_smaller_chunks(1)),
    Saving(costs="other replies: the critic's weights have 4 bits", settings=_quantized_critic),
    Saving(
        costs="other replies: the critic has weights of its own, of 4 bits, and the tower that it shared is "
        "read from the host for each new text",
        settings=_critic_of_its_own,
    ),
    Saving(
        costs="other takes: layers of the generator have 8 bits where that is fast here",
        settings=_quantized_generator,
    ),
)
"""In their order; each is laid over those before it."""
LAST = Saving(
    costs="every denoise step reads the generator's blocks from the host, and takes several times as long",
    settings=_streamed_blocks,
)
"""It needs the library's forward: instead of the 8-bit layers, not beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Settings that fit, and what was changed for it, with its price."""

    config: RunConfig
    plan: MemoryPlan
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Step:
    settings: Mapping[str, Any]
    costs: str


def fit(config: RunConfig, budget_bytes: int, footprints: Footprints, *, on_gpu: bool) -> Fitted:
    """DoesNotFit where nothing helps, or where the user wants no change; it names the cheapest change."""
    tried = _Tried(config, budget_bytes, footprints, on_gpu=on_gpu)
    planned = tried.plan(config)
    if planned.fits:
        return Fitted(config=config, plan=planned)
    steps = next((steps for steps in tried.steps() if tried.plan(laid_over(config, steps)).fits), None)
    if steps is None:
        raise planned.refused(_fix(tried, planned))
    found = tried.fitted(tried.needed(steps))
    if config.memory.fit != "auto":
        changes = "; ".join(found.changes)
        raise planned.refused(f'set memory.fit = "auto", which would change: {changes}')
    return found


def laid_over(config: RunConfig, steps: Sequence[_Step]) -> RunConfig:
    for step in steps:
        for key, value in step.settings.items():
            section, _, name = key.partition(".")
            part: Any = dataclasses.replace(getattr(config, section), **{name: value})
            config = dataclasses.replace(config, **{section: part})
    return config


class _Tried:
    """What savings come to for one run and budget."""

    def __init__(self, config: RunConfig, budget_bytes: int, footprints: Footprints, *, on_gpu: bool) -> None:
        self.config = config
        self._budget_bytes = budget_bytes
        self._footprints = footprints
        self._on_gpu = on_gpu

    def plan(self, config: RunConfig) -> MemoryPlan:
        return MemoryPlan.of(self._budget_bytes, self._footprints(config), overlap=config.schedule.overlap)

    def steps(self) -> Iterator[list[_Step]]:
        """The steps so far, after each saving that these models allow and that saves anything."""
        steps: list[_Step] = []
        for saving in (*SAVINGS, *SAVINGS):  # what saved nothing may do so once something else is smaller
            if (step := self._step(saving, steps)) is not None:
                steps = [*steps, step]
                yield steps
        given = self.config.denoise
        if given.engine or given.settings().forward != "library":
            return
        steps = [step for step in steps if "denoise.forward" not in step.settings]
        if (step := self._step(LAST, steps)) is not None:
            yield [*steps, step]

    def needed(self, steps: list[_Step]) -> list[_Step]:
        """Without those that a later one has made needless; the last one is needed."""
        for step in reversed(steps[:-1]):
            rest = [other for other in steps if other is not step]
            if self.plan(laid_over(self.config, rest)).fits:
                steps = rest
        return steps

    def fitted(self, steps: list[_Step]) -> Fitted:
        changes, plans = [], [self.plan(self.config)]
        for count, step in enumerate(steps, start=1):
            plans.append(self.plan(laid_over(self.config, steps[:count])))
            saved = in_gib(plans[-2].required_bytes - plans[-1].required_bytes)
            told = ", ".join(f"{key} = {value}" for key, value in step.settings.items())
            changes.append(f"{told} saves {saved}: {step.costs}")
        return Fitted(config=laid_over(self.config, steps), plan=plans[-1], changes=tuple(changes))

    def least_bytes(self) -> int:
        """That the run needs with all savings."""
        plans = [self.plan(self.config), *(self.plan(laid_over(self.config, one)) for one in self.steps())]
        return min(plan.required_bytes for plan in plans)

    def in_turn(self) -> _Tried:
        """The same with one lane at a time."""
        config = laid_over(self.config, [_Step({"schedule.overlap": False}, "")])
        return _Tried(config, self._budget_bytes, self._footprints, on_gpu=self._on_gpu)

    def _step(self, saving: Saving, steps: Sequence[_Step]) -> _Step | None:
        now = laid_over(self.config, steps)
        settings = None if saving.on_gpu_only and not self._on_gpu else saving.settings(now)
        if settings is None:
            return None
        step = _Step(settings, saving.costs)
        try:
            plan = self.plan(laid_over(now, [step]))
        except RetakeError:  # these models or this machine do not allow it
            return None
        return step if plan.required_bytes < self.plan(now).required_bytes else None


def _fix(tried: _Tried, planned: MemoryPlan) -> str:
    in_turn = tried.in_turn()
    if tried.config.schedule.overlap and in_turn.least_bytes() <= planned.budget_bytes:
        return "run one lane at a time, which fits: --no-overlap"
    return (
        f"give it {in_gib(min(tried.least_bytes(), in_turn.least_bytes()))}, the least that these models run "
        "in; or choose smaller models with --generator or --critic"
    )
