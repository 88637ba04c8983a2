"""`frame_errors` on a torch device, with the same bits.

A library's sum on a GPU adds up in an order of its own. Here numpy's order is laid out as tables of indices:
leaves of at most 128 values with 8 running sums each, then a binary tree over the leaves, level by level.
The first frame of each size is computed both ways: a device that gives other bits is refused, not believed.
Legend: N others . P values of a frame . L leaves . the value at index P is 0, for places that a leaf lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from bench.scoring.view_metrics import squared_error
from engine.errors import ScorerError
from engine.types import Frames

LEAF = 128
LANES = 8


class TorchSquaredErrors:
    """For frames of any size; the tables of each size are made once."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        units = (np.arange(256) / 255.0).astype(np.float32)
        self._units = torch.from_numpy(units).to(self._device)
        self._sums: dict[int, _PairwiseSum] = {}

    def __call__(self, frame: Frames, others: Sequence[Frames]) -> list[float]:
        """Mean squared difference to each of `others`, in units of 1/255. ScorerError: see above."""
        if frame.size in self._sums:
            return self._errors(frame, others)
        self._sums[frame.size] = _PairwiseSum(frame.size, self._device)
        found, expected = self._errors(frame, others), [squared_error(frame, other) for other in others]
        if found != expected:
            raise ScorerError(
                f"device {self._device} computes squared errors {found}, the CPU {expected}",
                fix="score with --device cpu",
            )
        return found

    def _errors(self, frame: Frames, others: Sequence[Frames]) -> list[float]:
        mine, *theirs = (self._values(picture) for picture in (frame, *others))
        squares = torch.zeros((len(theirs), frame.size + 1), device=self._device)  # [N, P + 1]
        for row, values in zip(squares, theirs, strict=True):
            difference = mine - values
            torch.mul(difference, difference, out=row[:-1])
        totals = self._sums[frame.size](squares).cpu().numpy()
        return [float(total / np.float32(frame.size)) for total in totals]

    def _values(self, frame: Frames) -> torch.Tensor:
        """Looked up and not divided: a device may multiply by the reciprocal, which has other bits."""
        flat = torch.from_numpy(np.ascontiguousarray(frame).reshape(-1)).to(self._device)
        return self._units[flat.int()]


@dataclass(slots=True)
class _Tree:
    """Leaves (start, length) and inner nodes by depth; nodes are numbered, leaves too."""

    leaves: list[tuple[int, int, int]] = field(default_factory=list)  # node, start, length
    inner: list[list[tuple[int, int, int]]] = field(default_factory=list)  # by depth: node, left, right
    count: int = 0

    def add(self, start: int, length: int, depth: int = 0) -> int:
        node = self.count
        self.count += 1
        if length <= LEAF:
            self.leaves.append((node, start, length))
            return node
        half = length // 2
        half -= half % LANES
        left = self.add(start, half, depth + 1)
        right = self.add(start + half, length - half, depth + 1)
        self.inner += [[] for _ in range(depth + 1 - len(self.inner))]
        self.inner[depth].append((node, left, right))
        return node


class _PairwiseSum:
    """Of `length` values that are 0 or more."""

    def __init__(self, length: int, device: torch.device) -> None:
        tree = _Tree()
        tree.add(0, length)
        nodes, starts, lengths = (np.array(column) for column in zip(*tree.leaves, strict=True))
        place = np.arange(LEAF)
        body = lengths // LANES * LANES
        table = np.where(place < body[:, None], starts[:, None] + place, length)  # [L, LEAF]
        # only the last leaf can have a length that is no multiple of 8: what is over is added one by one
        self._over = range(length - int(lengths[-1] - body[-1]), length)
        self._table = torch.from_numpy(table).to(device)
        self._leaves = torch.from_numpy(nodes).to(device)
        self._levels = [torch.tensor(level, device=device).T for level in reversed(tree.inner)]
        self._count = tree.count

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """[N, P + 1] to [N]."""
        rows = values[:, self._table].view(
            len(values), -1, LEAF // LANES, LANES
        )  # [N, L, LEAF / LANES, LANES]
        lanes = rows[:, :, 0]
        for index in range(1, rows.shape[2]):
            lanes = lanes + rows[:, :, index]
        pairs = lanes[:, :, 0::2] + lanes[:, :, 1::2]
        fours = pairs[:, :, 0::2] + pairs[:, :, 1::2]
        sums = fours[:, :, 0] + fours[:, :, 1]  # [N, L]
        for index in self._over:
            sums[:, -1] += values[:, index]
        nodes = torch.zeros((len(values), self._count), device=values.device)
        nodes[:, self._leaves] = sums
        for node, left, right in self._levels:
            nodes[:, node] = nodes[:, left] + nodes[:, right]
        return nodes[:, 0]
