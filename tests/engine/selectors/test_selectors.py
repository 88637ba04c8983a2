"""Selectors rank takes without a reference: their inputs are the scenario, the takes and the attempts."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from critiques import bare_critique
from tiny_vjepa import write_tiny_vjepa

from engine import plugins
from engine.loop.boundary import watch
from engine.protocols import Selector
from engine.selectors import consensus, critic_score
from engine.types import Attempt, Clip, Prompt, Scenario, SelectorSettings, Video
from engine.video.files import write_mp4

SCENARIO = Scenario(
    id="0001_perspective-left",
    text="A ball.",
    prefix=Clip(path=Path("prefix.mp4"), fps=8.0, num_frames=24, width=64, height=64),
    category="solid",
    output_name="0001_perspective-left_trimmed-ball.mp4",
)


BY_PIXELS = [name for name in plugins.names("engine.selectors") if name != "states"]
"""The other one reads what was kept while a take was made, by a probe that must be given: test_states.py."""


def attempt(index: int, score: float | None) -> Attempt:
    critique = bare_critique(score)
    prompt = Prompt(text="A ball.", negative="", seed=0, revision=index)
    return Attempt(index=index, prompt=prompt, video_path=Path(f"attempt-{index}.mp4"), critique=critique)


def rolling(pixels_per_frame: float, *, num_frames: int = 40, side: int = 64) -> Video:
    """A white square on grey that moves to the right."""
    frames = np.full((num_frames, side, side, 3), 90, np.uint8)
    square = side // 4
    for t, frame in enumerate(frames):
        left = min(side - square, int(t * pixels_per_frame))
        frame[square : 2 * square, left : left + square] = 255
    return Video(frames=frames, fps=8.0)


def attempts_for(takes: list[Video]) -> list[Attempt]:
    return [attempt(i, 50.0) for i in range(len(takes))]


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    """A prefix that can be read, with the reference clips of a benchmark beside it."""
    prefix = rolling(0.5, num_frames=24)
    for name in ("conditioning-videos", "testing-videos", "video-masks"):
        write_mp4(tmp_path / f"0001_{name}_8FPS.mp4", prefix.frames, 8.0)
    clip = replace(SCENARIO.prefix, path=tmp_path / "0001_conditioning-videos_8FPS.mp4")
    return replace(SCENARIO, prefix=clip)


@pytest.mark.parametrize("name", BY_PIXELS)
def test_every_selector_is_target_free_and_scores_each_take(name: str, scenario: Scenario) -> None:
    selector: Selector = plugins.load("engine.selectors", name).build(SelectorSettings())
    hints = get_type_hints(type(selector).score)
    assert [*inspect.signature(selector.score).parameters] == ["scenario", "takes", "attempts"]
    assert hints["scenario"] is Scenario and {f"{Video}", f"{Attempt}"} <= {
        f"{hints[key].__args__[0]}" for key in ("takes", "attempts")
    }
    takes = [rolling(0.5), rolling(1.0), rolling(2.0)]
    folder = scenario.prefix.path.parent
    with watch(folder, own=folder / "run", allowed=[scenario.prefix.path]) as opened:
        scores = selector.score(scenario, takes, attempts_for(takes))
    assert len(scores) == 3 and all(isinstance(score, float) for score in scores)
    assert {path.name for path in opened.paths()} <= {scenario.prefix.path.name}
    assert selector.score(scenario, takes, attempts_for(takes)) == scores


@pytest.mark.parametrize("name", BY_PIXELS)
def test_every_selector_takes_still_small_and_short_takes_in_any_order(
    name: str, scenario: Scenario, tmp_path: Path
) -> None:
    small = SelectorSettings(vjepa=write_tiny_vjepa(tmp_path / "vjepa"))
    selector: Selector = plugins.load("engine.selectors", name).build(small)
    takes = [rolling(0.5), rolling(2.0, side=96), rolling(0.0), rolling(1.0, num_frames=9)]
    scores = selector.score(scenario, takes, attempts_for(takes))
    assert all(math.isfinite(score) or score == -math.inf for score in scores)
    assert math.isfinite(scores[0])
    reverse = selector.score(scenario, takes[::-1], attempts_for(takes))
    assert reverse[::-1] == pytest.approx(scores, rel=1e-5)
    alone = selector.score(scenario, takes[:1], attempts_for(takes[:1]))
    assert len(alone) == 1 and math.isfinite(alone[0])


def test_critic_score_passes_scores_on_and_invents_none() -> None:
    takes = [rolling(1.0)] * 3
    unseen = Attempt(index=2, prompt=attempt(2, 0.0).prompt, video_path=Path("attempt-2.mp4"), critique=None)
    attempts = [attempt(0, 0.0), attempt(1, None), unseen]
    scores = critic_score.build(SelectorSettings()).score(SCENARIO, takes, attempts)
    assert scores == [0.0, -math.inf, -math.inf]


def test_consensus_prefers_the_medoid() -> None:
    takes = [rolling(1.0), rolling(1.1), rolling(0.9), rolling(0.0)]
    scores = consensus.build(SelectorSettings()).score(SCENARIO, takes, attempts_for(takes))
    assert max(scores) == scores[0] and min(scores) == scores[3] and 0.0 <= scores[3] < scores[0] < 100.0


def test_consensus_does_not_depend_on_order() -> None:
    takes = [rolling(1.0), rolling(0.2), rolling(0.8), rolling(2.0)]
    scores = consensus.build(SelectorSettings()).score(SCENARIO, takes, attempts_for(takes))
    reverse = consensus.build(SelectorSettings()).score(SCENARIO, takes[::-1], attempts_for(takes))
    np.testing.assert_allclose(scores, reverse[::-1])


def test_consensus_of_one_take_and_of_equal_takes_is_full() -> None:
    selector = consensus.build(SelectorSettings())
    assert selector.score(SCENARIO, [rolling(1.0)], [attempt(0, 1.0)]) == [100.0]
    equal = [rolling(1.0)] * 2
    assert selector.score(SCENARIO, equal, attempts_for(equal)) == pytest.approx([100.0, 100.0])


def test_consensus_compares_takes_of_different_shape() -> None:
    takes = [rolling(1.0), rolling(2.0, side=128), rolling(0.0, num_frames=9)]
    scores = consensus.build(SelectorSettings()).score(SCENARIO, takes, attempts_for(takes))
    assert scores.index(min(scores)) == 2 and all(map(math.isfinite, scores))
