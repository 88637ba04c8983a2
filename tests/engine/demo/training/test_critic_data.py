"""A shard of generated takes reads back as it was, and a foreign file in its place runs nothing."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.demo.training.critic_data import TakeShard, read_shard, save_shard
from engine.demo.training.critic_rows import Row


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
