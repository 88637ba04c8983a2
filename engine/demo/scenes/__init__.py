"""Simulated physics scenes: every `Kind` of every module of a world's package, and scenes by seed.

The bundled models know the world "wide", which leaves a generator room to improve. "plain" came before it:
its kinds are simpler, and a model that has learned them solves them in the first take.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Final

import numpy as np

from engine.datasets.physics_iq import untrimmed
from engine.demo.scenes.base import Kind, Scene
from engine.errors import unknown_name

PLAIN: Final = "plain"
WIDE: Final = "wide"
WORLDS: Final = {PLAIN: __name__, WIDE: f"{__name__}.wide"}
"""Name of a world -> the package whose modules hold its kinds."""
DEFAULT_WORLD: Final = WIDE


def all_kinds(world: str = DEFAULT_WORLD) -> tuple[Kind, ...]:
    """Every kind of experiment of a world, in module and declaration order; imports pymunk.

    Raises ConfigError for an unknown world.
    """
    if world not in WORLDS:
        raise unknown_name("world", world, WORLDS)
    package = importlib.import_module(WORLDS[world])
    modules = sorted(info.name for info in pkgutil.iter_modules(package.__path__) if not info.ispkg)
    kinds: list[Kind] = []
    for name in modules:
        kinds += getattr(importlib.import_module(f"{package.__name__}.{name}"), "KINDS", ())
    return tuple(kinds)


def choose_kinds(names: Sequence[str], world: str = DEFAULT_WORLD) -> tuple[Kind, ...]:
    """The kinds of a world with these names, or all for an empty list; ConfigError for an unknown name."""
    kinds = {kind.name: kind for kind in all_kinds(world)}
    for name in names:
        if name not in kinds:
            raise unknown_name("kind of scene", name, kinds)
    return tuple(kinds[name] for name in names) if names else tuple(kinds.values())


def named_scene(name: str) -> Scene | None:
    """The scene that is called KIND-SEED, of whichever world; None for a name that is no scene's."""
    found = _found(name)
    return None if found is None else make_scene(found[2], [found[1]])


def origin_of(name: str) -> tuple[str, int] | None:
    """World and seed of the scene that is called KIND-SEED, as a dataset names it or without that; None for a
    name that is no scene's."""
    found = _found(name)
    return None if found is None else (found[0], found[2])


def _found(name: str) -> tuple[str, Kind, int] | None:
    kind_name, _, seed = untrimmed(name).rpartition("-")
    kinds = {kind.name: (world, kind) for world in WORLDS for kind in all_kinds(world)}
    return (*kinds[kind_name], int(seed)) if kind_name in kinds and seed.isdecimal() else None


def make_scene(seed: int, kinds: Sequence[Kind]) -> Scene:
    """Scene number `seed`: kinds in rotation, so any run of consecutive seeds is balanced over them."""
    kind = kinds[seed % len(kinds)]
    return Scene(kind, seed, kind.sample(np.random.default_rng([seed, 1])))
