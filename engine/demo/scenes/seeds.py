"""Which scenes of the wide world are for what. Committed before anything is trained, with a digest of each.

Training, tuning and measuring never share a scene. Tuning scenes are looked at by take statistics alone
(`bench.quality.take_statistics`), held-out scenes once, at the end. One digest is of what the seeds draw, in
full precision, and so the same on every machine; the other of what comes of it, as prompts and labels say it.
A change of a kind that changes its scenes changes one of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from engine.demo.scenes import WIDE, all_kinds, make_scene, origin_of
from engine.demo.scenes.base import HELD_OUT_SEED0, Scene
from engine.loop.prompting import compile_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSet:
    """Consecutive seeds; `first` is a multiple of the number of kinds, so that every kind comes as often."""

    first: int
    count: int

    @property
    def seeds(self) -> range:
        return range(self.first, self.first + self.count)

    def scenes(self) -> list[Scene]:
        kinds = all_kinds(WIDE)
        return [make_scene(seed, kinds) for seed in self.seeds]


TRAINING_PARTS: Final = {
    "autoencoder": SeedSet(first=0, count=105_000),
    "generator": SeedSet(first=105_000, count=405_000),
    "takes": SeedSet(first=510_000, count=195_000),
    "critic": SeedSet(first=705_000, count=195_000),
    "surprise": SeedSet(first=900_000, count=99_990),
}
"""What each model is trained on: the critic's takes are of scenes that its generator was not trained on."""
CHECK: Final = SeedSet(first=HELD_OUT_SEED0 + 500_000, count=120)
"""Looked at while training: losses and contact sheets."""
TUNING: Final = SeedSet(first=HELD_OUT_SEED0 + 605_000, count=120)
HELD_OUT: Final = SeedSet(first=HELD_OUT_SEED0 + 200_000, count=240)
"""48 scenes of each category."""
UNUSED_SEED0: Final = HELD_OUT_SEED0 + 1_000_000
"""From here on seeds are of no set, in either world: for whoever asks for scenes and names none."""
SETS: Final = {**TRAINING_PARTS, "check": CHECK, "tuning": TUNING, "held-out": HELD_OUT}
TRAINING: Final = "training"
MEANT_FOR: Final = {
    TRAINING: "models were trained on these; try things on them, but measure nothing",
    "check": "these were looked at while models were trained; measure nothing on them",
    "tuning": "choose settings and fit on these; measure nothing on them",
    "held-out": "these are to measure on, and for nothing else",
    "unused": "in none of the sets; no model was trained or tuned on these",
}
"""Of scenes as `part_of` names them."""
SEEN: Final = (TRAINING, "check", "tuning")
"""Parts on which no figure is a held-out one."""

BROKEN_SHARES: Final = (0.0, 0.15, 0.3)
"""Shares of training footage in which physics is broken; everything is reported at each."""
CAPTIONED_SHARE: Final = 0.5
"""Of broken footage: the share whose prompt says so."""

DIGESTS: Final = {
    "autoencoder": "b869724e7e1c821444a4e440cb5f662a7588175e34bbb527bcbb5560a68b6464",
    "generator": "b9123cb8353d85407e441fef9c3e5c1e3d6c8e89e86103d315dbf5d5e9d0795e",
    "takes": "bf5d5ab7931dafa1ec427fb9b48f2d249de5d7c0d364b5160e8be37a635affbb",
    "critic": "e9910da6a5125a63743df8dd17d3f6345a270c4f8d7c09d52ec48fe9c89e1540",
    "surprise": "870ff044fee62a1d88d6ce3d6a368eb30913c3f07c84b4dab2c115684e8560e1",
    "check": "734974417552930fd4ed7339712076df97e1357475a81d682014ae421e3a192c",
    "tuning": "76b41fbd9b7659580f02844d524f146b8f5e1653d344e7fc9fa6606032949c61",
    "held-out": "3c6a1e0382fac994953cdf18d2b205efae732b9be5ff8b34ba15e1c4e2db5520",
}
"""Of the first 240 scenes of each set, or all."""
FACTS: Final = {
    "tuning": "4e3b8d24fd143518ab9b762a1e76db52d18851376108271928fd30567b27e7ed",
    "held-out": "2f7fd5a6dd2095bdf2ca148c6fc73552b709f75e2658c7f7670c09178b963784",
}
"""`facts_digest` of the first 30 scenes of these sets."""


def first_held_out(world: str) -> int:
    """The first seed that a world's figures are published on."""
    return HELD_OUT.first if world == WIDE else HELD_OUT_SEED0


def part_of(scene: str) -> str | None:
    """Of a simulated scene by its name, as `origin_of` reads it: "training", "check", "tuning" or "held-out",
    and "unused" for any other that nothing was trained on. None for footage.
    """
    origin = origin_of(scene)
    if origin is None:
        return None
    return _part(*origin)


def parts_of(seeds: Iterable[int], world: str) -> Mapping[str, int]:
    """How many of these scenes are of which part, as `part_of` names them."""
    return Counter(_part(world, seed) for seed in seeds)


def _part(world: str, seed: int) -> str:
    if seed < HELD_OUT_SEED0:
        return TRAINING
    sets = {name: part for name, part in SETS.items() if name not in TRAINING_PARTS and world == WIDE}
    return next((name for name, part in sets.items() if seed in part.seeds), "unused")


def digest(scenes: list[Scene]) -> str:
    """SHA-256 over kind, seed and parameters of these scenes."""
    drawn = "\n".join(f"{scene.name} {scene.params!r}" for scene in scenes)
    return hashlib.sha256(drawn.encode()).hexdigest()


def facts_digest(scenes: list[Scene]) -> str:
    """SHA-256 over briefs, true plans and labels of these scenes, times as prompts round them.

    Rows of blocks are left out: pymunk is compiled, and its last bits decide a chain on another processor.
    """
    exact = [scene for scene in scenes if scene.kind.name != "hammer-row"]
    told = [f"{scene.name} {compile_prompt(scene.brief, scene.truth)} {scene.labels}" for scene in exact]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
