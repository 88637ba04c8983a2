"""The first steps of takes, kept on the host: a scout takes them, and its take goes on behind them.

A step is kept as its velocity, from which the sampler makes the same latents again, bit by bit; noise follows
from the seed. Knows no family. Invariant: a take that goes on from its beginning is the take made at once.
Z latent channels . F latent frames . h, w latent pixels
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from engine.denoise.guidance import gate_step
from engine.errors import ConfigError
from engine.settings.presets import DenoiseSettings
from engine.types import Prompt, ScoutForm
from engine.words import counted

KEPT_BYTES = 4 << 30
"""Of the host's memory: fifty scouts of four steps at 720p. One that was dropped is begun again."""


STATES_OF_ONE_SIZE = "hidden states are kept, which are compared among videos of one size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which steps of a take a job takes: those behind the `known` ones, float32 [1, Z, F, h, w] each.

    until: the step it ends at; its result is then what that step points at. None: the end of the take.
    """

    known: tuple[Tensor, ...] = ()
    until: int | None = None

    def num_left(self, num_steps: int) -> int:
        return (num_steps if self.until is None else self.until) - len(self.known)


ALL = Part()


class Beginnings:
    """Velocities by what decides them, the ones used last, up to `max_bytes`. Threads may share one."""

    def __init__(
        self,
        settings: DenoiseSettings,
        num_steps: int,
        extrapolated: Collection[int],
        max_bytes: int = KEPT_BYTES,
        *,
        computing: Sequence[int] | None = None,
    ) -> None:
        """`num_steps` of a take, the `extrapolated` ones among them. `computing`: those that compute what
        further steps read, the first among them; None: no step reads what another has computed."""
        gate = gate_step(num_steps, settings.cfg_gate)
        remembers_more = settings.early_stop or extrapolated
        self._most_steps = 0 if remembers_more else num_steps if gate is None else gate - 1
        self._computing = computing
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, tuple[Tensor, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def part(self, key: Hashable, until: int | None = None) -> Part:
        """What is left of a take, up to the step `until`: from one on that computes its prefix anew."""
        known = self._known(key)
        if self._computing is not None:
            known = known[: max(step for step in self._computing if step <= len(known))]
        return Part(known=known if until is None or len(known) < until else (), until=until)

    def asked(
        self, key: Hashable, scout: ScoutForm | None, after: ScoutForm | None, *, anew: bool
    ) -> dict[str, Any]:
        """What of a `TakeRequest` says which part of a take is made: a scout; a take that begins where its
        scout ended; or all that is left of the take. `anew`: nothing is left out of it that was made before,
        since hidden states of those steps are wanted."""
        if after is not None:
            shown = self._known((key, after.steps))[:1]
            return {"beginning": key, "part": ALL, "stills": False, "after": after, "shown": shown}
        if scout is None:
            return {"beginning": key, "part": ALL if anew else self.part(key), "stills": False}
        until = None if scout.whole else scout.steps
        if scout.together > 1:  # company may change last bits, and a take does not depend on them
            return {"beginning": None, "part": Part(until=until), "stills": scout.stills}
        part = Part(until=until) if scout.whole or anew else self.part(key, until)
        shown_as = (key, scout.steps) if scout.kept else None
        return {"beginning": key, "part": part, "stills": scout.stills, "shown_as": shown_as}

    def put(self, key: Hashable | None, velocities: Sequence[Tensor]) -> None:
        """Copied to the host without waiting: they may be read once the fence of this step is over.

        Not kept where a take remembers more of these steps than their velocities, nor without a key.
        """
        if key is None or len(velocities) > self._most_steps:
            return
        with self._lock:
            self._kept[key] = tuple(one.to("cpu", non_blocking=True) for one in velocities)
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and self._num_bytes() > self._max_bytes:
                self._kept.popitem(last=False)

    def _known(self, key: Hashable) -> tuple[Tensor, ...]:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key, ())

    def _num_bytes(self) -> int:
        return sum(one.nbytes for kept in self._kept.values() for one in kept)


def key_of(prefix_key: Hashable, prompt: Prompt) -> Hashable:
    """What decides the steps of a take, for one generator."""
    return prefix_key, replace(prompt, revision=0)


def refuse_scouts(
    form: ScoutForm,
    *,
    num_steps: int,
    is_distilled: bool,
    goes_on: bool,
    one_at_a_time: str | None,
    one_size: str | None,
) -> None:
    """ConfigError where takes of `num_steps` have no such scouts. `is_distilled`: for these steps alone;
    `goes_on`: whether the first steps of a take are of all its frames. `one_at_a_time`: why several share no
    forward, `one_size`: why none is smaller than a take; None: they may."""
    if form.shrink > 1:
        _refuse_small(form, one_size)
    if form.together > 1 and form.kept:
        one_at_a_time = (
            "loop.scout_kept is set, and such a take begins where a scout ended that was made alone"
        )
    if form.together > 1 and one_at_a_time is not None:
        raise ConfigError(
            f"loop.scout_batch is {form.together}, and scouts share no forward here: {one_at_a_time}",
            fix="set loop.scout_batch = 1",
        )
    if form.steps >= num_steps:
        raise ConfigError(
            f"a scout of {counted(form.steps, 'denoise step')} is no cheaper than a take, which has "
            f"{num_steps}",
            fix="lower loop.scout_steps or loop.scout_halvings, or take more --steps",
        )
    if form.kept and not form.whole:
        raise ConfigError(
            "loop.scout_kept is set, and loop.scout_form is first, whose steps are those of the take already",
            fix='set loop.scout_kept = 0, or loop.scout_form = "whole"',
        )
    if form.kept and not goes_on:
        raise ConfigError(
            "loop.scout_kept is set, and the first steps of this model are of the first frames alone",
            fix="set loop.scout_kept = 0",
        )
    if form.whole and is_distilled:
        raise ConfigError(
            "loop.scout_form is whole, and this model was distilled for its own steps and has no fewer",
            fix='set loop.scout_form = "first"',
        )
    if not form.whole and not goes_on:
        raise ConfigError(
            "loop.scout_form is first, and the first steps of this model are of the first frames alone",
            fix='set loop.scout_form = "whole"',
        )


def _refuse_small(form: ScoutForm, one_size: str | None) -> None:
    if not form.whole:
        one_size = "loop.scout_form is first, whose steps are those of the take"
    elif form.kept:
        one_size = "loop.scout_kept is set, and such a take begins with what its scout ended with"
    if one_size is not None:
        raise ConfigError(
            f"loop.scout_shrink is {form.shrink}, and scouts have the size of takes here: {one_size}",
            fix="set loop.scout_shrink = 1",
        )


def steps_kept(form: ScoutForm, num_steps: int) -> int:
    """Of a take: at least one where any is kept, and never all."""
    return min(max(1, round(form.kept * num_steps)), num_steps - 1) if form.kept else 0


def for_few_steps(settings: DenoiseSettings) -> DenoiseSettings:
    """Of a whole take in few steps: none of them is left out, and both branches of guidance run in each."""
    return replace(settings, cfg_gate=1.0, step_cache=0.0, early_stop=0.0)
