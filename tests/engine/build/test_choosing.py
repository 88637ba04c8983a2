"""What the first prompt "auto" became is told, with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from engine.build.choosing import Choosing, first_prompt_told
from engine.loop.expected_gain import GainModel
from engine.settings.loop import LoopConfig

RULES = Choosing(gain=None, why="by rules: critic has no gain.json")


def fitted(points: float, deviation: float) -> Choosing:
    gain = GainModel(weights={"told": points}, covariance=((deviation**2,),), deviations=1.0)
    return Choosing(gain=gain, why="by expected gain, fitted on scenes")


@pytest.mark.parametrize(
    ("chosen_by", "line"),
    [
        (
            fitted(2.0, 1.0),
            "first prompt: plan, since the gain model is sure that it is better than the dataset's sentence; "
            "--first-prompt brief compares both",
        ),
        (
            fitted(1.0, 2.0),
            "first prompt: brief, since the gain model is not sure that the plan's is better; "
            "--first-prompt plan begins with the plan's",
        ),
        (
            RULES,
            "first prompt: brief, since there is no gain model to say that the plan's is better (takes are "
            "chosen by rules: critic has no gain.json); --first-prompt plan begins with the plan's",
        ),
    ],
)
def test_what_auto_became(chosen_by: Choosing, line: str) -> None:
    assert first_prompt_told(LoopConfig(), chosen_by) == line


@pytest.mark.parametrize("loop", [{"first_prompt": "brief"}, {"first_prompt": "plan"}, {"method": "scout"}])
def test_of_what_was_named_or_is_not_asked_nothing_is_told(loop: dict[str, Any]) -> None:
    assert first_prompt_told(LoopConfig(**loop), RULES) is None
