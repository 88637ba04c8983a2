"""Run folders of any number of scenarios, made as a run makes them: its store, trace, watch and files.

Only what a model would do is left out: takes are hard links to a few small clips, replies are drawn texts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.loop import boundary
from engine.loop.prompting import compile_prompt
from engine.runs.folder import VIDEOS
from engine.runs.manifest import MANIFEST
from engine.runs.store import RunStore
from engine.runs.trace import HostRecorder
from engine.runs.trace_file import end_of_trace_s, kept_trace
from engine.types import (
    Attempt,
    Clip,
    Critique,
    Fault,
    Finding,
    Frames,
    Outcome,
    PhysicsPlan,
    PlanEvent,
    PlanMotion,
    PlanObject,
    PlanReply,
    PlanRest,
    Prompt,
    Scenario,
    Verdict,
)
from engine.video.files import probe, write_mp4
from kernels.files import file_digest

TAKES = 5
STEPS = {"generate": 20, "encode": 1, "critique": 20}
"""Spans of a take by lane."""
CATEGORIES = ("Solid Mechanics", "Fluid Dynamics", "Optics", "Thermodynamics", "Magnetism")
FPS = 8.0
SIDE_PX, TAKE_FRAMES, PREFIX_FRAMES = 128, 40, 24  # as the bundled models have them


def make_run(folder: Path, num_scenarios: int) -> dict[str, float]:
    """A finished run in `folder` / "run"; the seconds that noting opened files and keeping the trace took."""
    run, seconds = folder / "run", {"opened_s": 0.0, "trace_s": 0.0}
    run.mkdir(parents=True)
    clips = _clips(folder / "clips")
    scenarios = _scenarios(folder / "dataset", clips[-1], num_scenarios)
    digest = file_digest(clips[-1])
    facts = {"seed": 7, "prefixes": {scenario.id: digest for scenario in scenarios}}
    (run / MANIFEST).write_text(json.dumps(facts), encoding="utf-8")
    recorder = HostRecorder(origin_s=end_of_trace_s(run))
    with (
        RunStore.create(run, scenarios) as store,
        boundary.watch(folder / "dataset", own=run) as watch,
        kept_trace(run, recorder) as note,
    ):
        for number, scenario in enumerate(scenarios):
            scenario.prefix.path.open("rb").close()
            _keep(store, recorder, scenario, number, clips)
            began_s = time.perf_counter()
            store.opened(watch.new_paths())
            noted_s = time.perf_counter()
            note()
            seconds["opened_s"] += noted_s - began_s
            seconds["trace_s"] += time.perf_counter() - noted_s
        assert len(store.outcomes()) == num_scenarios  # what a run hands to whoever called it
    return seconds


def make_starts(folder: Path, num_scenarios: int) -> list[Path]:
    """Clips of 720p and 5 s, all of one content under their own names."""
    return _linked(
        folder, _clip(folder / "one.mp4", 120, 0.7, width=1280, height=720, fps=24.0), num_scenarios
    )


def _keep(
    store: RunStore, recorder: HostRecorder, scenario: Scenario, number: int, clips: Sequence[Path]
) -> None:
    """What a run stores of one scenario."""
    store.plan(scenario.id, PlanReply(plan=_plan("medium"), raw="{}" * 200, num_tokens=160, seconds=0.9))
    attempts = []
    for index in range(TAKES):
        for lane, steps in STEPS.items():
            for _ in range(steps):
                with recorder.span(lane, scenario.id, index, lane):
                    pass
        path = Path(VIDEOS) / scenario.id / f"attempt-{index}.mp4"
        (store.folder / path).parent.mkdir(exist_ok=True)
        os.link(clips[index], store.folder / path)
        attempts.append(_attempt(scenario, path, index, 20.0 + 12 * index + number % 17))
        store.attempt(scenario.id, attempts[-1])
    chosen = 4 - number % 2
    store.outcome(
        Outcome(scenario_id=scenario.id, attempts=tuple(attempts), chosen=chosen, stopped="loops spent")
    )


def _attempt(scenario: Scenario, path: Path, index: int, score: float) -> Attempt:
    plan = None if index == 0 else _plan(("slow", "medium", "fast")[index % 3])
    text = scenario.text if plan is None else compile_prompt(scenario.text, plan)
    lines = tuple(f"The red ball is {index + line} dm from the tall block and rolls on." for line in range(3))
    findings = (
        Finding(t=1.2, object="red ball", issue="slows down before it touches the block"),
        Finding(t=2.6, object="block", issue="slides through the edge of the table instead of tipping over"),
    )
    critique = Critique(
        verdict=Verdict.REVISE,
        score=score,
        seen=lines,
        expected=lines,
        findings=findings,
        fault=Fault.MODEL,
        revised=_plan("fast"),
        raw=json.dumps({"score": score, "seen": lines, "expected": lines}) * 2,
        num_tokens=203,
        seconds=1.07,
    )
    return Attempt(
        index=index,
        prompt=Prompt(text=text, negative="blurry, morphing", seed=7, revision=index, plan=plan),
        video_path=path,
        critique=critique,
        round=index,
        selector_scores={"critic_score": score},
        timings={"generate": 6.2 + index / 10, "encode": 0.11, "critique": 1.07},
    )


def _plan(speed: str) -> PhysicsPlan:
    return PhysicsPlan(
        objects=(PlanObject(name="ball", trait="red"), PlanObject(name="block", trait="tall wooden")),
        motion=(PlanMotion(object="red ball", direction="right", speed=speed),),
        events=(PlanEvent(t=1.5, what="the red ball hits the block"), PlanEvent(t=2.1, what="it tips over")),
        rest=(PlanRest(object="block", t=3.0), PlanRest(object="red ball", t=None)),
        still=("table",),
    )


def _scenarios(dataset: Path, prefix: Path, num_scenarios: int) -> list[Scenario]:
    clip = probe(prefix)
    return [
        Scenario(
            id=path.stem,
            text="A red ball rolls on a table towards a tall wooden block. Static shot, no camera movement.",
            prefix=Clip(
                path=path, fps=clip.fps, num_frames=clip.num_frames, width=clip.width, height=clip.height
            ),
            category=CATEGORIES[number % len(CATEGORIES)],
            output_name=f"{path.stem}_out.mp4",
        )
        for number, path in enumerate(_linked(dataset, prefix, num_scenarios))
    ]


def _linked(folder: Path, clip: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05d}_perspective-center.mp4" for number in range(count)]
    for path in paths:
        os.link(clip, path)
    return paths


def _clips(folder: Path) -> list[Path]:
    """One for each take, and the prefix."""
    takes = [_clip(folder / f"take-{index}.mp4", TAKE_FRAMES, 0.6 + index / 10) for index in range(TAKES)]
    return [*takes, _clip(folder / "prefix.mp4", PREFIX_FRAMES, 1.0)]


def _clip(
    path: Path,
    num_frames: int,
    speed: float,
    *,
    width: int = SIDE_PX,
    height: int = SIDE_PX,
    fps: float = FPS,
) -> Path:
    """A square that moves to the right on a shaded ground."""
    ground = np.linspace(60, 180, width, dtype=np.uint8)
    frames: Frames = np.broadcast_to(ground[None, None, :, None], (num_frames, height, width, 3)).copy()
    side = height // 5
    for index, frame in enumerate(frames):
        left = int(speed * index * width / num_frames / 2)
        frame[2 * side : 3 * side, left : left + side] = (200, 40, 30)
    write_mp4(path, frames, fps)
    return path
