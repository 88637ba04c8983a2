"""Which simulated scenes a measurement may look at: prices on held-out ones, fits on any but those.

Scenes are known by their name, KIND-SEED, as datasets of simulated scenes tell it; footage of others passes.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.demo.scenes import DEFAULT_WORLD, origin_of
from engine.demo.scenes.seeds import SEEN, TUNING, first_held_out, part_of
from engine.errors import ConfigError
from engine.words import command_line


def require_bundled_world(scenes: Iterable[str]) -> None:
    """ConfigError for a scene of a world that the bundled models do not know."""
    for scene in scenes:
        origin = origin_of(scene)
        if origin is not None and origin[0] != DEFAULT_WORLD:
            raise ConfigError(
                f"scene {scene} is of the world {origin[0]!r}, and the bundled models know {DEFAULT_WORLD!r}",
                fix=f"make scenes with `{_makes('--world', DEFAULT_WORLD)}`",
            )


def require_held_out(scenes: Iterable[str]) -> None:
    """ConfigError for a scene that models were trained on, or that was looked at before."""
    for scene in scenes:
        origin = origin_of(scene)
        if origin is not None and is_seen(scene):
            make = _makes("--world", origin[0], "--seed", first_held_out(origin[0]))
            raise ConfigError(
                f"scene {scene} is a {part_of(scene)} scene: a figure of it is not held out",
                fix=f"measure on held-out scenes: `{make}`",
            )


def require_not_held_out(scenes: Iterable[str]) -> None:
    """ConfigError for a scene that is kept for the end: what is fitted on it cannot be measured on it."""
    for scene in scenes:
        if part_of(scene) == "held-out":
            raise ConfigError(
                f"scene {scene} is held out, to be measured on at the end",
                fix=f"fit on tuning scenes: `{_makes('--seed', TUNING.first, '--count', TUNING.count)}`",
            )


def is_seen(scene: str) -> bool:
    """Whether models were trained or anything was tuned on this scene."""
    return part_of(scene) in SEEN


def _makes(*options: object) -> str:
    return command_line("retake", "scenes", "OUT", *options)
