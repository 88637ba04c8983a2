"""The fixed work goes through the product's scheduler; a job's fault is the run's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.perf.end_to_end.stand_in import Answered
from bench.perf.overlap.sharing import SHARINGS, STREAMS, shared
from bench.perf.overlap.work import Amount, Subject
from engine.machine.streams import HostFence, LaneStreams
from engine.protocols import Fence
from engine.types import Video


class Reply(Answered[Any]):
    """Of two steps; notes how many of its kind are under way."""

    def __init__(self, models: Models) -> None:
        super().__init__(SimpleNamespace(raw="{}", num_tokens=7))
        self.models, self.steps_left = models, 2

    @property
    def stage(self) -> str:
        return "step"

    def launch(self) -> Fence:
        self.models.open += self.steps_left == 2
        self.models.most = max(self.models.most, self.models.open)
        self.steps_left -= 1
        self.models.open -= self.steps_left == 0
        return HostFence()


class Models:
    """Generator and critic: frames of the seed, replies of one text."""

    negative_prompt = ""

    def __init__(self, fault: str = "") -> None:
        self.open = self.most = 0
        self.fault = fault

    def start(self, scenario: Any, prompt: Any, video: Any = None, plan: Any = None) -> Answered[Any]:
        if video is None:
            return Answered(Video(frames=np.full((1, 2, 2, 3), prompt.seed, np.uint8), fps=1.0))
        if self.fault:
            raise ValueError(self.fault)
        return Reply(self)


def subject(models: Models) -> Subject:
    return Subject(
        generator=models,
        loaded_critic=models,
        critics={(count, STREAMS.critic_priority): models for count in (1, 3)},
        scenario=SimpleNamespace(id="clip", text="a ball"),  # type: ignore[arg-type]
        device=torch.device("cpu"),
        lanes=LaneStreams(torch.device("cpu")),
        shown="a take",
    )


@pytest.mark.parametrize("chosen", SHARINGS[:2], ids=lambda one: one.name)
@pytest.mark.parametrize("overlap", [False, True])
def test_all_work_is_done(chosen: Any, overlap: bool) -> None:
    models = Models()
    one = subject(models)
    with shared(chosen, one.lanes) as on_lane:
        ran = one.run(Amount(takes=2, replies=3, at_once=3), on_lane, overlap=overlap)
        again = one.run(Amount(takes=2, replies=1), on_lane)
    assert len(set(ran.takes)) == 2 and len(set(ran.replies)) == 1 and ran.tokens == 21
    assert again.takes == ran.takes and models.most == (3 if overlap else 1)
    assert ran.step_ms(4) is None, "its jobs have no denoise step"
    assert ran.tokens_per_s is not None and ran.tokens_per_s > 0


def test_a_fault_is_told() -> None:
    one = subject(Models(fault="no"))
    with shared(SHARINGS[0], one.lanes) as on_lane, pytest.raises(RuntimeError, match="ValueError: no"):
        one.run(Amount(takes=1, replies=1), on_lane)
