"""Squared errors on torch devices: every bit as numpy adds up whole frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scored_clips import FPS, make_dataset, submit

from bench.scoring.frame_errors_torch import TorchSquaredErrors, _PairwiseSum
from bench.scoring.physics_iq import score_submission
from bench.scoring.references import references
from bench.scoring.submission import read_submission
from bench.scoring.view_metrics import squared_error
from engine.datasets.physics_iq import read_descriptions
from engine.errors import ScorerError

SIZES = [(540, 960), (133, 211), (27, 48), (43, 1), (7, 7), (1, 14), (1, 2), (1, 1)]


def frames(size: tuple[int, int]) -> list[np.ndarray]:
    random = np.random.default_rng(size)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(3)]


def check(device: str, size: tuple[int, int]) -> None:
    frame, *others = frames(size)
    errors = TorchSquaredErrors(device)
    for _ in range(2):  # checked against the CPU, then not
        assert errors(frame, others) == [squared_error(frame, other) for other in others]


@pytest.mark.parametrize("size", SIZES)
def test_bit_equal_on_the_cpu(size: tuple[int, int]) -> None:
    check("cpu", size)


def test_the_order_of_adding_up_shows() -> None:
    """So that the test above can fail; one by one is an order in which no library adds."""
    frame, other, _ = frames((133, 211))
    values = [(picture / 255.0).astype(np.float32) for picture in (frame, other)]
    one_by_one = np.cumsum(np.square(values[0] - values[1]), dtype=np.float32)
    assert float(one_by_one[-1] / np.float32(one_by_one.size)) != squared_error(frame, other)


def test_sizes_may_alternate() -> None:
    errors = TorchSquaredErrors("cpu")
    for size in ((27, 48), (7, 7), (27, 48)):
        frame, *others = frames(size)
        assert errors(frame, others) == [squared_error(frame, other) for other in others]


def test_device_with_other_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, *others = frames((133, 211))
    errors = TorchSquaredErrors("cpu")
    monkeypatch.setattr(_PairwiseSum, "__call__", lambda self, values: values.sum(dim=1))
    with pytest.raises(ScorerError, match="device cpu computes"):
        errors(frame, others)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [*SIZES, (1080, 1920)])
def test_bit_equal_on_the_gpu(size: tuple[int, int]) -> None:
    check("cuda", size)


@pytest.mark.gpu
def test_scores_are_the_same_on_the_gpu(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "dataset")
    submit(dataset, tmp_path / "clips", take=2)
    rows = read_descriptions(dataset)
    found = read_submission(tmp_path / "clips", rows)
    assert found.fps == FPS
    ways = (("cpu", 1), ("cuda", 1), ("cuda", 2))
    real = references(dataset, rows, found.fps)
    scores = [score_submission(found, dataset, real, jobs=jobs, device=device) for device, jobs in ways]
    assert scores[0] == scores[1] == scores[2]
