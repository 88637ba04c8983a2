"""The sentence that the generator was trained on, word for word, and the distance between prompts."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.loop.prompting import CAMERA_SENTENCE, compile_prompt, strip_camera, text_distance
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

BRIEF = f"A ball rolls towards a block on a table. {CAMERA_SENTENCE}"
PLAN = PhysicsPlan(
    objects=(
        PlanObject(name="red ball", trait="heavy"),
        PlanObject(name="block", trait="orange"),
        PlanObject(name="candles", trait="two"),
    ),
    motion=(PlanMotion(object="red ball", direction="right", speed="medium"),),
    events=(
        PlanEvent(t=0.6, what="the red ball hits the block"),
        PlanEvent(t=1.8, what="the block falls over"),
    ),
    rest=(PlanRest(object="block", t=2.3), PlanRest(object="red ball", t=None)),
    still=("table", "two candles"),
)
EMPTY = PhysicsPlan(objects=(), motion=(), events=(), rest=(), still=())
TEXTS = st.text(alphabet="ab ", max_size=30)


def test_golden_prompt() -> None:
    """A change here is a change of the bundled models' input: they have to be trained again."""
    assert compile_prompt(BRIEF, PLAN) == (
        "A ball rolls towards a block on a table. "
        "There is a heavy red ball, an orange block and two candles. "
        "The red ball moves right at medium speed. "
        "At 0.5 s the red ball hits the block. At 2.0 s the block falls over. "
        "The block is at rest from 2.5 s. The red ball keeps moving until the end. "
        "The table and two candles stay still. "
        "Static shot with no camera movement."
    )


def test_equal_plans_give_equal_text() -> None:
    again = PhysicsPlan.from_dict(
        {
            "objects": [{"name": o.name, "trait": o.trait} for o in PLAN.objects],
            "motion": [{"object": m.object, "direction": m.direction, "speed": m.speed} for m in PLAN.motion],
            "events": [{"t": e.t, "what": e.what} for e in PLAN.events],
            "rest": [{"object": r.object, "t": r.t} for r in PLAN.rest],
            "still": list(PLAN.still),
            "camera": "static",
        }
    )
    assert again is not PLAN and again == PLAN
    assert compile_prompt(BRIEF, again) == compile_prompt(BRIEF, copy.deepcopy(PLAN))


def test_times_closer_than_the_clock_give_equal_text() -> None:
    def at(t: float) -> str:
        return compile_prompt(BRIEF, replace(EMPTY, events=(PlanEvent(t=t, what="it falls"),)))

    assert at(1.4) == at(1.6) != at(2.0)


def test_camera_is_told_once_and_last() -> None:
    static = compile_prompt(BRIEF, PLAN)
    assert static.count("camera") == 1 and static.endswith(f" {CAMERA_SENTENCE}")
    moving = compile_prompt(BRIEF, replace(PLAN, camera="panning left"))
    assert moving.endswith(" The camera is panning left.") and CAMERA_SENTENCE not in moving
    assert strip_camera(BRIEF) == "A ball rolls towards a block on a table."


def test_empty_plan_adds_nothing_to_the_brief() -> None:
    assert compile_prompt(BRIEF, EMPTY) == BRIEF


def test_one_still_object_stays() -> None:
    assert "The table stays still." in compile_prompt(BRIEF, replace(EMPTY, still=("table",)))


@pytest.mark.parametrize(("name", "trait"), [("", ""), (" ", "")])
def test_object_without_name_and_trait_is_skipped(name: str, trait: str) -> None:
    nothing = PlanObject(name=name, trait=trait)
    assert compile_prompt(BRIEF, replace(EMPTY, objects=(nothing,))) == BRIEF
    assert compile_prompt(BRIEF, replace(PLAN, objects=(nothing, *PLAN.objects))) == compile_prompt(
        BRIEF, PLAN
    )


def test_object_with_only_a_name_or_a_trait_is_told() -> None:
    plan = replace(EMPTY, objects=(PlanObject(name="ball", trait=""), PlanObject(name="", trait="icy thing")))
    assert "There is a ball and an icy thing." in compile_prompt(BRIEF, plan)


@given(TEXTS, TEXTS)
def test_distance_is_a_share_and_zero_for_equal_words(a: str, b: str) -> None:
    assert 0.0 <= text_distance(a, b) <= 1.0
    assert text_distance(a, a) == 0.0
    if a.strip() and not set(a.split()) & set(b.split()):
        assert text_distance(a, b) == 1.0


def test_distance_counts_words_not_letters_or_case() -> None:
    assert text_distance("A ball rolls", "a  BALL, rolls") == 0.0
    assert text_distance("left ball", "right block") == 1.0
    assert text_distance("a b c d", "a b c x") == pytest.approx(0.25)
    # one fact of a whole prompt is well above the share at which the loop calls a prompt unchanged
    changed = replace(PLAN, rest=(PlanRest(object="block", t=3.0), *PLAN.rest[1:]))
    assert 0.005 < text_distance(compile_prompt(BRIEF, PLAN), compile_prompt(BRIEF, changed)) < 0.1
