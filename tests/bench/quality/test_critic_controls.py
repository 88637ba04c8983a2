"""Controls of the critic: an accept-all critic is right on true takes and wrong on planted physics."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.quality.critic_controls import control_takes, judge_controls
from bench.quality.critic_figures import motion_truth, read_truths
from engine.datasets.physics_iq import open_dataset
from engine.demo.layout import write_dataset
from engine.demo.scenes import choose_kinds, make_scene
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
    kinds = choose_kinds(["pendulum"])
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


def test_controls_are_made_of_the_clip() -> None:
    prefix, answer = np.zeros((24, 8, 8, 3), np.uint8), np.ones((40, 8, 8, 3), np.uint8)
    takes = control_takes(prefix, answer, answer * 2, 0)
    assert takes["true"] is answer and (takes["swapped"] == 2).all()
    assert (takes["planted freeze"] == 0).all()
