"""Training clips: scenes rendered by all cores into shared memory, a block at a time, with their texts.

Each block is a slot of one shared tensor, so frames are never copied between processes. Seeds count upwards from
`first_seed` and stay under HELD_OUT_SEED0, whatever the number of workers.
"""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from typing import Final

import numpy as np
import torch

from engine.demo.scenes import all_kinds, make_scene
from engine.demo.scenes.base import HELD_OUT_SEED0, NUM_FRAMES, SWITCH
from engine.demo.scenes.canvas import VIEWS
from engine.demo.windows import Window, motion_windows
from engine.types import PhysicsPlan

PREFIX_WINDOW_FRAMES: Final = 4  # 6 windows in the last 24 of 25 frames (the first one repeated)


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """What is known of one rendered clip."""

    seed: int
    kind: str
    brief: str
    plan: PhysicsPlan
    prefix_windows: list[Window]
    answer_windows: list[Window]


@dataclass(frozen=True, slots=True)
class Block:
    """`frames` is uint8 [block, NUM_FRAMES, S, S, 3] in a shared slot, valid until `ClipFactory.release`."""

    slot: int
    frames: torch.Tensor
    records: list[ClipRecord]


def describe_prefix(frames: np.ndarray) -> list[Window]:
    """Motion windows of the 24 prefix frames: six of four frames, the first frame standing in before itself."""
    return motion_windows(np.concatenate([frames[:1], frames[:SWITCH]]), PREFIX_WINDOW_FRAMES)


def describe_answer(last_prefix_frame: np.ndarray, answer: np.ndarray) -> list[Window]:
    """Motion windows of a 5 s take, counted from the last prefix frame."""
    return motion_windows(np.concatenate([last_prefix_frame[None], answer]))


def _work(
    shared: torch.Tensor, slots: Queue[int], done: Queue[tuple[int, list[ClipRecord]]], seeds: Queue[int]
) -> None:
    torch.set_num_threads(1)
    kinds = all_kinds()
    block, size_px = shared.shape[1], shared.shape[3]
    while True:
        slot, first = slots.get(), seeds.get()
        records = []
        for index in range(block):
            scene = make_scene(first + index, kinds)
            view = VIEWS[int(np.random.default_rng([first + index, 3]).integers(len(VIEWS)))]
            frames = scene.render(1, view, size_px)
            shared[slot, index] = torch.from_numpy(frames)
            brief, plan = scene.kind.describe(scene.params, scene.kind.simulate(scene.params))
            records.append(
                ClipRecord(
                    first + index, scene.kind.name, brief, plan,
                    describe_prefix(frames), describe_answer(frames[SWITCH - 1], frames[SWITCH:]),
                )
            )  # fmt: skip
        done.put((slot, records))


class ClipFactory:
    """Renders blocks in the background; iterate for blocks, `release` each slot when its frames are used up."""

    def __init__(
        self, *, num_workers: int, first_seed: int, block: int = 64, num_slots: int = 24, size_px: int = 128
    ) -> None:
        context = mp.get_context("fork")
        self._shared = torch.empty(num_slots, block, NUM_FRAMES, size_px, size_px, 3, dtype=torch.uint8)
        self._shared.share_memory_()
        self._slots, self._done, self._seeds = (
            context.Queue(),
            context.Queue(),
            context.Queue(maxsize=num_workers),
        )
        self._next_seed, self._block = first_seed, block
        for slot in range(num_slots):
            self._slots.put(slot)
        for _ in range(num_workers):
            self._feed()
        arguments = (self._shared, self._slots, self._done, self._seeds)
        self._workers = [
            context.Process(target=_work, args=arguments, daemon=True) for _ in range(num_workers)
        ]
        for worker in self._workers:
            worker.start()

    def _feed(self) -> None:
        assert self._next_seed + self._block < HELD_OUT_SEED0, (
            f"seed {self._next_seed} would touch held-out scenes"
        )
        self._seeds.put(self._next_seed)
        self._next_seed += self._block

    def ready(self) -> bool:
        return not self._done.empty()

    def __iter__(self) -> Iterator[Block]:
        while True:
            yield self.take()

    def take(self) -> Block:
        """The next finished block; blocks until there is one. RuntimeError when a worker has died."""
        while True:
            try:
                slot, records = self._done.get(timeout=20.0)
                break
            except mp.queues.Empty:  # type: ignore[attr-defined]
                dead = [worker.pid for worker in self._workers if not worker.is_alive()]
                if dead:
                    raise RuntimeError(f"render workers {dead} have died") from None
        self._feed()
        return Block(slot, self._shared[slot], records)

    def release(self, block: Block) -> None:
        self._slots.put(block.slot)

    def close(self) -> None:
        for worker in self._workers:
            worker.terminate()
