"""What a simulated scene is: parameters, a 8 s trajectory, a description with a truth plan, and a drawing.

A `Kind` bundles the functions of one experiment. Take 2 is `vary`: the same experiment repeated with an
experimenter's tolerance. Knows nothing of files; the truth plan is for training and measuring only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np

from engine.demo.scenes.canvas import Canvas, Image
from engine.types import ANSWER_SECONDS, PREFIX_SECONDS, PhysicsPlan

FPS: Final = 8
NUM_PREFIX_FRAMES: Final = round(PREFIX_SECONDS * FPS)
NUM_ANSWER_FRAMES: Final = round(ANSWER_SECONDS * FPS)
NUM_FRAMES: Final = NUM_PREFIX_FRAMES + NUM_ANSWER_FRAMES
SWITCH: Final = NUM_PREFIX_FRAMES  # index of the first answer frame
HELD_OUT_SEED0: Final = 1_000_000
"""Seeds from here on are never trained on."""

Rng = np.random.Generator
State = Any  # one frame's worth of a kind's own trajectory; only that kind's `draw` reads it


FAILURE_TYPES: Final = (
    "ambiguous boundaries",
    "emergent phenomena",
    "individual confusion",
    "complex combination",
)
"""What generators get wrong, as MR-CAS names it (arXiv 2511.20280)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """How hard a scene is: the paper's "simple" or not, and which of FAILURE_TYPES it invites."""

    simple: bool
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One experiment as functions of its parameters.

    `label` says how hard a scene is. `breaks` names the ways in which `simulate` can break physics where
    the parameters' field `broken` says so (the others are done to any kind from outside, see `broken`).
    """

    name: str
    category: str
    sample: Callable[[Rng], Any]
    vary: Callable[[Any, Rng], Any]
    simulate: Callable[[Any], list[State]]
    describe: Callable[[Any, list[State]], tuple[str, PhysicsPlan]]
    backdrop: Callable[[Any, int], Canvas]  # what never moves, drawn once: (params, size_px)
    draw: Callable[[Canvas, Any, State], None]
    label: Callable[[Any, list[State]], Labels] | None = None
    breaks: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Callable[[str, str], Kind], tuple[str, str]]:
        """Pickled by module and name, since its functions may be lambdas: workers get scenes this way."""
        return _kind_named, (self.sample.__module__, self.name)


def _kind_named(module: str, name: str) -> Kind:
    kinds: tuple[Kind, ...] = importlib.import_module(module).KINDS
    return next(kind for kind in kinds if kind.name == name)


@dataclass(frozen=True, slots=True)
class Scene:
    """One experiment with its two takes. Equal kind and seed give equal frames."""

    kind: Kind
    seed: int
    params: Any

    @property
    def name(self) -> str:
        return f"{self.kind.name}-{self.seed}"

    @property
    def category(self) -> str:
        return self.kind.category

    @property
    def brief(self) -> str:
        return self.kind.describe(self.params, self.kind.simulate(self.params))[0]

    @property
    def truth(self) -> PhysicsPlan:
        return self.kind.describe(self.params, self.kind.simulate(self.params))[1]

    @property
    def labels(self) -> Labels | None:
        """None for a kind that was made before there were labels."""
        label = self.kind.label
        return None if label is None else label(self.params, self.kind.simulate(self.params))

    def render(self, take: int, view: str, size_px: int = 128) -> Image:
        """uint8 RGB [NUM_FRAMES, size_px, size_px, 3] of take 1 or 2."""
        params = self.params
        if take == 2:
            params = self.kind.vary(params, np.random.default_rng([self.seed, 2]))
        return render(self.kind, params, self.kind.simulate(params), view, size_px)


def render(kind: Kind, params: Any, states: Sequence[State], view: str, size_px: int) -> Image:
    backdrop = kind.backdrop(params, size_px)
    frames = np.empty((NUM_FRAMES, size_px, size_px, 3), np.uint8)
    for index, state in enumerate(states):
        canvas = backdrop.copy()
        kind.draw(canvas, params, state)
        frames[index] = canvas.finish(view)
    return frames


def frame_time_s(index: int) -> float:
    """Seconds after the switch of frame `index`; negative in the prefix."""
    return (index - SWITCH) / FPS


def nudged(params: Any, rng: Rng, sigmas: dict[str, float]) -> Any:
    """`params` with each named float field shifted by a normal error: an experimenter's tolerance."""
    known = {field.name for field in fields(params)}
    assert sigmas.keys() <= known, f"not fields of {type(params).__name__}: {sigmas.keys() - known}"
    return replace(params, **{name: getattr(params, name) + rng.normal(0.0, s) for name, s in sigmas.items()})


def rest_time_s(positions: np.ndarray, tolerance: float = 0.004) -> float | None:
    """When motion ends for good: seconds after the switch, 0.0 if before it, None if never.

    `positions` is [NUM_FRAMES, D] in world units; at rest means no coordinate moves by more than `tolerance`
    a frame from there on.
    """
    steps = np.abs(np.diff(positions, axis=0)).max(axis=1)
    moving = np.flatnonzero(steps > tolerance)
    if len(moving) == 0:
        return 0.0
    last = int(moving[-1]) + 1
    if last >= NUM_FRAMES - 2:
        return None
    return max(0.0, frame_time_s(last))


def choice(rng: Rng, *options: Any) -> Any:
    return options[int(rng.integers(len(options)))]
