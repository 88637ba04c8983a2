"""Settings that make a run fit its memory: what saves some is tried in turn, what costs least first.

Knows no model: whoever asks says what a run with some settings would take. Invariant: what fits as it is
given is left as it is, and what is changed is named with what it costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
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


def _smaller_chunks(most: int) -> Callable[[RunConfig], Mapping[str, Any] | None]:
    def settings(config: RunConfig) -> Mapping[str, Any] | None:
        now = config.denoise.settings().vae_chunk
        return {"denoise.vae_chunk": most} if now == 0 or now > most else None

    return settings


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


SAVINGS = (
    Saving(
        costs="each new text goes through an encoder that is read from the host, about a second a take",
        settings=_text_encoder,
    ),
    Saving(costs="the critic answers four at a time", settings=_fewer_replies(4)),
    Saving(costs="the critic answers two at a time", settings=_fewer_replies(2)),
    Saving(costs="the critic answers one at a time", settings=_fewer_replies(1)),
    Saving(costs="the autoencoder takes more passes", on_gpu_only=False, settings=_smaller_chunks(2)),
    Saving(costs="the autoencoder takes twice as long", on_gpu_only=False, settings=_smaller_chunks(1)),
    Saving(costs="other replies: the critic's weights have 4 bits", settings=_quantized_critic),
    Saving(
        costs="other takes: layers of the generator have 8 bits where that is fast here",
        settings=_quantized_generator,
    ),
)
"""In their order; each is laid over those before it."""


def _streamed_blocks(given: RunConfig, config: RunConfig) -> RunConfig | None:
    """The last resort, which needs the library's forward: without the 8-bit layers that were tried before."""
    if given.denoise.settings().forward != "library" or given.denoise.engine:
        return None
    chunk = config.denoise.settings().vae_chunk
    denoise = dataclasses.replace(given.denoise, vae_chunk=chunk)
    memory = dataclasses.replace(config.memory, blocks=STREAMED)
    return dataclasses.replace(config, denoise=denoise, memory=memory)


STREAMING = "every denoise step reads the generator's blocks from the host, several times as long as it takes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Settings that fit, and what was changed for it, with its price."""

    config: RunConfig
    plan: MemoryPlan
    changes: tuple[str, ...] = ()


def fit(config: RunConfig, budget_bytes: int, footprints: Footprints, *, on_gpu: bool) -> Fitted:
    """DoesNotFit where nothing helps, or where the user wants no change; it names the cheapest change."""
    planned = _plan(config, budget_bytes, footprints)
    if planned.fits:
        return Fitted(config=config, plan=planned)
    found = next(
        (one for one in _tried(config, budget_bytes, footprints, on_gpu=on_gpu) if one.plan.fits), None
    )
    if found is not None and config.memory.fit == "auto":
        return found
    raise planned.refused(_fix(config, planned, found, budget_bytes, footprints, on_gpu=on_gpu))


def changed(before: RunConfig, after: RunConfig) -> Iterator[str]:
    """Dotted keys that differ, with the value of `after`."""
    for section in dataclasses.fields(after):
        old, new = getattr(before, section.name), getattr(after, section.name)
        if dataclasses.is_dataclass(new) and old != new:
            for entry in dataclasses.fields(new):
                value = getattr(new, entry.name)
                if getattr(old, entry.name) != value:
                    yield f"{section.name}.{entry.name} = {value}"


def _tried(config: RunConfig, budget_bytes: int, footprints: Footprints, *, on_gpu: bool) -> Iterator[Fitted]:
    """After each saving that these models allow."""
    now, told = config, ()
    before = _plan(config, budget_bytes, footprints)
    for saving in SAVINGS:
        settings = None if saving.on_gpu_only and not on_gpu else saving.settings(now)
        made = None if settings is None else _with(now, settings)
        plan = None if made is None else _try(made, budget_bytes, footprints)
        if made is None or plan is None or plan.required_bytes >= before.required_bytes:
            continue
        told = (*told, _told(now, made, before, plan, saving.costs))
        now, before = made, plan
        yield Fitted(config=now, plan=plan, changes=told)
    last = _streamed_blocks(config, now) if on_gpu else None
    plan = None if last is None else _try(last, budget_bytes, footprints)
    if last is not None and plan is not None:
        kept = tuple(line for line in told if "denoise.linear" not in line)
        yield Fitted(config=last, plan=plan, changes=(*kept, f"memory.blocks = {STREAMED}: {STREAMING}"))


def _told(before: RunConfig, after: RunConfig, larger: MemoryPlan, smaller: MemoryPlan, costs: str) -> str:
    saved = in_gib(larger.required_bytes - smaller.required_bytes)
    return f"{', '.join(changed(before, after))} saves {saved}: {costs}"


def _fix(
    config: RunConfig,
    planned: MemoryPlan,
    found: Fitted | None,
    budget_bytes: int,
    footprints: Footprints,
    *,
    on_gpu: bool,
) -> str:
    if found is not None:
        return f'set memory.fit = "auto", which would change: {"; ".join(found.changes)}'
    alone = _with(config, {"schedule.overlap": False})
    plans = [_plan(alone, budget_bytes, footprints)]
    plans += [one.plan for one in _tried(alone, budget_bytes, footprints, on_gpu=on_gpu)]
    if config.schedule.overlap and any(plan.fits for plan in plans):
        return "run one lane at a time, which fits: --no-overlap"
    least = min(plan.required_bytes for plan in (planned, *plans))
    return (
        f"give it {in_gib(least)}, the least that these models run in; or choose smaller models with "
        "--generator or --critic"
    )


def _plan(config: RunConfig, budget_bytes: int, footprints: Footprints) -> MemoryPlan:
    return MemoryPlan.of(budget_bytes, footprints(config), overlap=config.schedule.overlap)


def _try(config: RunConfig, budget_bytes: int, footprints: Footprints) -> MemoryPlan | None:
    """None where these models or this machine do not allow the settings."""
    try:
        return _plan(config, budget_bytes, footprints)
    except RetakeError:
        return None


def _with(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    for key, value in settings.items():
        section, _, name = key.partition(".")
        part: Any = dataclasses.replace(getattr(config, section), **{name: value})
        config = dataclasses.replace(config, **{section: part})
    return config
