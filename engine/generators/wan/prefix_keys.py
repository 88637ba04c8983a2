"""The prefix of a take, computed once instead of in every step. Belongs to one job and dies with it.

A prefix that looks at itself alone (`own_prefix`) has the same keys and values in every step, both branches
and under every text: they are computed once, and the result is the same. Any other prefix looks at noisy
tokens: what it was at a higher noise level is an approximation, which has its price (`denoise.prefix_kept`).
In a trained generator its keys and values change about as much as the noise level does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from engine.denoise.sampler import NUM_TRAIN_TIMESTEPS, PrefixTimestep
from engine.generators.wan.denoiser import FastDenoiser, Observed, Observing
from engine.generators.wan.forward import PrefixKeys, TextKeys
from engine.protocols import Denoiser


@runtime_checkable
class OfTakes(Protocol):
    """An exported denoiser that computes the prefix once a take."""

    def for_take(self) -> Denoiser:
        """The denoiser of one take."""
        ...


def for_take(denoiser: Denoiser, timesteps: Sequence[float], kept: float) -> Denoiser:
    """The denoiser of one take. `timesteps` of its schedule, from noise on; `kept`: `denoise.prefix_kept`."""
    if isinstance(denoiser, OfTakes):
        return denoiser.for_take()
    if isinstance(denoiser, FastDenoiser) and denoiser.wan.own_prefix:
        return OwnPrefixDenoiser(denoiser)
    if isinstance(denoiser, FastDenoiser) and kept > 0:
        return KeptPrefixDenoiser(denoiser, timesteps, kept)
    return denoiser


def computing_steps(timesteps: Sequence[float], kept: float) -> tuple[int, ...]:
    """Steps that compute the prefix: the first, and each that is `kept` of the noise levels below the last
    of these, or more. All where nothing is kept."""
    found = [0]
    for step, timestep in enumerate(timesteps):
        if step and timesteps[found[-1]] - timestep >= kept * NUM_TRAIN_TIMESTEPS:
            found.append(step)
    return tuple(found)


def prefix_note(denoiser: Denoiser, kept: float) -> str | None:
    """How often the prefix is computed, for the manifest; None: in every step."""
    if isinstance(denoiser, OfTakes):
        return "computed once a take"
    if not isinstance(denoiser, FastDenoiser):
        return None
    if denoiser.wan.own_prefix:
        return "computed once a take"
    return f"kept through {kept:g} of the noise levels" if kept > 0 else None


class OwnPrefixDenoiser(Observing):
    """Of a prefix that looks at itself alone: exact."""

    def __init__(self, denoiser: FastDenoiser) -> None:
        self._denoiser = denoiser
        self._prefix: PrefixKeys | None = None

    def prepare(self, text: Tensor) -> TextKeys:
        return self._denoiser.prepare(text)

    def observed(
        self,
        latents: Tensor,
        timestep: PrefixTimestep,
        text: TextKeys,
        *,
        branch: str,
        layers: Sequence[int],
    ) -> Observed:
        """As `engine.denoise.states.Observable`."""
        if self._prefix is None:
            self._prefix = self._denoiser.wan.own_prefix_keys(latents, timestep.prefix_frames)
        return self._denoiser.behind(latents, timestep, text, self._prefix, branch=branch, layers=layers)


class KeptPrefixDenoiser(Observing):
    """Of any other prefix: each branch of guidance keeps its keys and values from one of `computing_steps` to
    the next. Where that step was left out, or a take goes back to more noise, the next one computes them."""

    def __init__(self, denoiser: FastDenoiser, timesteps: Sequence[float], kept: float) -> None:
        self._denoiser = denoiser
        self._step = {timestep: step for step, timestep in enumerate(timesteps)}
        self._computing = computing_steps(timesteps, kept)
        self._kept: dict[str, tuple[int, PrefixKeys]] = {}

    def prepare(self, text: Tensor) -> TextKeys:
        return self._denoiser.prepare(text)

    def observed(
        self,
        latents: Tensor,
        timestep: PrefixTimestep,
        text: TextKeys,
        *,
        branch: str,
        layers: Sequence[int],
    ) -> Observed:
        """As `engine.denoise.states.Observable`."""
        step = self._step[timestep.value]
        since = max(computing for computing in self._computing if computing <= step)
        made_at, prefix = self._kept.get(branch, (step, None))
        if prefix is None or not since <= made_at <= step:
            made = self._denoiser.keeping(latents, timestep, text, branch=branch, layers=layers)
            recent = {name: old for name, old in self._kept.items() if since <= old[0] <= step}
            self._kept = recent | {branch: (step, made.prefix)}
            return made.velocity, made.states
        return self._denoiser.behind(latents, timestep, text, prefix, branch=branch, layers=layers)
