"""When a preview counts as settled, and that asking never waits for the device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.denoise.early_stop import LOOK_BACK, EarlyStop

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def previews(changes: list[float], device: str = "cpu") -> list[Tensor]:
    """Vectors of length 1 in a plane, each turned so that the step to it has that length."""
    angles = torch.tensor([0.0, *changes]).div(2).asin().mul(2).cumsum(0)
    return list(torch.stack([angles.cos(), angles.sin()], dim=1).to(device))


def decisions(stop: EarlyStop, given: list[Tensor]) -> list[bool]:
    return [stop.settled(preview) for preview in given]


@pytest.mark.parametrize("device", DEVICES)
def test_the_change_of_two_steps_before_decides(device: str) -> None:
    changes = [0.5, 0.2, 0.05, 0.3, 0.02, 0.4, 0.4]
    # Preview number i sees the change that led to preview i - LOOK_BACK.
    expected = [False] * (LOOK_BACK + 1) + [change < 0.1 for change in changes[: len(changes) - LOOK_BACK]]
    assert decisions(EarlyStop(0.1), previews(changes, device)) == expected
    assert expected.count(True) == 2


def test_nothing_is_decided_before_a_change_is_old_enough() -> None:
    same = [torch.ones(2, 3)] * 6
    assert decisions(EarlyStop(1e-6), same) == [False, False, False, True, True, True]


@pytest.mark.parametrize("change", [0.01, 0.1, 1.0])
def test_the_change_is_relative_to_the_preview(change: float) -> None:
    for size in (1e-3, 1.0, 1e3):
        grown = [preview * size for preview in previews([change] * 4)]
        assert decisions(EarlyStop(1.02 * change), grown)[3:] == [True, True]
        assert decisions(EarlyStop(0.98 * change), grown)[3:] == [False, False]


def test_decisions_are_the_same_on_every_run() -> None:
    given = previews([0.3, 0.2, 0.1, 0.05, 0.02, 0.01])
    runs = {tuple(decisions(EarlyStop(0.15), given)) for _ in range(5)}
    assert runs == {(False, False, False, False, False, True, True)}


def test_a_preview_that_is_not_a_number_never_settles() -> None:
    assert not any(decisions(EarlyStop(1.0), [torch.full((2,), torch.nan)] * 6))


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_a_threshold_that_never_stops_is_a_mistake(threshold: float) -> None:
    with pytest.raises(AssertionError, match="never stop"):
        EarlyStop(threshold)


@pytest.mark.gpu
def test_asking_does_not_synchronize() -> None:
    given, stop = previews([0.3, 0.2, 0.1, 0.05, 0.02], "cuda"), EarlyStop(0.15)
    decided = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for preview in given:
            decided.append(stop.settled(preview))
            torch.cuda.current_stream().query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert decided == decisions(EarlyStop(0.15), previews([0.3, 0.2, 0.1, 0.05, 0.02]))
