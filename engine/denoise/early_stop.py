"""Ends the denoising of one job when its previewed result no longer changes, without waiting for the device.

The change of each step is copied to pinned memory, with an event, and read two steps later, when the
scheduler has seen that step's fence pass: so the decision is the same on every run. Belongs to one job.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOOK_BACK = 2
"""Steps in flight at most (engine/loop/scheduler.py): the step before those is over."""


class EarlyStop:
    """`threshold`: the relative change ||x0 - x0 before|| / ||x0|| below which the preview is settled."""

    def __init__(self, threshold: float) -> None:
        assert threshold > 0, f"threshold {threshold} would never stop"
        self._threshold = threshold
        self._before: Tensor | None = None
        self._changes: list[tuple[Tensor, torch.cuda.Event | None]] = []

    def settled(self, preview: Tensor) -> bool:
        """Note the preview of this step; whether the change of the step two before was small."""
        if self._before is not None:
            change = torch.linalg.vector_norm(preview - self._before) / torch.linalg.vector_norm(preview)
            self._changes.append(_to_host(change))
        self._before = preview
        if len(self._changes) <= LOOK_BACK:
            return False
        value, event = self._changes[-1 - LOOK_BACK]
        if event is not None and not event.query():
            event.synchronize()  # only a caller without fences gets here, the scheduler is never so far ahead
        return bool(value < self._threshold)


def _to_host(value: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    if not value.is_cuda:
        return value, None
    host = value.to("cpu", non_blocking=True)  # torch pins the copy
    event = torch.cuda.Event()
    event.record()
    return host, event
