"""A small run folder for the report's tests: real clips, real store, replies as a VLM writes them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from engine.loop.prompting import compile_prompt
from engine.runs.store import RunStore
from engine.runs.trace import Span
from engine.runs.trace_file import write_trace
from engine.types import (
    Attempt,
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

HOSTILE = '</p><script>document.title = "owned"</script><img src=x onerror="document.title=1">'
SCENES = (
    ("0001_perspective-left", "Solid Mechanics", "A red ball rolls on a table towards a wooden block."),
    ("0002_perspective-center", "Fluid Dynamics", "A glass is filled with blue water from a jug."),
    ("0003_perspective-right", "Optics", "A lamp is moved past a tall cylinder."),
    ("0004_perspective-left", "Thermodynamics", "An ice cube lies on a warm plate."),
    ("0005_perspective-center", "Magnetism", "A steel ball lies near a magnet."),
    ("0006_perspective-right", "Solid Mechanics", "Two balls roll towards each other."),
)
# Score of each take by scene, the critic's and the scorer's; the fifth fails, the sixth is unfinished.
CRITIC = ((38, 64, 71, 88), (41, 90), (30, 44, None, 42), (66, 93), (20,), (35, 52))
TRUE = ((31.2, 52.8, 50.1, 74.9), (44.0, 78.3), (28.4, 47.2, 41.3, 39.8), (58.1, 80.6))
CHOSEN = (3, 1, 1, 1)
STOPPED = ("accepted", "accepted", "no improvement", "accepted")


def draw_clip(num_frames: int, *, start: float, speed: float, hue: int) -> Frames:
    """A ball that rolls towards a block on a table, uint8 RGB [T, 128, 128, 3]."""
    frames = []
    colour = cv2.cvtColor(np.uint8([[[hue, 190, 215]]]), cv2.COLOR_HSV2RGB)[0, 0].tolist()
    wall = np.linspace(236, 205, 128, dtype=np.float32)[:, None, None]
    background = np.broadcast_to(wall * np.float32([1.0, 0.985, 0.95]), (128, 128, 3)).astype(np.uint8)
    for index in range(num_frames):
        picture = background.copy()
        picture[92:] = (168, 142, 112)
        x = min(start + speed * index / 8, 78.0)
        block = 92 + max(0.0, (start + speed * index / 8 - 78.0)) * 0.3
        corner = (round(min(block, 104) * 16), 68 * 16)
        cv2.rectangle(picture, corner, (corner[0] + 14 * 16, 92 * 16), (124, 92, 60), -1, cv2.LINE_AA, 4)
        cv2.ellipse(picture, (round(x), 93), (13, 3), 0, 0, 360, (120, 100, 80), -1, cv2.LINE_AA)
        cv2.circle(picture, (round(x * 16), 80 * 16), 12 * 16, colour, -1, cv2.LINE_AA, 4)
        cv2.circle(picture, (round((x - 4) * 16), 76 * 16), 3 * 16, (250, 250, 245), -1, cv2.LINE_AA, 4)
        frames.append(picture)
    return np.stack(frames)


def make_plan(*, direction: str = "right", speed: str = "medium", at: float = 1.5) -> PhysicsPlan:
    return PhysicsPlan(
        objects=(PlanObject(name="ball", trait="red"), PlanObject(name="block", trait="tall wooden")),
        motion=(PlanMotion(object="red ball", direction=direction, speed=speed),),
        events=(
            PlanEvent(t=at, what="the red ball hits the block"),
            PlanEvent(t=at + 0.6, what="it tips over"),
        ),
        rest=(PlanRest(object="block", t=3.0), PlanRest(object="red ball", t=None)),
        still=("table",),
    )


def make_critique(score: float | None, *, accept: bool = False, raw: str = "{}") -> Critique:
    if score is None:
        return Critique(
            verdict=Verdict.UNREADABLE,
            score=None,
            seen=(),
            expected=(),
            findings=(),
            fault=Fault.NONE,
            revised=None,
            raw=raw,
            num_tokens=512,
            seconds=2.41,
            problem="plan.<colour>: Extra inputs are not permitted",
        )
    findings = (
        Finding(t=1.2, object="red ball", issue="slows down before it touches the block"),
        Finding(t=2.6, object="block", issue="slides through the edge of the table instead of tipping over"),
    )
    return Critique(
        verdict=Verdict.ACCEPT if accept else Verdict.REVISE,
        score=score,
        seen=("The red ball rolls to the right.", "The block moves a little and stays upright."),
        expected=("The ball keeps its speed until it hits.", "The block tips over and lies still by 3 s."),
        findings=() if accept else findings[: 1 + (score < 50)],
        fault=Fault.NONE if accept else Fault.MISSING_CLUES if score < 60 else Fault.MODEL,
        revised=None if accept else make_plan(speed="fast"),
        raw=raw,
        num_tokens=203,
        seconds=1.07,
    )


def make_attempt(run: Path, scenario: Scenario, index: int, score: float | None, *, hue: int) -> Attempt:
    """Writes the clip too. The plans differ from take to take, as a loop's do."""
    path = Path("videos") / scenario.id / f"attempt-{index}.mp4"
    write_mp4(run / path, draw_clip(40, start=52, speed=(8, 14, 19, 24, 27)[index], hue=hue), 8)
    plan = None if index == 0 else make_plan(speed=("", "slow", "medium", "fast")[index], at=2.5 - index / 2)
    text = scenario.text if plan is None else compile_prompt(scenario.text, plan)
    raw = f"I cannot answer in JSON. {HOSTILE}" if score is None else json.dumps({"score": score})
    return Attempt(
        index=index,
        prompt=Prompt(text=text, negative="blurry", seed=7, revision=index, plan=plan),
        video_path=path,
        critique=make_critique(score, accept=score is not None and score >= 85, raw=raw),
        round=index,
        selector_scores={"critic_score": score or 0.0, "consensus": 0.4 + 0.1 * index},
        timings={"generate": 6.2 + index / 10, "encode": 0.11, "critique": 1.07},
    )


