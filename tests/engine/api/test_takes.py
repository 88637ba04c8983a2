"""One take at a time: own clips as questions, prompts, jobs, videos on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from scripted_critic import ScriptedCritic
from tiny_run import Folders

import retake
from engine.datasets.physics_iq import VIEWS
from engine.protocols import Fence
from engine.runs.states import read_states
from engine.types import States, StateSites
from engine.video.files import probe, read_frames, write_mp4

GREY = np.full((24, 32, 32, 3), 90, np.uint8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_mp4(tmp_path / "ball.mp4", GREY, 8.0)
    return tmp_path / "ball.mp4"


def test_a_clip_is_a_question(clip: Path) -> None:
    made = retake.scenario(str(clip), "A ball rolls.")
    assert (made.id, made.text, made.output_name) == ("ball", "A ball rolls.", "ball.mp4")
    assert (made.prefix.path, made.prefix.fps, made.prefix.num_frames) == (clip, 8.0, 24)
    spec = retake.VideoSpec(width=16, height=16, fps=8.0, prefix_frames=24, num_frames=40)
    assert retake.read_prefix(made, spec).shape == (24, 16, 16, 3)


def test_a_short_or_missing_clip_is_refused(tmp_path: Path) -> None:
    write_mp4(tmp_path / "short.mp4", GREY[:8], 8.0)
    with pytest.raises(retake.VideoError, match="at least 3 s"):
        retake.scenario(tmp_path / "short.mp4", "A ball.")
    with pytest.raises(retake.VideoError, match=r"gone\.mp4"):
        retake.scenario(tmp_path / "gone.mp4", "A ball.")


def test_the_questions_of_a_dataset(clip: Path, folders: Folders) -> None:
    clip.with_suffix(".txt").write_text("A ball rolls.")
    assert [one.id for one in retake.open_scenarios(clip.parent)] == ["ball"]
    found = retake.open_scenarios(folders.dataset, 8.0)
    assert [one.id.partition("_")[2] for one in found] == [VIEWS[1]] * 2
    write_mp4(clip.parent / "ball.mp4", GREY[:8], 8.0)
    with pytest.raises(retake.VideoError, match="at least 3 s"):
        retake.open_scenarios(clip.parent)


def test_a_prompt_is_the_text_or_the_plan(clip: Path) -> None:
    scenario = retake.scenario(clip, "A ball rolls.")
    bare = retake.prompt(scenario, seed=3, negative="blur")
    assert (bare.text, bare.seed, bare.negative, bare.plan) == ("A ball rolls.", 3, "blur", None)
    plan = retake.plan(ScriptedCritic(), scenario).plan
    planned = retake.prompt(scenario, plan=plan)
    assert "moves sideways at slow speed" in planned.text and planned.plan == plan


def test_a_critique_corrects_the_plan_of_the_prompt(clip: Path) -> None:
    scenario, asked = retake.scenario(clip, "A ball rolls."), []

    class Asking(ScriptedCritic):
        def start(self, scenario, prompt, video, plan):  # type: ignore[no-untyped-def]
            asked.append(plan)
            return super().start(scenario, prompt, video, plan)

    plan = retake.plan(Asking(), scenario).plan
    other = retake.critique(
        Asking(), scenario, retake.prompt(scenario, plan=plan), retake.Video(frames=GREY, fps=8.0)
    )
    retake.critique(Asking(), scenario, retake.prompt(scenario), retake.Video(frames=GREY, fps=8.0), plan)
    assert asked == [plan, plan] and other.score == 10.0


@dataclass
class Counting:
    """A job of five steps, each done when it is waited for; keeps how many were ever in flight."""

    steps_left: int = 5
    in_flight: int = 0
    most: int = 0
    waited: list[int] = field(default_factory=list)

    @property
    def stage(self) -> str:
        return "count"

    def launch(self) -> Fence:
        self.steps_left -= 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        return self

    def done(self) -> bool:
        return False

    def wait(self) -> None:
        self.in_flight -= 1

    def result(self) -> str:
        assert self.steps_left == 0 and self.in_flight == 0
        return "made"


def test_a_job_is_finished_with_two_steps_in_flight() -> None:
    job = Counting()
    assert retake.finish(job) == "made" and job.most == 2


def test_a_job_of_one_step() -> None:
    assert retake.finish(retake.OneStep(lambda: 7)) == 7

    def fails() -> int:
        raise retake.VideoError("no", fix="yes")

    with pytest.raises(retake.VideoError, match="no"):
        retake.finish(retake.OneStep(fails))


def test_a_video_is_written_or_refused(tmp_path: Path) -> None:
    retake.write_video(tmp_path / "a.mp4", retake.Video(frames=GREY, fps=8.0))
    clip = probe(tmp_path / "a.mp4")
    assert (clip.fps, clip.num_frames) == (8.0, 24)
    assert np.abs(read_frames(clip).astype(int) - 90).max() <= 2
    for bad in (GREY[:, :31], GREY.astype(np.float32), GREY[0], GREY[:0]):
        with pytest.raises(retake.VideoError):
            retake.write_video(tmp_path / "b.mp4", retake.Video(frames=bad, fps=8.0))
    assert not (tmp_path / "b.mp4").exists()


def test_a_take_of_a_loaded_generator(folders: Folders) -> None:
    generator = retake.load_generator(str(folders.generator), {"device": "cpu", "dtype": "fp32"})
    scenario = retake.open_scenarios(folders.dataset, generator.spec.fps)[0]
    video = retake.take(generator, scenario, retake.prompt(scenario, seed=1))
    spec = generator.spec
    assert video.frames.shape == (spec.num_frames, spec.height, spec.width, 3) and video.fps == spec.fps
    assert video.frames.dtype == np.uint8
    other = retake.take(generator, scenario, retake.prompt(scenario, seed=2))
    assert not np.array_equal(video.frames, other.frames)


def test_hidden_states_are_written_beside_their_video(tmp_path: Path) -> None:
    sites = StateSites(steps=(0,), timesteps=(1000.0,), layers=(1,), width=2)
    states = States(sites=sites, values=np.ones((1, 1, 3, 2), np.float32))
    retake.write_video(tmp_path / "a.mp4", retake.Video(frames=GREY, fps=8.0, states=states))
    assert np.array_equal(read_states(tmp_path / "a.mp4.states.safetensors").values, states.values)
    retake.write_video(tmp_path / "a.mp4", retake.Video(frames=GREY, fps=8.0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
