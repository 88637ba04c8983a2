"""The preset of a run that names none: by device and model, and by what has room.

On a GPU it is "fast", by a rule that was fixed before it was measured on the bundled generator: its price is
below half a point with 8-bit kernels, the lower bound above -1 (bench.quality.denoiser_quality).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from engine.build.fit import Fitted
from engine.errors import DoesNotFit
from engine.settings.config import BUNDLED, DEVICE, RunConfig
from engine.settings.presets import AUTO_PRESET, EXACT

FAST: Final = "fast"
TOLD: Final = "preset fast, as on every GPU; --preset exact is the library's own forward"
NO_ROOM: Final = "denoise.preset = exact, since fast has no room: slower, and the library's own numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """`config` names a preset. `told`: what a user who named none should know; None: nothing."""

    config: RunConfig
    told: str | None = None


def chosen(config: RunConfig, device: str, dtype: str) -> Chosen:
    """The preset that `config` names, or "auto" made one: fast on a GPU, exact on a CPU.

    exact also for what only the library's forward can be (an exported denoiser, streamed blocks), in fp32,
    which is asked for to be exact, and for the bundled generator, which is too small to gain by more.
    """
    if config.denoise.preset != AUTO_PRESET:
        return Chosen(config=config)
    library = config.denoise.engine or config.memory.blocks != DEVICE or dtype == "fp32"
    if device == "cpu" or library or config.generator.name == BUNDLED:
        return Chosen(config=_with(config, EXACT))
    return Chosen(config=_with(config, FAST), told=TOLD)


def fitted(found: Chosen, fit: Callable[[RunConfig], Fitted]) -> Fitted:
    """As it fits; what was chosen and has no room gives way to exact. DoesNotFit as `fit` raises it."""
    try:
        return fit(found.config)
    except DoesNotFit:
        if found.told is None:
            raise
        slower = fit(_with(found.config, EXACT))
        return replace(slower, changes=(NO_ROOM, *slower.changes))


def _with(config: RunConfig, preset: str) -> RunConfig:
    return replace(config, denoise=replace(config.denoise, preset=preset))
