"""The candidates of each scene in every form that a loop could look at: made once, for every arm.

A scout that is finished is the take of its prompt and seed, so looks and whole takes of the same candidates
say what any scout loop would have made of them. Opens no reference. Invariant: what a record names is whole.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter

from bench.files import write_json
from engine.denoise.take import DENOISE, ENCODE, VAE_PASS
from engine.loop.scout_policy import ScoutPolicy
from engine.protocols import Critic, Job, ScoutingGenerator
from engine.runs.states import keep_states
from engine.types import PlanReply, Prompt, Scenario, ScoutForm, Video
from engine.video.differences import disagreement
from engine.video.files import probe, read_frames, write_mp4
from kernels.files import read_json

RECORD: Final = "record.json"
PROMPT: Final = TypeAdapter(Prompt)
STAGES: Final = {ENCODE: "encode_s", DENOISE: "step_s", VAE_PASS: "decode_s"}


class Key(NamedTuple):
    """One clip of a scene: candidate `sample` of its prompt `which`, 0 the brief text and 1 the plan's.

    steps: of a look; 0 is the finished take. kept: of a take that begins where that look ended, for which
    percent of its steps it stands. again: of a take, how often it takes its first steps again where all looks
    of these steps disagree.
    """

    which: int
    sample: int
    steps: int = 0
    whole: bool = False
    kept: int = 0
    again: int = 0

    @property
    def is_look(self) -> bool:
        return self.steps > 0 and self.kept == 0 and self.again == 0

    @property
    def take(self) -> Key:
        """What becomes of it, from the noise."""
        return Key(self.which, self.sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """`seconds` of its stages, of one step or pass each where there are several; of decoding, of them all."""

    path: Path
    prompt: Prompt
    seconds: Mapping[str, float]
    is_scored: bool  # whether the benchmark can: not what was decoded as single pictures, nor small
    critic_score: float | None = None
    critique_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenePool:
    """All clips of a scene. `num_prompts` is 1 where there is no plan to tell."""

    scenario_id: str
    num_prompts: int
    plan_s: float
    clips: Mapping[Key, Clip]


def make_pool(
    scenario: Scenario,
    reply: PlanReply,
    folder: Path,
    *,
    generator: ScoutingGenerator,
    policy: ScoutPolicy,
    forms: Sequence[ScoutForm],
    critic: Critic | None,
    kept: Sequence[float] = (),
    again: Sequence[int] = (),
) -> None:
    """Every candidate of `policy` in all `forms` and finished, below `folder`; takes are judged by `critic`.

    kept: also takes that begin where a whole look ended, for these shares of their steps. again: also takes
    that take their first steps again so often, by the settings of `policy`. Returns at once where the record
    is there.
    """
    if (folder / RECORD).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    prompts = policy.prompts(scenario, reply)
    num_first = policy.num_first(len(prompts))
    asked = {
        Key(*divmod(place, num_first)): policy.candidate(scenario, 0, place, prompts)
        for place in range(num_first * len(prompts))
    }
    entries = []

    def keep(key: Key, prompt: Prompt, start: Callable[[], Job[Video]], *, unlike: bool = False) -> None:
        video, seconds = timed(start())
        path = folder / f"{'-'.join(str(int(part)) for part in key)}.mp4"
        write_mp4(path, video.frames, video.fps)
        keep_states(folder, Path(path.name), video.states)
        judged: dict[str, Any] = {}
        if not key.is_look and critic is not None:
            critique, took = timed(critic.start(scenario, prompt, video, prompt.plan or reply.plan))
            judged = {"critic_score": critique.score, "critique_s": sum(took.values())}
        made = {"key": list(key), "path": path.name, "prompt": asdict(prompt), "seconds": seconds}
        entries.append({**made, "is_scored": not key.is_look or not unlike, **judged})

    for key, prompt in asked.items():
        for form, percent, start in _jobs(generator, scenario, prompt, forms, kept):
            of_form = () if form is None else (form.steps, form.whole, percent)
            unlike = form is not None and (form.stills or form.shrink > 1)
            keep(Key(*key[:2], *of_form), prompt, start, unlike=unlike)
    for form in forms if again else ():
        looks = [
            entry["path"] for entry in entries if Key(*entry["key"])[2:] == (form.steps, form.whole, 0, 0)
        ]
        differ = disagreement(read_frames(probe(folder / path)) for path in looks)
        for times in again:
            restarts = replace(policy.restarts(differ), times=times)
            for key, prompt in asked.items():
                start = partial(generator.finish, scenario, prompt, form, restarts)
                keep(Key(*key[:2], form.steps, form.whole, 0, times), prompt, start)
    record = {"num_prompts": len(prompts), "plan_s": reply.seconds, "clips": entries}
    write_json(folder / RECORD, {"scenario_id": scenario.id, **record})


def _jobs(
    generator: ScoutingGenerator,
    scenario: Scenario,
    prompt: Prompt,
    forms: Sequence[ScoutForm],
    kept: Sequence[float],
) -> Iterator[tuple[ScoutForm | None, int, Callable[[], Job[Video]]]]:
    """Form, percent of the steps that it stands for, and what starts it: looks, then takes."""
    for form in sorted(forms, key=lambda form: form.steps):  # each goes on behind the one before
        yield form, 0, partial(generator.scout, scenario, prompt, form)
    yield None, 0, partial(generator.start, scenario, prompt)
    for form in forms:
        for share in kept if form.whole else ():
            finish = partial(generator.finish, scenario, prompt, replace(form, kept=share))
            yield form, round(100 * share), finish


def timed(job: Job[Any]) -> tuple[Any, dict[str, float]]:
    """The result, and seconds: median of an encode and of a denoise step, the sum of all decode passes."""
    took: dict[str, list[float]] = {}
    while job.steps_left:
        stage, start_s = job.stage, time.perf_counter()
        job.launch().wait()
        took.setdefault(STAGES.get(stage, stage), []).append(time.perf_counter() - start_s)
    seconds = {
        name: sum(values) if name == STAGES[VAE_PASS] else statistics.median(values)
        for name, values in took.items()
    }
    return job.result(), seconds


def read_pool(folder: Path) -> ScenePool:
    """What `make_pool` left in a scene's folder."""
    record = read_json(folder / RECORD)
    clips = {
        Key(*entry["key"]): Clip(
            path=folder / entry["path"],
            prompt=PROMPT.validate_python(entry["prompt"]),
            seconds=entry["seconds"],
            is_scored=entry["is_scored"],
            critic_score=entry.get("critic_score"),
            critique_s=entry.get("critique_s"),
        )
        for entry in record["clips"]
    }
    return ScenePool(
        scenario_id=record["scenario_id"],
        num_prompts=record["num_prompts"],
        plan_s=record["plan_s"],
        clips=clips,
    )