def make_scenarios(folder: Path, names: tuple[tuple[str, str, str], ...] = SCENES) -> tuple[Scenario, ...]:
    scenarios = []
    for number, (name, category, text) in enumerate(names):
        clip = folder / "conditioning" / f"{name}.mp4"
        if not clip.exists():
            write_mp4(clip, draw_clip(24, start=20, speed=11, hue=number * 27 % 180), 8)
        scenarios.append(
            Scenario(
                id=name,
                text=f"{text} Static shot with no camera movement.",
                prefix=probe(clip),
                category=category,
                output_name=f"{name}_scene.mp4",
            )
        )
    return tuple(scenarios)


def make_run(folder: Path, *, scored: bool = True) -> Path:
    """RUN with six scenarios: four finished, one failed, one unfinished; all optional files if `scored`."""
    run = folder / "demo-run"
    run.mkdir()
    scenarios = make_scenarios(folder)
    with RunStore.create(run, scenarios) as store:
        for number, (scenario, scores) in enumerate(zip(scenarios, CRITIC, strict=True)):
            store.plan(scenario.id, PlanReply(plan=make_plan(), raw="{}", num_tokens=160, seconds=0.9))
            attempts = tuple(
                make_attempt(run, scenario, index, score, hue=number * 27 % 180)
                for index, score in enumerate(scores)
            )
            for attempt in attempts:
                store.attempt(scenario.id, attempt)
            if number == 4:
                reason = f"GenerationError: latents are not finite at step 3 of 16 <b>{scenario.id}</b>"
                store.outcome(Outcome(scenario_id=scenario.id, attempts=attempts, failure=reason))
            elif number < 4:
                store.outcome(
                    Outcome(
                        scenario_id=scenario.id,
                        attempts=attempts,
                        chosen=CHOSEN[number],
                        stopped=STOPPED[number],
                    )
                )
    if scored:
        _write_extras(run, scenarios)
    return run


def _write_extras(run: Path, scenarios: tuple[Scenario, ...]) -> None:
    cases = [
        {"scenario_id": s.id, "category": s.category, "score": scores[chosen]}
        for s, scores, chosen in zip(scenarios, TRUE, CHOSEN, strict=False)
    ]
    scores = {
        "physics_iq": 62.4,
        "physics_iq_verified": 64.1,
        "sub_scores": {
            "spatial_iou": 0.412,
            "spatiotemporal_iou": 0.287,
            "weighted_spatial_iou": 0.301,
            "mse": 0.008,
        },
        "by_category": {case["category"]: case["score"] for case in cases},
        "cases": cases,
        "attempts": [
            {"scenario_id": s.id, "attempt": index, "score": score}
            for s, takes in zip(scenarios, TRUE, strict=False)
            for index, score in enumerate(takes)
        ],
        "unscored": [{"scenario_id": scenarios[4].id, "reason": "no chosen clip: the scenario failed"}],
    }
    (run / "scores.json").write_text(json.dumps(scores))
    prefixes = {scenario.id: file_digest(scenario.prefix.path) for scenario in scenarios}
    facts = {"generator": {"family": "wan", "digest": "3f9c"}, "seed": 7, "note": HOSTILE}
    (run / "manifest.json").write_text(json.dumps({**facts, "prefixes": prefixes}))
    spans, clock = [], 0.0
    for scenario, takes in zip(scenarios, CRITIC, strict=True):
        for index in range(len(takes)):
            for lane, start, length in (("generate", 0, 6.2), ("encode", 6.2, 0.3), ("critique", 6.2, 2.1)):
                begin = clock + start
                spans.append(
                    Span(
                        lane=lane,
                        scenario_id=scenario.id,
                        attempt=index,
                        name=lane,
                        start_s=begin,
                        end_s=begin + length,
                    )
                )
            clock += 6.3
    write_trace(run / "trace.json", spans)
