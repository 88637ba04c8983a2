"""Simulated physics scenes: every `Kind` of every module of this package, and scenes by seed."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

import numpy as np

from engine.demo.scenes.base import Kind, Scene
from engine.errors import unknown_name


def all_kinds() -> tuple[Kind, ...]:
    """Every kind of experiment, in module and declaration order; imports pymunk."""
    modules = sorted(info.name for info in pkgutil.iter_modules(__path__))
    kinds: list[Kind] = []
    for name in modules:
        kinds += getattr(importlib.import_module(f"{__name__}.{name}"), "KINDS", ())
    return tuple(kinds)


def choose_kinds(names: Sequence[str]) -> tuple[Kind, ...]:
    """The kinds with these names, or all for an empty list; ConfigError for an unknown name."""
    kinds = {kind.name: kind for kind in all_kinds()}
    for name in names:
        if name not in kinds:
            raise unknown_name("kind of scene", name, kinds)
    return tuple(kinds[name] for name in names) if names else tuple(kinds.values())


def make_scene(seed: int, kinds: Sequence[Kind]) -> Scene:
    """Scene number `seed`: kinds in rotation, so any run of consecutive seeds is balanced over them."""
    kind = kinds[seed % len(kinds)]
    return Scene(kind, seed, kind.sample(np.random.default_rng([seed, 1])))
