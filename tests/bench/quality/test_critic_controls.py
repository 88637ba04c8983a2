"""Controls of the critic: an accept-all critic is right on true takes and wrong on planted physics."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.quality.critic_controls import broken_take, control_takes, judge_controls
from bench.quality.critic_figures import motion_truth, read_truths
from engine.datasets.physics_iq import open_dataset
from engine.demo.layout import write_dataset
from engine.demo.scenes import PLAIN, choose_kinds, make_scene, named_scene
from engine.demo.scenes.broken import VIOLATIONS
from engine.machine.streams import HostFence
from engine.types import Verdict


class OneVerdict:
    """A critic of one opinion."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def start(self, scenario: Any, prompt: Any, video: Any, plan: Any) -> Any:
        assert prompt.text and len(video.frames) == 40
        job = SimpleNamespace(steps_left=1, result=lambda: SimpleNamespace(verdict=self.verdict))

        def launch() -> HostFence:
            job.steps_left = 0
            return HostFence()

        job.launch = launch
        return job


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("controls")
    kinds = choose_kinds(["pendulum"], PLAIN)
    scenes = [make_scene(seed, kinds) for seed in (1_700_001, 1_700_002, 1_700_003)]
    write_dataset(out, scenes, fps=8, views=("perspective-center",))
    return out


@pytest.mark.parametrize(("verdict", "true_share"), [(Verdict.ACCEPT, 1.0), (Verdict.REVISE, 0.0)])
def test_opinions_without_looking_are_found_out(dataset: Path, verdict: Verdict, true_share: float) -> None:
    ids = [scenario.id for scenario in open_dataset(dataset).scenarios(8)]
    seen: list[tuple[int, int]] = []
    figures = judge_controls(
        OneVerdict(verdict),  # type: ignore[arg-type]
        dataset,
        read_truths(dataset, ids),
        count=3,
        period=1,
        fps=8,
        label=motion_truth,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert figures["n"] == 3 and seen[-1] == (3, 3)
    assert figures["true_takes"] == true_share
    assert figures["planted_takes"] == pytest.approx(1.0 - true_share, abs=0.34)
    assert figures["broken_takes"] is not None and any("broken" in name for name in figures["by_plant"])


def test_a_broken_take_is_of_the_scene_itself_and_another_clip_has_none() -> None:
    (name, take), *others = broken_take("two-shadows-1200006", "0001_perspective-left", 4).items()
    scene = named_scene("two-shadows-1200006")
    assert scene is not None and not others
    true = scene.render(1, "left")[24:]
    assert name.removeprefix("broken ") in VIOLATIONS and take.shape == true.shape
    assert not np.array_equal(take, true) and np.abs(take.astype(int) - true).mean() < 40.0
    assert broken_take("my-own-clip", "0001_perspective-left", 4) == {}


def test_controls_are_made_of_the_clip() -> None:
    prefix, answer = np.zeros((24, 8, 8, 3), np.uint8), np.ones((40, 8, 8, 3), np.uint8)
    takes = control_takes(prefix, answer, answer * 2, 0)
    assert takes["true"] is answer and (takes["swapped"] == 2).all()
    assert (takes["planted freeze"] == 0).all()
