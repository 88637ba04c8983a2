"""The critic's training set on the training device: frames once, padded token rows of both tasks.

Filled block by block and from shards of generated takes while training runs; hands out batches of fixed
shape, so that compiled layers are compiled once per task.
Legend: B batch, S side in px, L padded row length, G temporal groups (pairs of frames).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import torch

from engine.demo.training.augment import augmented
from engine.demo.training.clips import Block
from engine.demo.training.critic_rows import PREFIX_INDICES, TAKE_INDICES, Row
from engine.demo.training.windows import Window
from kernels.files import whole_file

PLAN_LENGTH: Final = 480
CRITIQUE_LENGTH: Final = 1024
SCORE_EDGES: Final = (20.0, 35.0, 50.0, 60.0, 70.0, 80.0, 90.0)
"""Between the bins of scores that batches are balanced over."""


@dataclass(frozen=True, slots=True)
class TakeShard:
    """Takes of one block: frames uint8 [N, 12 or 16, S, S, 3], windows int8 [N, 6 or 8, 3].

    `sources` says of each where it is from, such as "generated" or "broken: vanishes".
    """

    prefixes: torch.Tensor
    takes: torch.Tensor
    prefix_windows: torch.Tensor
    take_windows: torch.Tensor
    rows: list[Row]
    sources: list[str]


class Rows:
    """Padded ids int16 [capacity, L] with reply starts and lengths, on the device."""

    def __init__(self, capacity: int, length: int, device: str) -> None:
        self.ids = torch.zeros(capacity, length, dtype=torch.int16, device=device)
        self.spans = torch.zeros(capacity, 2, dtype=torch.int32, device=device)
        self.places = torch.zeros(capacity, 2, dtype=torch.int64, device=device)  # clip, take
        self.accepted = torch.zeros(capacity, dtype=torch.bool, device=device)
        self.scores = torch.zeros(capacity, device=device)
        self.pools: list[list[torch.Tensor]] = []  # of good and of bad takes: their rows by bin of score
        self.count = self.dropped = 0

    def add(self, rows: list[Row], places: list[tuple[int, int]]) -> None:
        capacity, length = self.ids.shape
        kept = [(r, p) for r, p in zip(rows, places, strict=True) if len(r.ids) <= length]
        self.dropped += len(rows) - len(kept)
        kept = kept[: capacity - self.count]
        if not kept:
            return
        ids = np.zeros((len(kept), length), np.int16)
        for index, (row, _) in enumerate(kept):
            ids[index, : len(row.ids)] = row.ids
        place = slice(self.count, self.count + len(kept))
        self.ids[place] = torch.from_numpy(ids).to(self.ids.device)
        self.spans[place] = torch.tensor([[r.start, len(r.ids)] for r, _ in kept], dtype=torch.int32).to(
            self.ids.device
        )
        self.places[place] = torch.tensor([p for _, p in kept]).to(self.ids.device)
        self.accepted[place] = torch.tensor([r.accepted for r, _ in kept]).to(self.ids.device)
        self.scores[place] = torch.tensor([r.score for r, _ in kept]).to(self.ids.device)
        self.count += len(kept)
        accepted, scores = self.accepted[: self.count], self.scores[: self.count]
        bins = torch.bucketize(scores, torch.tensor(SCORE_EDGES, device=scores.device), right=True)
        found = []
        for of_verdict in (accepted, ~accepted):
            rows_of = [(of_verdict & (bins == n)).nonzero()[:, 0] for n in range(len(SCORE_EDGES) + 1)]
            found.append([pool for pool in rows_of if len(pool)])
        self.pools = [pools for pools in found if pools]

    def balanced(self, size: int) -> torch.Tensor:
        """Random rows, half of them about acceptable takes, each half from all bins of scores alike.

        All alike where one verdict is missing.
        """
        shares = [size - size // 2, size // 2] if len(self.pools) == 2 else [size]
        picked = []
        for pools, share in zip(self.pools, shares, strict=True):
            which = torch.randint(len(pools), (share,)).bincount(minlength=len(pools)).tolist()
            picked += [
                pool[torch.randint(len(pool), (number,), device=pool.device)]
                for pool, number in zip(pools, which, strict=True)
            ]
        return torch.cat(picked)

    def pick(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ids, labels int64 [B, L] (-100 outside the reply) and places [B, 2]."""
        ids, spans = self.ids[indices].long(), self.spans[indices]
        column = torch.arange(ids.shape[1], device=ids.device)[None]
        inside = (column >= spans[:, :1]) & (column < spans[:, 1:])
        return ids, torch.where(inside, ids, -100), self.places[indices]


