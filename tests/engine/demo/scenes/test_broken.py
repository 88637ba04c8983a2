"""Broken footage: the prefix is untouched, what is broken shows from its time on, and every way exists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.demo.scenes import WIDE, all_kinds, choose_kinds, make_scene
from engine.demo.scenes.base import FAILURE_TYPES, FPS, SWITCH, Scene
from engine.demo.scenes.broken import (
    OF_PIXELS,
    OF_STATES,
    SENTENCES,
    VIOLATIONS,
    Violation,
    break_scene,
    first_difference,
)

KINDS = all_kinds(WIDE)


def test_names() -> None:
    named = {name for kind in KINDS for name in kind.breaks} | {*OF_STATES, *OF_PIXELS}
    assert named == VIOLATIONS.keys() == SENTENCES.keys()
    assert set(VIOLATIONS.values()) == set(FAILURE_TYPES)


def test_a_violation_shows_from_its_time_on_and_never_in_the_prefix() -> None:
    for seed in range(0, 20, 3):
        scene = make_scene(seed, KINDS)
        true = scene.render(1, "center", 48)
        made = break_scene(scene, true, "center", np.random.default_rng([seed, 1]))
        again = break_scene(scene, true, "center", np.random.default_rng([seed, 1]))
        assert made is not None and again is not None
        frames, violation = made
        assert np.array_equal(frames, again[0]) and violation == again[1]
        assert frames.shape == true.shape and frames.dtype == np.uint8
        start = SWITCH + round(violation.t * FPS)
        assert first_difference(frames, true) == start >= SWITCH
        assert violation.failure == VIOLATIONS[violation.name]


@pytest.mark.parametrize(("kind", "name"), [(kind.name, name) for kind in KINDS for name in kind.breaks])
def test_a_kind_breaks_as_it_says(kind: str, name: str) -> None:
    """In some scene of the kind the simulation goes another way, from the answer on."""
    (chosen,) = choose_kinds([kind], WIDE)
    for seed in range(40):
        scene: Scene = make_scene(seed, [chosen])
        true = chosen.simulate(scene.params)
        broken = chosen.simulate(replace(scene.params, broken=name, broken_s=1.0))
        same = [_equal(a, b) for a, b in zip(true, broken, strict=True)]
        if all(same[:SWITCH]) and not all(same):
            return
    pytest.fail(f"{name} changed no scene of {kind}")


def test_nothing_is_broken_where_nothing_moves() -> None:
    scene = make_scene(0, KINDS)
    still = np.repeat(scene.render(1, "center", 32)[:1], 64, axis=0)
    kind = replace(scene.kind, breaks=(), simulate=lambda p: [scene.kind.simulate(p)[0]] * 64)
    assert break_scene(replace(scene, kind=kind), still, "center", np.random.default_rng(0)) is None


def test_the_caption_names_the_violation_and_its_time() -> None:
    violation = Violation(name="vanishes", failure=VIOLATIONS["vanishes"], t=1.375)
    assert violation.sentence() == "Physics is broken: from 1.5 s a thing vanishes."


def _equal(a: object, b: object) -> bool:
    return repr(a) == repr(b)
