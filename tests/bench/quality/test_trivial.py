"""The baselines: what they predict on clips whose future is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scored_clips import score_frames
from sliding import SlidingSquare

from bench.quality.trivial import BASELINES, extrapolated, frozen, main
from engine.demo.layout import write_dataset
from engine.types import Frames
from engine.video.files import probe


def textured(seed: int = 0) -> Frames:
    """A smooth random backdrop, 64 x 64."""
    coarse = np.random.default_rng(seed).integers(60, 120, (9, 9)).astype(float)
    fine = np.kron(coarse, np.ones((8, 8)))[:64, :64]
    return np.repeat(fine[..., None], 3, axis=2).astype(np.uint8)


def test_frozen_repeats_the_last_frame() -> None:
    prefix = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    answer = frozen(prefix, 40)
    assert answer.shape == (40, 8, 8, 3) and (answer == prefix[-1]).all()


def test_nothing_moves_where_nothing_moved() -> None:
    prefix = np.repeat(textured()[None], 24, axis=0)
    assert np.array_equal(extrapolated(prefix, 40), frozen(prefix, 40))
    assert np.array_equal(extrapolated(prefix[:1], 3), frozen(prefix, 3))


def test_constant_velocity_goes_on_and_uncovers_the_background() -> None:
    """A block at 1 px a frame: 8 frames later it is 8 px further, and its old place is background."""
    backdrop = textured()
    frames = np.repeat(backdrop[None], 34, axis=0)
    block = np.kron(np.random.default_rng(1).integers(150, 255, (2, 2, 3)), np.ones((7, 7, 1)))
    for index in range(34):
        left = 2 + index
        frames[index, 25:39, left : left + 14] = block
    answer = extrapolated(frames[:24], 10)
    bright = (answer[7].mean(axis=2) > 140) & (backdrop.mean(axis=2) < 125)
    columns = np.flatnonzero(bright.any(axis=0))
    assert abs(columns.mean() - (2 + 31 + 6.5)) < 1.5
    old = answer[9, 25:39, 25:33].astype(int)
    assert np.abs(old - backdrop[25:39, 25:33]).mean() < 12


def test_extrapolation_beats_the_frozen_frame_on_steady_motion() -> None:
    takes = [SlidingSquare(0).render(take, "center") for take in (1, 2)]
    scores = {
        name: score_frames(takes[0][24:], takes[1][24:], predict(takes[0][:24], 40)).score
        for name, predict in BASELINES.items()
    }
    assert scores["extrapolated"] > scores["frozen"] + 20


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_command_writes_a_submission(tmp_path: Path, name: str) -> None:
    write_dataset(tmp_path / "scenes", [SlidingSquare(0)], views=("perspective-left",))
    assert main([str(tmp_path / "scenes"), "--baseline", name, "--out", str(tmp_path / "out")]) == 0
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "0001_perspective-left_trimmed-sliding-square-0.mp4"
    assert (probe(path).num_frames, probe(path).fps) == (40, 8.0)


def test_command_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--baseline", "frozen", "--out", str(tmp_path / "out")]) == 2
    assert "is empty" in capsys.readouterr().err
