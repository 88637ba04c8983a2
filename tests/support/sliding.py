"""A small simulated scene for tests: a bright square slides over a gradient, take 2 a little faster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.types import Frames, PhysicsPlan, PlanMotion, PlanObject, PlanRest

SIZE_PX = 64


@dataclass(frozen=True, slots=True)
class SlidingSquare:
    number: int
    speed_px: float = 0.6  # per frame
    category: str = "Solid Mechanics"

    @property
    def name(self) -> str:
        return f"sliding-square-{self.number}"

    @property
    def brief(self) -> str:
        return "A square slides. Static shot with no camera movement."

    @property
    def labels(self) -> None:
        return None

    @property
    def truth(self) -> PhysicsPlan:
        return PhysicsPlan(
            objects=(PlanObject(name="square", trait="bright"),),
            motion=(PlanMotion(object="bright square", direction="right", speed="slow"),),
            events=(),
            rest=(PlanRest(object="bright square", t=None),),
            still=("wall",),
        )

    def render(self, take: int, view: str) -> Frames:
        rows = np.mgrid[:SIZE_PX, :SIZE_PX][0] + 40
        frames = np.repeat(np.stack([rows, rows, rows // 2], axis=-1)[None], 64, axis=0).astype(np.uint8)
        top = {"left": 8, "center": 20, "right": 32}[view] + self.number
        for index in range(64):
            left = round(4 + index * self.speed_px * (1.0 if take == 1 else 1.04))
            frames[index, top : top + 14, left : left + 14] = (220, 200, 60)
        return frames
