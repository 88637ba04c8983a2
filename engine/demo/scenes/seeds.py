"""Which scenes of the wide world are for what. Committed before anything is trained, with a digest of each.

Training, tuning and measuring never share a scene. Tuning scenes are looked at by take statistics alone
(`bench.quality.take_statistics`), held-out scenes once, at the end. A digest is of what the seeds draw, in
full precision, and so the same on every machine: a change of a kind that changes its scenes changes it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from engine.demo.scenes import WIDE, all_kinds, make_scene
from engine.demo.scenes.base import HELD_OUT_SEED0, Scene


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
    "autoencoder": SeedSet(first=0, count=100_000),
    "generator": SeedSet(first=100_000, count=400_000),
    "takes": SeedSet(first=500_000, count=200_000),
    "critic": SeedSet(first=700_000, count=200_000),
    "surprise": SeedSet(first=900_000, count=100_000),
}
"""What each model is trained on: the critic's takes are of scenes that its generator was not trained on."""
CHECK: Final = SeedSet(first=HELD_OUT_SEED0 + 500_000, count=80)
"""Looked at while training: losses and contact sheets."""
TUNING: Final = SeedSet(first=HELD_OUT_SEED0 + 600_000, count=120)
HELD_OUT: Final = SeedSet(first=HELD_OUT_SEED0 + 200_000, count=240)
"""48 scenes of each category."""
SETS: Final = {**TRAINING_PARTS, "check": CHECK, "tuning": TUNING, "held-out": HELD_OUT}

BROKEN_SHARES: Final = (0.0, 0.15, 0.3)
"""Shares of training footage in which physics is broken; everything is reported at each."""
CAPTIONED_SHARE: Final = 0.5
"""Of broken footage: the share whose prompt says so."""

DIGESTS: Final = {
    "autoencoder": "5d70bb35e5ccfeb0ad99f175bc348f25a9d53e9036037a24e23a3d389e0f6b44",
    "generator": "61ab32809894ea002fc67fe6adff767ac58472847290ff7f9c87a3f48baedeb6",
    "takes": "33b176ce705de5b1b4980d2435bafc5ad58107e34f1b26492b23f1ee7b8c82fd",
    "critic": "04c8d001604acac4363126c8f8b1ea3b39f5478924e78e79326bc2c966467179",
    "surprise": "70a2531378beb8482c472440f98cad25bc5609a9bbc606fbfed5479cb01f0071",
    "check": "8135f2d3ef513121bf55f12a4d12a82a51ef0d9175af80713a5fcf2f979fc667",
    "tuning": "0e843047babda8997cafaf55ce6bd5b6f7af4aefc301e71dbe3d31f91c640be1",
    "held-out": "b7010a846a95fe45c78b149939e21bf775686c9fb9c892b6078c727f85e03a94",
}
"""Of the first 240 scenes of each set, or all."""


def digest(scenes: list[Scene]) -> str:
    """SHA-256 over kind, seed and parameters of these scenes."""
    drawn = "\n".join(f"{scene.name} {scene.params!r}" for scene in scenes)
    return hashlib.sha256(drawn.encode()).hexdigest()
