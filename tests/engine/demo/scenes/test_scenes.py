"""All kinds of scenes together: unique names, the rotation over seeds, pickling by name, nudging."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from engine.demo import scenes
from engine.demo.scenes import all_kinds, choose_kinds, make_scene
from engine.demo.scenes.base import nudged
from engine.errors import ConfigError


@dataclass(frozen=True)
class Throw:
    speed: float
    angle: float


def test_kinds_have_unique_names_and_are_found_by_them() -> None:
    names = [kind.name for kind in all_kinds()]
    assert len(set(names)) == len(names) >= 10
    assert [kind.name for kind in choose_kinds(names[::-1])] == names[::-1]
    assert choose_kinds([]) == all_kinds()


def test_unknown_kind_is_named() -> None:
    with pytest.raises(ConfigError, match="pendulun"):
        choose_kinds(["pendulun"])


def test_consecutive_seeds_take_the_kinds_in_turn() -> None:
    kinds = all_kinds()
    assert [make_scene(7 + i, kinds).kind.name for i in range(len(kinds))] == [
        kinds[(7 + i) % len(kinds)].name for i in range(len(kinds))
    ]


def test_every_kind_survives_pickling() -> None:
    """Workers get scenes by pickle; lambdas of a kind could not travel."""
    kinds = all_kinds()
    for seed in range(len(kinds)):
        scene = make_scene(seed, kinds)
        copied = pickle.loads(pickle.dumps(scene))
        assert copied.kind is scene.kind and (copied.seed, copied.brief) == (scene.seed, scene.brief)


def test_a_scene_is_found_by_its_name_whatever_the_rotation_was() -> None:
    for world in scenes.WORLDS:
        made = make_scene(1_000_017, all_kinds(world))
        found = scenes.named_scene(made.name)
        assert found is not None and found.kind is made.kind and found.params == made.params
    assert scenes.named_scene("pendulum") is scenes.named_scene("my-clip-3") is None


def test_nudged_moves_only_what_is_named() -> None:
    throw = Throw(speed=1.0, angle=0.5)
    other = nudged(throw, np.random.default_rng(0), {"speed": 0.1})
    assert other.angle == 0.5 and 0.0 < abs(other.speed - 1.0) < 0.5
    assert nudged(throw, np.random.default_rng(0), {"speed": 0.0, "angle": 0.0}) == throw
    with pytest.raises(AssertionError, match="heigth"):
        nudged(throw, np.random.default_rng(0), {"heigth": 0.1})


def test_no_scene_copies_its_space() -> None:
    """A copy of a pymunk space has another future: what is wanted twice is simulated twice, from its seed."""
    sources = [path.read_text() for path in Path(scenes.__file__).parent.glob("*.py")]
    assert sum("pymunk.Space()" in source for source in sources) == 1
    assert not any("space.copy(" in source or "copy(space" in source for source in sources)