class CriticData:
    """At most `capacity` rendered clips, with three takes each where they are `judged`, and shards of takes.

    `scored`: shards hold takes of every source with their benchmark scores, and no others are judged.
    `take_capacity`: of those in shards, `capacity` by default. `augment`: each batch as `augmented` makes it.
    """

    def __init__(
        self,
        capacity: int,
        device: str,
        size_px: int,
        *,
        scored: bool = False,
        take_capacity: int | None = None,
        judged: bool = True,
        augment: bool = False,
    ) -> None:
        def frames(count: int, length: int) -> torch.Tensor:
            return torch.empty(count, length, size_px, size_px, 3, dtype=torch.uint8, device=device)

        self.device, self.capacity, self.scored, self.augment = device, capacity, scored, augment
        self.take_capacity = capacity if take_capacity is None else take_capacity
        num_judged = 3 * capacity if judged else 0
        num_clips, num_takes = capacity + self.take_capacity, num_judged + self.take_capacity
        self.prefixes = frames(num_clips, len(PREFIX_INDICES))
        self.takes = frames(num_takes, len(TAKE_INDICES))
        self.prefix_windows = torch.zeros(num_clips, 6, 3, dtype=torch.int64, device=device)
        self.take_windows = torch.zeros(num_takes, 8, 3, dtype=torch.int64, device=device)
        self.plan_rows = Rows(capacity, PLAN_LENGTH, device)
        self.critique_rows = Rows(num_judged, CRITIQUE_LENGTH, device)
        self.generated_rows = Rows(self.take_capacity, CRITIQUE_LENGTH, device)
        self.num_clips = self.num_takes = self.num_rendered = 0

    @property
    def full(self) -> bool:
        return self.num_rendered >= self.capacity

    def add(self, block: Block) -> None:
        """Rows and frames of one rendered block whose extras are ClipRows."""
        clips = range(self.num_clips, self.num_clips + len(block.records))
        prefix_windows = window_tensor([r.prefix_windows for r in block.records])
        self._put_prefixes(block.frames[:, PREFIX_INDICES].to(self.device), prefix_windows)
        self.plan_rows.add([rows.plan for rows in block.extras], [(clip, -1) for clip in clips])
        judged = len(block.extras[0].takes)
        frames = block.frames.to(self.device) if judged else block.frames[:0]
        for which in range(judged):
            shown = [rows.takes[which] for rows in block.extras]
            indices = torch.from_numpy(np.stack([take.frames for take in shown])).to(self.device)
            sources = torch.tensor([i + take.offset for i, take in enumerate(shown)], device=self.device)
            takes = frames[sources[:, None], indices]
            mirrored = torch.tensor([take.mirrored for take in shown], device=self.device)
            takes = torch.where(mirrored[:, None, None, None, None], takes.flip(3), takes)
            first = self._put_takes(takes, window_tensor([take.windows for take in shown]))
            places = [(clip, first + i) for i, clip in enumerate(clips)]
            self.critique_rows.add([take.row for take in shown], places)
        self.num_rendered += len(block.records)

    @property
    def num_sharded(self) -> int:
        """Clips that came in shards, which may be as many as `take_capacity`."""
        return self.num_clips - self.num_rendered

    def add_shard(self, path: Path) -> None:
        """Takes that another process wrote; nothing where they would be too many."""
        shard = read_shard(path)
        if self.num_sharded + len(shard.rows) > self.take_capacity:
            return
        first_clip = self.num_clips
        self._put_prefixes(shard.prefixes.to(self.device), shard.prefix_windows)
        first_take = self._put_takes(shard.takes.to(self.device), shard.take_windows)
        places = [(first_clip + i, first_take + i) for i in range(len(shard.rows))]
        self.generated_rows.add(shard.rows, places)

    def _put_prefixes(self, frames: torch.Tensor, windows: torch.Tensor) -> None:
        place = slice(self.num_clips, self.num_clips + len(frames))
        self.prefixes[place] = frames
        self.prefix_windows[place] = windows.long().to(self.device)
        self.num_clips += len(frames)

    def _put_takes(self, frames: torch.Tensor, windows: torch.Tensor) -> int:
        first = self.num_takes
        place = slice(first, first + len(frames))
        self.takes[place] = frames
        self.take_windows[place] = windows.long().to(self.device)
        self.num_takes += len(frames)
        return first

    def _random(self, count: int, size: int) -> torch.Tensor:
        return torch.randint(count, (size,), device=self.device)

    def plan_batch(self, size: int) -> dict[str, torch.Tensor]:
        """ids, labels [B, PLAN_LENGTH], frames uint8 [B, 12, S, S, 3], windows [B, 6, 3]."""
        return self.plans(self._random(self.plan_rows.count, size))

    def plans(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The plan rows of these numbers, as `plan_batch` gives them."""
        ids, labels, places = self.plan_rows.pick(rows)
        clips = places[:, 0]
        return {
            "ids": ids,
            "labels": labels,
            "frames": self._seen(self.prefixes[clips]),
            "windows": self.prefix_windows[clips],
        }

    def critique_batch(self, size: int) -> dict[str, torch.Tensor]:
        """ids, labels [B, CRITIQUE_LENGTH], frames uint8 [B, 28, S, S, 3], windows [B, 14, 3].

        Two thirds generated takes once there are some, since that is what the loop shows; half of them bad
        ones, since a critic that sees mostly good takes learns to accept. All of them where they are scored.
        """
        num_generated = 2 * size // 3 if self.generated_rows.count >= 256 else 0
        if self.scored:
            num_generated = size
        parts = []
        if num_generated < size:
            parts.append(self.critique_rows.pick(self.critique_rows.balanced(size - num_generated)))
        if num_generated:
            rows = self.generated_rows
            parts.append(rows.pick(rows.balanced(num_generated)))
        ids, labels, places = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return {"ids": ids, "labels": labels, **self._shown(places)}

    def judged_takes(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The takes of shards of these numbers, as `critique_batch` gives them."""
        ids, labels, places = self.generated_rows.pick(rows)
        return {"ids": ids, "labels": labels, **self._shown(places)}

    def vision_batch(self, size: int) -> dict[str, torch.Tensor]:
        rows = self.critique_rows
        return self._shown(rows.places[self._random(rows.count, size)])

    def _seen(self, frames: torch.Tensor) -> torch.Tensor:
        return augmented(frames) if self.augment else frames

    def _shown(self, places: torch.Tensor) -> dict[str, torch.Tensor]:
        clips, takes = places.unbind(1)
        return {
            "frames": self._seen(torch.cat([self.prefixes[clips], self.takes[takes]], dim=1)),
            "windows": torch.cat([self.prefix_windows[clips], self.take_windows[takes]], dim=1),
        }


def window_tensor(rows: list[list[Window]]) -> torch.Tensor:
    """int64 [N, windows, 3]: amount, x, y."""
    return torch.tensor([[[w.amount, w.x, w.y] for w in windows] for windows in rows])


def save_shard(path: Path, shard: TakeShard) -> None:
    """Atomic, so that a reader never sees half a shard. Tensors and plain values only, see `read_shard`."""
    values = {field.name: getattr(shard, field.name) for field in fields(shard)}
    rows = [(torch.from_numpy(row.ids), row.start, row.accepted, row.score) for row in shard.rows]
    with whole_file(path) as part:
        torch.save(values | {"rows": rows}, part)


def read_shard(path: Path) -> TakeShard:
    """What `save_shard` wrote. Nothing but data is loaded: a foreign file runs no code."""
    values = torch.load(path, weights_only=True)
    rows = [
        Row(ids=ids.numpy(), start=start, accepted=accepted, score=score)
        for ids, start, accepted, score in values["rows"]
    ]
    return TakeShard(**values | {"rows": rows})
