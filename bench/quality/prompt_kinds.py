"""Prompts that are compared with the brief text: the plan, and controls that hold no fact of the scene.

A gain of the loop counts only above the best control. A control changes the prompt as the plan does: a
sentence about physics at its end, another scene's facts, or as many words that say nothing about motion.
Deterministic; knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.demo.training.prompts import CLUTTER_SENTENCES
from engine.errors import unknown_name
from engine.loop.prompting import CAMERA_SENTENCE, compile_prompt, strip_camera
from engine.types import PhysicsPlan

BRIEF: Final = "brief"
PLAN: Final = "plan"
SUFFIX: Final = "suffix"
OTHER_PLAN: Final = "other_plan"
FILLER: Final = "filler"
CONTROLS: Final = (SUFFIX, OTHER_PLAN, FILLER)
PROMPT_KINDS: Final = (BRIEF, PLAN, *CONTROLS)
SUFFIX_SENTENCE: Final = "Everything obeys physics: gravity, friction and momentum act as in reality."


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A scenario as prompts are made of it; `group` says whose plans speak of the same things."""

    brief: str
    plan: PhysicsPlan
    group: str


def prompt_texts(kind: str, asked: Sequence[Asked]) -> list[str]:
    """One prompt of `kind` for each scenario, in order. ConfigError for an unknown kind.

    Another scene's plan is that of the next one of the same group, in a circle; a group of one has only its
    own, and gets the filler instead: never its own facts.
    """
    if kind not in PROMPT_KINDS:
        raise unknown_name("kind of prompt", kind, PROMPT_KINDS)
    if kind == BRIEF:
        return [entry.brief for entry in asked]
    if kind == PLAN:
        return [compile_prompt(entry.brief, entry.plan) for entry in asked]
    if kind == SUFFIX:
        return [_before_camera(entry.brief, SUFFIX_SENTENCE) for entry in asked]
    if kind == FILLER:
        return [filler(entry) for entry in asked]
    others = [_other(asked, place) for place in range(len(asked))]
    return [
        filler(entry) if other is None else compile_prompt(entry.brief, other.plan)
        for entry, other in zip(asked, others, strict=True)
    ]


def filler(asked: Asked) -> str:
    """The brief with as many words more as its plan's prompt has, about light, surfaces and colours."""
    missing = len(compile_prompt(asked.brief, asked.plan).split()) - len(asked.brief.split())
    words = [word for sentence in CLUTTER_SENTENCES for word in sentence.split()]
    repeated = (words * (missing // len(words) + 1))[: max(missing, 0)]
    return _before_camera(asked.brief, " ".join(repeated))


def _other(asked: Sequence[Asked], place: int) -> Asked | None:
    """The next scenario of the same group with another plan."""
    own = asked[place]
    circle = [*asked[place + 1 :], *asked[:place]]
    return next((entry for entry in circle if entry.group == own.group and entry.plan != own.plan), None)


def _before_camera(brief: str, words: str) -> str:
    camera = [CAMERA_SENTENCE] if CAMERA_SENTENCE in brief else []
    return " ".join(part for part in (strip_camera(brief), words, *camera) if part)
