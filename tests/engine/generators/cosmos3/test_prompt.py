"""Prompts as NVIDIA writes them: keys, frames of the timeline without a gap, metadata, tokens."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from tiny_vlm import tiny_tokenizer

from engine.errors import ModelError
from engine.generators.cosmos3.prompt import negative_text, structured, token_ids, with_metadata
from engine.generators.cosmos3.settings import Cosmos3Defaults
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest, Prompt, VideoSpec

SPEC = VideoSpec(width=1280, height=720, fps=24.0, prefix_frames=72, num_frames=120)
PLAN = PhysicsPlan(
    objects=(PlanObject(name="ball", trait="brown"), PlanObject(name="pillow", trait="")),
    motion=(PlanMotion(object="ball", direction="down", speed="fast"),),
    events=(PlanEvent(t=0.5, what="the ball hits the pillow"), PlanEvent(t=9.0, what="too late")),
    rest=(PlanRest(object="ball", t=2.0), PlanRest(object="cord", t=None)),
    still=("table",),
)
CHANGES: list[dict[str, Any]] = [
    *({name: ()} for name in ("objects", "motion", "events", "rest", "still")),
    {"camera": "panning"},
]
BRIEF = "Two grabbers hold a ball."


def document(plan: PhysicsPlan | None) -> dict[str, object]:
    prompt = Prompt(text="what the loop wrote", negative="", seed=0, revision=0, plan=plan)
    made: dict[str, object] = json.loads(structured(BRIEF, prompt, SPEC, prefix_frames=73))
    return made


def test_a_plan_becomes_the_json_of_the_published_prompts() -> None:
    made = document(PLAN)
    assert list(made) == [
        "task", "camera", "goal", "conditional_video", "applicable_physics_laws", "predicted_timeline",
    ]  # fmt: skip
    assert made["task"] == (
        "We are generating a 24fps video with 193 frames based on 73 conditional frames in 720p resolution."
    )
    shown = str(made["conditional_video"])
    assert BRIEF in str(made["goal"]) and "(3 seconds, 73 source frames at 24fps)" in shown
    assert "brown ball, pillow" in shown and "table" in shown


def test_the_timeline_covers_every_frame_of_the_take_once() -> None:
    timeline = document(PLAN)["predicted_timeline"]
    assert isinstance(timeline, list)
    spans = [tuple(map(int, re.findall(r"\d+", entry["frames"]))) for entry in timeline]
    assert spans == [(74, 85), (86, 121), (122, 192), (193, 193)]
    assert [entry["text"] for entry in timeline] == [
        "The ball moves down at fast speed.",
        "The ball hits the pillow.",
        "The ball is at rest.",
        "Too late.",
    ]


def test_without_a_plan_only_what_is_known_is_said() -> None:
    made = document(None)
    assert list(made) == ["task", "goal"] and "what the loop wrote" in str(made["goal"])


def test_equal_plans_give_equal_text_and_each_field_changes_it() -> None:
    texts = {json.dumps(document(PLAN))} | {
        json.dumps(document(replace(PLAN, **change))) for change in CHANGES
    }
    assert len(texts) == 7 and document(PLAN) == document(PLAN)


def test_metadata_stands_behind_the_text() -> None:
    assert with_metadata("A ball falls.", 193, SPEC, inverse=False) == (
        "A ball falls. The video is 8.0 seconds long and is of 24 FPS. This video is of 720x1280 resolution."
    )
    assert with_metadata("", 193, SPEC, inverse=True).startswith("The video is not 8.0 seconds long")
    texts = {
        negative_text("bad", 193, SPEC, Cosmos3Defaults(negative_metadata=mode))
        for mode in ("same", "inverse", "none")
    }
    assert len(texts) == 3 and "bad" in texts


def test_a_text_that_is_too_long_is_refused_and_a_system_prompt_is_more_tokens() -> None:
    tokenizer = tiny_tokenizer()
    short = token_ids(tokenizer, "a ball", system=False, most=500)
    assert len(token_ids(tokenizer, "a ball", system=True, most=500)) > len(short)
    marks = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|vision_start|>")]
    assert short[-2:] == marks
    with pytest.raises(ModelError, match=f"{len(short)} tokens; at most 5"):
        token_ids(tokenizer, "a ball", system=False, most=5)
