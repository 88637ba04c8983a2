"""One take at a time: a clip as a question, a prompt, its take, and what the critic says of both.

Knows models as protocols only, so a generator or critic of the user's own is asked the same way.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from engine.errors import VideoError
from engine.loop.lanes import STEPS_IN_FLIGHT
from engine.protocols import Critic, Fence, Generator, Job
from engine.types import Critique, Frames, PhysicsPlan, PlanReply, Prompt, Scenario, Video, VideoSpec

T = TypeVar("T")

StrPath = str | os.PathLike[str]


def open_scenarios(dataset: StrPath, fps: float = 24.0) -> tuple[Scenario, ...]:
    """Every question of a dataset: a Physics-IQ tree, or a folder of clips with their texts.

    fps: of the prefix clips to be read, where the tree has several, as `generator.spec.fps` says. Clips of
    your own may have any rate.

    Opens prefixes only, never a reference clip. Raises DatasetError for a folder that is none or lacks texts,
    VideoError for the first clip that cannot be used.
    """
    from engine.build.opened_dataset import open_dataset

    opened = open_dataset(Path(dataset))
    found = tuple(opened.scenarios(fps))
    for scenario in found:
        opened.check(scenario)
    return found


def scenario(clip: StrPath, text: str) -> Scenario:
    """The question that one clip asks: its last 3 s are the prefix, `text` says what happens.

    Raises VideoError for a clip that cannot be read or is shorter than 3 s.
    """
    from engine.datasets.folder import ClipFolder

    path = Path(clip)
    folder = ClipFolder(root=path.parent, texts={path.name: text})
    (made,) = folder.scenarios(fps=24.0)  # that of the clip is read; this one is for unreadable ones
    folder.check(made)
    return made


def read_prefix(scenario: Scenario, spec: VideoSpec) -> Frames:
    """What a generator continues: uint8 RGB [T, H, W, 3], the last `spec.prefix_frames` frames at `spec.fps`.

    The last of them is the last of the clip. Raises VideoError for a clip that is too short or damaged.
    """
    from engine.video.prefix import read_prefix as read

    return read(scenario.prefix, spec)


def prompt(
    scenario: Scenario, *, plan: PhysicsPlan | None = None, seed: int = 0, negative: str = ""
) -> Prompt:
    """What a generator is asked: the scenario's own text, or with a plan the text that is made of both.

    negative: what must not be seen; `generator.negative_prompt` is what the model folder recommends. Equal
    prompts give equal takes on one machine.
    """
    from engine.loop.prompting import compile_prompt

    if plan is None:
        return Prompt(text=scenario.text, negative=negative, seed=seed, revision=0)
    text = compile_prompt(scenario.text, plan)
    return Prompt(text=text, negative=negative, seed=seed, revision=1, plan=plan)


def plan(critic: Critic, scenario: Scenario) -> PlanReply:
    """What the critic expects of the next 5 s, from the prefix alone; `plan` is None where it is unreadable.

    Raises VideoError when the prefix cannot be read.
    """
    return finish(critic.plan(scenario))


def take(generator: Generator, scenario: Scenario, prompt: Prompt) -> Video:
    """The continuation of the scenario's prefix: uint8 RGB [T, H, W, 3] at `generator.spec.fps`.

    Raises VideoError when the prefix cannot be read, NotFinite when the model gave no numbers.
    """
    return finish(generator.start(scenario, prompt))


def critique(
    critic: Critic, scenario: Scenario, prompt: Prompt, video: Video, plan: PhysicsPlan | None = None
) -> Critique:
    """What the critic says of a take: verdict, score 0 to 100, findings with their second, a revised plan.

    plan: the one to be corrected; default: the one of the prompt. An unreadable reply is the verdict
    UNREADABLE with `score` None, never an error. Raises VideoError when the prefix cannot be read.
    """
    return finish(critic.start(scenario, prompt, video, prompt.plan if plan is None else plan))


def write_video(path: StrPath, video: Video) -> None:
    """As H.264 in mp4, so well that the scorer sees no motion in its noise; a file that exists is replaced.
    Its hidden states, where the generator kept any, go into a file of that name and `.states.safetensors`.

    Raises VideoError for frames that are not uint8 [T, H, W, 3] of even height and width.
    """
    from engine.runs.states import keep_states
    from engine.video.files import write_mp4

    frames = video.frames
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        raise VideoError(
            f"the frames are {frames.dtype} {frames.shape}", fix="give uint8 RGB [T, H, W, 3], T at least 1"
        )
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise VideoError(f"frames of {frames.shape[2]}x{frames.shape[1]} pixels", fix="give even sizes")
    write_mp4(Path(path), frames, video.fps)
    keep_states(Path(path).parent, Path(Path(path).name), video.states)


def finish(job: Job[T]) -> T:
    """Launch every step of a job, wait for all of them, and give its result; raises what the job raises.

    As the scheduler does, the next step is enqueued while the one before it runs.
    """
    fences: deque[Fence] = deque()
    while job.steps_left:
        fences.append(job.launch())
        if len(fences) == STEPS_IN_FLIGHT:
            fences.popleft().wait()
    for fence in fences:
        fence.wait()
    return job.result()


@dataclass(slots=True)
class OneStep(Generic[T]):
    """A job that does all of its work in one call: the shortest way to a generator or critic of your own.

    `work` is called once, by `launch`; what it raises is the error of its scenario.
    """

    work: Callable[[], T]
    steps_left: int = 1
    _value: T | None = None

    @property
    def stage(self) -> str:
        return ""

    def launch(self) -> Fence:
        from engine.machine.streams import HostFence

        self._value = self.work()
        self.steps_left = 0
        return HostFence()

    def result(self) -> T:
        assert self._value is not None, "launch comes first"
        return self._value
