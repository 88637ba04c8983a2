"""Scenes as datasets: any seeds at any size, and the fixed scenes of `retake demo`.

Knows the scenes and the layout, neither models nor the loop. They are held out: no training seed
reaches them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.datasets.physics_iq import VIEWS
from engine.demo.layout import RenderedScene, write_dataset
from engine.demo.scenes import DEFAULT_WORLD, PLAIN, WIDE, choose_kinds, make_scene
from engine.demo.scenes.base import FPS, HELD_OUT_SEED0, Labels, Scene
from engine.errors import ConfigError, unknown_name
from engine.types import Frames, PhysicsPlan

SHOWCASES: Final = {
    PLAIN: {
        "rotating-stick-blocks": HELD_OUT_SEED0 + 900_001,
        "ball-and-block": HELD_OUT_SEED0 + 900_002,
        "filling-glass": HELD_OUT_SEED0 + 900_003,
        "moving-shadow": HELD_OUT_SEED0 + 900_004,
        "heating-bar": HELD_OUT_SEED0 + 900_005,
        "magnet-attracts": HELD_OUT_SEED0 + 900_006,
    },
    WIDE: {
        "hammer-row": HELD_OUT_SEED0 + 910_000,
        "ball-relay": HELD_OUT_SEED0 + 910_001,
        "float-or-sink": HELD_OUT_SEED0 + 910_002,
        "searchlight": HELD_OUT_SEED0 + 910_003,
        "wax-drops": HELD_OUT_SEED0 + 910_004,
        "magnet-crane": HELD_OUT_SEED0 + 910_005,
        "two-cups": HELD_OUT_SEED0 + 910_006,
        "disc-and-screen": HELD_OUT_SEED0 + 910_007,
        "ice-pillars": HELD_OUT_SEED0 + 910_008,
        "compass-row": HELD_OUT_SEED0 + 910_009,
    },
}
"""Kind and seed of each: all five categories, far above the seeds that `--measure` uses.

Those of the wide world, two of each category, were numbered before anybody saw them, the last four later than
the others, and stay whatever comes of them.
"""
SHOWCASE: Final = SHOWCASES[DEFAULT_WORLD]


@dataclass(frozen=True, slots=True)
class SizedScene:
    """A scene drawn at another size than the bundled generator's."""

    scene: Scene
    size_px: int

    @property
    def name(self) -> str:
        return self.scene.name

    @property
    def category(self) -> str:
        return self.scene.category

    @property
    def brief(self) -> str:
        return self.scene.brief

    @property
    def truth(self) -> PhysicsPlan:
        return self.scene.truth

    @property
    def labels(self) -> Labels | None:
        return self.scene.labels

    def render(self, take: int, view: str) -> Frames:
        return self.scene.render(take, view, self.size_px)


def write_showcase(out: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
    """The scenes of `retake demo`, centre view, under `out`."""
    drawn: list[RenderedScene] = [make_scene(seed, choose_kinds([kind])) for kind, seed in SHOWCASE.items()]
    write_dataset(out, drawn, fps=FPS, views=("perspective-center",), progress=progress)


def write_scenes(
    out: Path,
    *,
    seeds: Iterable[int],
    size_px: int,
    views: Sequence[str],
    kinds: Sequence[str],
    world: str = DEFAULT_WORLD,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """One scene a seed, kinds in rotation. `views` are "left", "center", "right"; no `kinds` means all.

    Raises ConfigError for an unknown view, world or kind or an odd size, DatasetError when `out` holds other
    scenes.
    """
    short = {view.removeprefix("perspective-"): view for view in VIEWS}
    for view in views:
        if view not in short:
            raise unknown_name("view", view, short)
    if size_px % 2:
        raise ConfigError(f"size {size_px} is odd, which H.264 cannot store", fix=f"use {size_px + 1}")
    chosen = choose_kinds(kinds, world)
    drawn: list[RenderedScene] = [SizedScene(make_scene(seed, chosen), size_px) for seed in seeds]
    full_views = [short[view] for view in views]
    write_dataset(out, drawn, fps=FPS, views=full_views, workers=workers, progress=progress)
