"""Prompts that are compared with the brief: the plan's facts in one of them alone, and controls as long."""

from __future__ import annotations

import pytest

from bench.quality.prompt_kinds import (
    CONTROLS,
    PROMPT_KINDS,
    SUFFIX_SENTENCE,
    Asked,
    filler,
    prompt_texts,
)
from engine.demo.scenes import WIDE, all_kinds, make_scene
from engine.errors import ConfigError
from engine.loop.prompting import CAMERA_SENTENCE, compile_prompt

KINDS = all_kinds(WIDE)


def asked(*seeds: int) -> list[Asked]:
    scenes = [make_scene(seed, KINDS) for seed in seeds]
    return [Asked(brief=scene.brief, plan=scene.truth, group=scene.kind.name) for scene in scenes]


def test_each_kind_of_prompt_is_what_it_says() -> None:
    entries = asked(4, 4 + len(KINDS), 5)
    assert prompt_texts("brief", entries) == [entry.brief for entry in entries]
    assert prompt_texts("plan", entries) == [compile_prompt(entry.brief, entry.plan) for entry in entries]
    for text, entry in zip(prompt_texts("suffix", entries), entries, strict=True):
        assert text.startswith(entry.brief.removesuffix(CAMERA_SENTENCE)) and text.endswith(CAMERA_SENTENCE)
        assert text.count(SUFFIX_SENTENCE) == 1


def test_another_plan_is_of_the_same_kind_and_never_the_own_one() -> None:
    entries = asked(4, 4 + len(KINDS), 5)
    texts = prompt_texts("other_plan", entries)
    assert texts[0] == compile_prompt(entries[0].brief, entries[1].plan)
    assert texts[1] == compile_prompt(entries[1].brief, entries[0].plan)
    assert texts[2] == filler(entries[2])  # alone in its kind
    assert prompt_texts("other_plan", [entries[0], entries[0]])[0] == filler(entries[0])


def test_filler_is_as_long_as_the_plan_and_says_nothing_of_the_scene() -> None:
    for entry in asked(0, 3, 7):
        text, plan = filler(entry), compile_prompt(entry.brief, entry.plan)
        assert len(text.split()) == len(plan.split()) > len(entry.brief.split())
        added = text.replace(entry.brief.removesuffix(CAMERA_SENTENCE), "")
        assert not any(event.what in added for event in entry.plan.events)
        assert not {"left", "right", "fast", "slow"} & set(added.split())


def test_names() -> None:
    assert set(CONTROLS) < set(PROMPT_KINDS)
    with pytest.raises(ConfigError, match="nearest: suffix"):
        prompt_texts("sufix", asked(1))
