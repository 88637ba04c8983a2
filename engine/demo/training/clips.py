"""Training clips: scenes rendered by all cores into shared memory, a block at a time, with their texts.

Each block is a slot of one shared tensor, so frames are never copied between processes. Seeds count upwards
from `first_seed` and stay under HELD_OUT_SEED0, whatever the number of workers.
"""

from __future__ import annotations

import multiprocessing as mp
import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from engine.demo.scenes import DEFAULT_WORLD, all_kinds, make_scene
from engine.demo.scenes.base import HELD_OUT_SEED0, NUM_FRAMES, SWITCH, Scene
from engine.demo.scenes.broken import Violation, break_scene
from engine.demo.scenes.canvas import VIEWS
from engine.demo.scenes.seeds import CAPTIONED_SHARE
from engine.demo.training.windows import Window, motion_windows
from engine.types import PhysicsPlan

PREFIX_WINDOW_FRAMES: Final = 4  # 6 windows in the last 24 of 25 frames (the first one repeated)


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """What is known of one rendered clip. `wrong` is the truth of another scene of its kind.

    `violation` is what is broken in its answer, if anything, and `caption` the sentence that says so, if its
    prompts do; `plan` stays that of the unbroken scene.
    """

    seed: int
    kind: str
    brief: str
    plan: PhysicsPlan
    wrong: PhysicsPlan
    prefix_windows: list[Window]
    answer_windows: list[Window]
    violation: Violation | None = None
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """Which scenes are rendered, and in which share of them physics is broken."""

    world: str = DEFAULT_WORLD
    broken_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Block:
    """`frames` is uint8 [block, NUM_FRAMES, S, S, 3] in a shared slot, valid until `ClipFactory.release`.

    `extras` holds what the factory's `extra` function returned for each clip.
    """

    slot: int
    frames: torch.Tensor
    records: list[ClipRecord]
    extras: list[Any]


Extra = Callable[[ClipRecord, np.ndarray], Any]  # runs in the worker, on the record and its frames


def describe_prefix(frames: np.ndarray) -> list[Window]:
    """Windows of the 24 prefix frames: six of four frames, the first frame standing in before itself."""
    return motion_windows(np.concatenate([frames[:1], frames[:SWITCH]]), PREFIX_WINDOW_FRAMES)


def describe_answer(last_prefix_frame: np.ndarray, answer: np.ndarray) -> list[Window]:
    """Motion windows of a 5 s take, counted from the last prefix frame."""
    return motion_windows(np.concatenate([last_prefix_frame[None], answer]))


def make_record(scene: Scene, frames: np.ndarray, violation: Violation | None = None) -> ClipRecord:
    """The texts and windows of one rendered scene; a violation is captioned in CAPTIONED_SHARE of seeds."""
    brief, plan = scene.kind.describe(scene.params, scene.kind.simulate(scene.params))
    other = scene.kind.sample(np.random.default_rng([scene.seed, 5]))
    captioned = np.random.default_rng([scene.seed, 14]).random() < CAPTIONED_SHARE
    return ClipRecord(
        seed=scene.seed,
        kind=scene.kind.name,
        brief=brief,
        plan=plan,
        wrong=Scene(scene.kind, scene.seed, other).truth,
        prefix_windows=describe_prefix(frames),
        answer_windows=describe_answer(frames[SWITCH - 1], frames[SWITCH:]),
        violation=violation,
        caption=violation.sentence() if violation is not None and captioned else "",
    )


def view_of(seed: int) -> str:
    """The view in which training sees a scene."""
    return VIEWS[int(np.random.default_rng([seed, 3]).integers(len(VIEWS)))]


def draw_clip(scene: Scene, view: str, size_px: int, broken_share: float) -> tuple[np.ndarray, ClipRecord]:
    """Take 1 of a scene, uint8 [NUM_FRAMES, S, S, 3], broken in that share of seeds, with its record."""
    frames, violation = scene.render(1, view, size_px), None
    rng = np.random.default_rng([scene.seed, 13])
    if rng.random() < broken_share:
        broken = break_scene(scene, frames, view, rng)
        if broken is not None:
            frames, violation = broken
    return frames, make_record(scene, frames, violation)


def _work(
    shared: torch.Tensor, slots: Any, done: Any, seeds: Any, extra: Extra | None, footage: Footage
) -> None:
    torch.set_num_threads(1)
    kinds = all_kinds(footage.world)
    block, size_px = shared.shape[1], shared.shape[3]
    while True:
        slot, first = slots.get(), seeds.get()
        records, extras = [], []
        for index in range(block):
            scene = make_scene(first + index, kinds)
            frames, record = draw_clip(scene, view_of(scene.seed), size_px, footage.broken_share)
            shared[slot, index] = torch.from_numpy(frames)
            records.append(record)
            extras.append(None if extra is None else extra(records[-1], frames))  # nosec B610 # no query
        done.put((slot, records, extras))


class ClipFactory:
    """Renders blocks in the background; `take` a block, `release` its slot when its frames are used up."""

    def __init__(
        self,
        *,
        num_workers: int,
        first_seed: int,
        block: int = 64,
        num_slots: int = 24,
        size_px: int = 128,
        extra: Extra | None = None,
        footage: Footage | None = None,
    ) -> None:
        context = mp.get_context("fork")
        self._shared = torch.empty(num_slots, block, NUM_FRAMES, size_px, size_px, 3, dtype=torch.uint8)
        self._shared.share_memory_()
        self._slots, self._done, self._seeds = context.Queue(), context.Queue(), context.Queue()
        self._next_seed, self.block = first_seed, block
        for slot in range(num_slots):
            self._slots.put(slot)
        for _ in range(num_workers):
            self._feed()
        arguments = (self._shared, self._slots, self._done, self._seeds, extra, footage or Footage())
        self._workers = [
            context.Process(target=_work, args=arguments, daemon=True) for _ in range(num_workers)
        ]
        for worker in self._workers:
            worker.start()

    def _feed(self) -> None:
        end = self._next_seed + self.block
        assert end < HELD_OUT_SEED0, f"seed {end} would touch held-out scenes"
        self._seeds.put(self._next_seed)
        self._next_seed = end

    @property
    def next_seed(self) -> int:
        """The first seed that no worker has been given."""
        return self._next_seed

    def ready(self) -> bool:
        return not self._done.empty()

    def take(self) -> Block:
        """The next finished block; blocks until there is one. RuntimeError when a worker has died."""
        while True:
            try:
                slot, records, extras = self._done.get(timeout=20.0)
                break
            except queue.Empty:
                dead = [worker.pid for worker in self._workers if not worker.is_alive()]
                if dead:
                    raise RuntimeError(f"render workers {dead} have died") from None
        self._feed()
        return Block(slot, self._shared[slot], records, extras)

    def release(self, block: Block) -> None:
        self._slots.put(block.slot)

    def close(self) -> None:
        for worker in self._workers:
            worker.terminate()
