"""Prompt variants for training: what each leaves out or adds, which fault it names, and reproducibility."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

import numpy as np

from engine.demo.training.prompts import (
    ABSTRACT_SENTENCES,
    CLUTTER_SENTENCES,
    abstract,
    cluttered,
    complete,
    partial,
    poor_prompt,
)
from engine.loop.prompting import CAMERA_SENTENCE, compile_prompt
from engine.types import Fault, PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest

SCENE = "A ball rolls towards a block."
BRIEF = f"{SCENE} {CAMERA_SENTENCE}"


def plan_of(direction: str) -> PhysicsPlan:
    return PhysicsPlan(
        objects=(PlanObject(name="ball", trait="red"),),
        motion=(PlanMotion(object="ball", direction=direction, speed="fast"),),
        events=(PlanEvent(t=1.0, what="the ball hits the block"),),
        rest=(PlanRest(object="ball", t=2.0),),
        still=("table",),
    )


TRUE, WRONG = plan_of("right"), plan_of("left")
FACTS = compile_prompt("", TRUE).removesuffix(CAMERA_SENTENCE).strip(" .").split(". ")


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_complete_is_what_the_loop_compiles() -> None:
    assert complete(BRIEF, TRUE) == compile_prompt(BRIEF, TRUE)


def test_partial_keeps_each_fact_about_half_of_the_time() -> None:
    assert len(FACTS) == len(fields(PhysicsPlan)) - 1 == 5  # the camera is always told
    kept: Counter[str] = Counter()
    for seed in range(200):
        text = partial(BRIEF, TRUE, rng(seed))
        assert text.startswith(SCENE) and text.endswith(CAMERA_SENTENCE)
        kept.update(fact for fact in FACTS if fact in text)
    assert all(70 < kept[fact] < 130 for fact in FACTS), kept


def test_abstract_tells_three_laws_and_no_fact() -> None:
    text = abstract(BRIEF, rng(0))
    assert text.startswith(SCENE) and text.endswith(CAMERA_SENTENCE)
    assert sum(sentence in text for sentence in ABSTRACT_SENTENCES) == 3
    assert not any(fact in text for fact in FACTS)


def test_cluttered_holds_the_complete_prompt_and_three_more_sentences() -> None:
    text = cluttered(BRIEF, TRUE, rng(0))
    added = [sentence for sentence in CLUTTER_SENTENCES if sentence in text]
    assert complete(BRIEF, TRUE) in text and len(added) == 3
    assert len(text) == len(" ".join([complete(BRIEF, TRUE), *added]))


def test_poor_prompt_names_the_fault_of_its_text() -> None:
    faults: Counter[Fault] = Counter()
    for seed in range(300):
        text, fault = poor_prompt(BRIEF, TRUE, WRONG, rng(seed))
        faults[fault] += 1
        whole = complete(BRIEF, TRUE) in text
        if fault is Fault.MODEL:
            assert text == complete(BRIEF, TRUE)
        elif fault is Fault.WRONG_FACT:
            assert text == complete(BRIEF, WRONG) and not whole
        elif fault is Fault.TOO_COMPLEX:
            assert whole and any(sentence in text for sentence in CLUTTER_SENTENCES)
        elif fault is Fault.TOO_ABSTRACT:
            assert any(sentence in text for sentence in ABSTRACT_SENTENCES)
        else:
            assert fault is Fault.MISSING_CLUES and text.startswith(SCENE) and "left" not in text
    assert set(faults) == set(Fault) - {Fault.NONE}
    assert faults[Fault.MODEL] + faults[Fault.MISSING_CLUES] > 150


def test_same_generator_state_gives_the_same_prompt() -> None:
    for seed in range(20):
        assert poor_prompt(BRIEF, TRUE, WRONG, rng(seed)) == poor_prompt(BRIEF, TRUE, WRONG, rng(seed))
