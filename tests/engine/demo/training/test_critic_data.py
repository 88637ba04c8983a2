"""A shard of generated takes reads back as it was, and a foreign file in its place runs nothing."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from engine.demo.training.augment import MAX_GAIN, MAX_SHIFT_PX, augmented
from engine.demo.training.clips import Block
from engine.demo.training.critic_check import CriticCheck, is_checked
from engine.demo.training.critic_data import CriticData, TakeShard, read_shard, save_shard
from engine.demo.training.critic_rows import ClipRows, Row
from engine.demo.training.windows import Window


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def test_a_shard_reads_back(tmp_path: Path) -> None:
    rows = [Row(ids=np.arange(5, dtype=np.int16), start=2), Row(np.zeros(3, np.int16), 1, False, 12.5)]
    made = TakeShard(
        *(torch.full((2, 3), value, dtype=torch.uint8) for value in range(4)),
        rows=rows,
        sources=["true", "x"],
    )
    save_shard(tmp_path / "shard.pt", made)
    found = read_shard(tmp_path / "shard.pt")
    assert found.sources == made.sources
    for name in ("prefixes", "takes", "prefix_windows", "take_windows"):
        assert torch.equal(getattr(found, name), getattr(made, name))
    assert [(row.ids.tolist(), row.ids.dtype, row.start, row.accepted, row.score) for row in found.rows] == [
        ([0, 1, 2, 3, 4], np.int16, 2, True, 100.0),
        ([0, 0, 0], np.int16, 1, False, 12.5),
    ]


def test_a_foreign_file_runs_no_code(tmp_path: Path) -> None:
    torch.save({"rows": [], "prefixes": Hostile(tmp_path / "was here")}, tmp_path / "shard.pt")
    with pytest.raises(pickle.UnpicklingError):
        read_shard(tmp_path / "shard.pt")
    assert not (tmp_path / "was here").exists()


def _shard(count: int, size_px: int = 16) -> TakeShard:
    return TakeShard(
        prefixes=torch.full((count, 12, size_px, size_px, 3), 3, dtype=torch.uint8),
        takes=torch.full((count, 16, size_px, size_px, 3), 5, dtype=torch.uint8),
        prefix_windows=torch.zeros(count, 6, 3, dtype=torch.int8),
        take_windows=torch.ones(count, 8, 3, dtype=torch.int8),
        rows=[Row(np.arange(9, dtype=np.int16), 4, n % 2 == 0, 90.0 * (n % 2 == 0)) for n in range(count)],
        sources=["generated"] * count,
    )


def test_takes_in_shards_have_a_capacity_of_their_own(tmp_path: Path) -> None:
    data = CriticData(2, "cpu", 16, scored=True, take_capacity=8, judged=False)
    assert (len(data.prefixes), len(data.takes), data.critique_rows.ids.shape[0]) == (10, 8, 0)
    for number in range(3):
        save_shard(tmp_path / f"{number}.pt", _shard(4))
        data.add_shard(tmp_path / f"{number}.pt")
    assert (data.num_sharded, data.num_takes, data.generated_rows.count) == (8, 8, 8), "the third is too many"
    batch = data.critique_batch(4)
    assert batch["frames"].shape == (4, 28, 16, 16, 3)
    assert batch["frames"][:, :12].unique().tolist() == [3] and batch["frames"][:, 12:].unique().tolist() == [
        5
    ]


def test_shards_put_aside_are_the_first_ones() -> None:
    assert [is_checked(Path(name)) for name in ("0000.pt", "0001.pt", "0002.pt", "part.pt")] == [
        True,
        True,
        False,
        False,
    ]


class OneBlock:
    """A factory whose only block has three clips, without takes."""

    block = 3

    def take(self) -> Block:
        frames = torch.zeros(3, 64, 16, 16, 3, dtype=torch.uint8)
        rows = ClipRows(Row(np.arange(9, dtype=np.int16), 4), [])
        record = SimpleNamespace(prefix_windows=[Window(0, -1, -1)] * 6)
        return Block(0, frames, [cast(Any, record)] * 3, [rows] * 3)

    def release(self, block: Block) -> None:
        pass

    def close(self) -> None:
        pass


class Shapes:
    """Losses that count the rows they are asked about."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, ...]] = []

    def inputs(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor]:
        return (batch["frames"],)

    def reply_losses(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        self.frames.append(tuple(frames.shape[:2]))
        return {"reply": torch.tensor(float(len(self.frames)))}


def test_fewer_clips_than_a_batch_are_checked_too(tmp_path: Path) -> None:
    check, losses = CriticCheck(cast(Any, OneBlock()), "cpu", 16, batch=64), Shapes()
    assert check.losses(losses, tmp_path) == {"plan": 1.0} and losses.frames == [(64, 12)]
    save_shard(tmp_path / "0001.pt", _shard(4))
    save_shard(tmp_path / "0002.pt", _shard(4))
    assert check.losses(losses, tmp_path) == {"plan": 2.0, "critique": 3.0}
    assert losses.frames[1:] == [(64, 12), (64, 28)], "each batch has the shape that was compiled"


def test_a_clip_is_changed_as_a_whole_and_a_little() -> None:
    torch.manual_seed(0)
    column = torch.arange(40, dtype=torch.uint8) * 4 + 20
    frames = column.expand(8, 3, 40, 40).unsqueeze(-1).repeat(1, 1, 1, 1, 3)  # a ramp from left to right
    found = augmented(frames)
    assert found.shape == frames.shape and found.dtype == torch.uint8
    assert torch.equal(found[:, 0], found[:, 2]), "all frames of a clip alike"
    ratio = found[:, 0, 20, 8:32, 0].float() / frames[:, 0, 20, 8:32, 0]
    shift = 4 * MAX_SHIFT_PX / 52  # of the darkest column looked at
    assert ratio.max() <= (1 + MAX_GAIN) * (1 + shift) + 0.02
    assert ratio.min() >= (1 - MAX_GAIN) * (1 - shift) - 0.02
    assert len({tuple(clip.flatten().tolist()) for clip in found}) > 4, "each clip by itself"
