"""What the critic's losses are on clips and takes that it was never trained on: does it learn them by heart?

Teacher-forced, so it says how training goes, and not what the critic is worth (`bench.quality.demo_quality`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from engine.demo.training.clips import ClipFactory
from engine.demo.training.critic_data import CriticData

NUM_CLIPS: Final = 60
NUM_SHARDS: Final = 2
"""Of the takes, the first shards: training leaves them out."""


def is_checked(shard: Path) -> bool:
    return shard.stem.isdecimal() and int(shard.stem) < NUM_SHARDS


class CriticCheck:
    """Losses on the clips of `factory`, which renders scenes of no other use, and on shards put aside."""

    def __init__(self, factory: ClipFactory, device: str, size_px: int, batch: int) -> None:
        self._batch = batch
        clips = max(NUM_CLIPS // factory.block, 1) * factory.block
        self._data = CriticData(clips, device, size_px, scored=True, take_capacity=256, judged=False)
        while not self._data.full:
            block = factory.take()
            self._data.add(block)
            factory.release(block)
        factory.close()

    def losses(self, losses: Any, shards: Path | None) -> dict[str, float]:
        """ "plan" and, where takes were put aside, "critique": mean losses of the reply.

        With gradients, which nobody asks for: compiled layers would be compiled anew without.
        """
        data, found = self._data, {}
        if shards is not None and not data.num_sharded:
            for path in sorted(filter(is_checked, shards.rglob("*.pt"))):
                data.add_shard(path)
        kinds = {"plan": data.plan_rows.count, "critique": data.generated_rows.count}
        for kind, count in kinds.items():
            values = []
            for start in range(0, count, self._batch):  # the last one begins anew: one compiled shape
                rows = torch.arange(start, start + self._batch, device=data.device) % count
                batch = data.plans(rows) if kind == "plan" else data.judged_takes(rows)
                with torch.autocast(data.device, torch.bfloat16, enabled=data.device == "cuda"):
                    values.append(float(losses.reply_losses(*losses.inputs(batch))["reply"].detach()))
            if values:
                found[kind] = sum(values) / len(values)
        return found
