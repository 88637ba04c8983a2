"""Prices are of held-out scenes of the world that the bundled models know; nothing is fitted on those."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from bench.quality import export_trajectories, take_comparison
from bench.quality.scene_parts import is_seen, require_bundled_world, require_held_out, require_not_held_out
from engine.demo.layout import write_dataset
from engine.demo.scenes import DEFAULT_WORLD, PLAIN, WIDE, WORLDS, all_kinds, make_scene
from engine.demo.scenes.base import HELD_OUT_SEED0
from engine.demo.scenes.seeds import CHECK, HELD_OUT, SETS, TRAINING_PARTS, TUNING, part_of, parts_of
from engine.demo.showcase import SHOWCASES
from engine.errors import ConfigError
from engine.settings.config import BUNDLED


def test_the_parts_of_scenes_by_name() -> None:
    assert [part_of(f"two-cups-{part.first}") for part in (CHECK, TUNING, HELD_OUT)] == [
        "check",
        "tuning",
        "held-out",
    ]
    assert part_of("two-cups-999999") == part_of("two-balls-17") == "training"
    assert part_of(f"two-balls-{TUNING.first}") == part_of("two-cups-1000000") == "unused"
    seeds = [HELD_OUT_SEED0 - 1, TUNING.first, TUNING.first + 1]
    assert parts_of(seeds, WIDE) == {"training": 1, "tuning": 2}
    assert part_of("ball-ramp") is part_of("my-clip-1000000") is None


@pytest.mark.parametrize(
    "scene", ["two-balls-17", "trimmed-two-cups-705000", f"trimmed-two-cups-{TUNING.first}"]
)
def test_a_figure_of_a_scene_that_was_seen_is_refused(scene: str) -> None:
    assert is_seen(scene)
    with pytest.raises(ConfigError, match="not held out"):
        require_held_out([scene])


def test_what_is_measured_and_what_is_fitted_never_meet() -> None:
    kept, tuning = f"trimmed-two-cups-{HELD_OUT.first}", f"trimmed-two-cups-{TUNING.first}"
    require_held_out([kept, "trimmed-two-balls-1000017", "trimmed-ball-ramp"])
    require_not_held_out([tuning, "trimmed-two-balls-1000017", "trimmed-ball-ramp"])
    with pytest.raises(ConfigError, match=f"--seed {TUNING.first} --count {TUNING.count}"):
        require_not_held_out([tuning, kept])


@pytest.mark.parametrize("world", WORLDS)
def test_the_bundled_models_are_measured_in_the_world_that_they_know(world: str, tmp_path: Path) -> None:
    scenes = [make_scene(HELD_OUT.first, all_kinds(world)).name, "ball-ramp"]
    if world == DEFAULT_WORLD:
        require_bundled_world(scenes)
    else:
        with pytest.raises(ConfigError, match=f"the bundled models know '{DEFAULT_WORLD}'"):
            require_bundled_world(scenes)


def test_prices_of_the_bundled_generator_ask_for_the_scenes(tmp_path: Path) -> None:
    scene = make_scene(7, all_kinds())
    write_dataset(tmp_path, [scene], views=("perspective-center",))
    given = argparse.Namespace(dataset=tmp_path, shard="1/1", generator=BUNDLED)
    with pytest.raises(ConfigError, match=f"{scene.name} is a training scene"):
        take_comparison._scenarios(given, 8.0)
    given.generator = "another"
    assert len(take_comparison._scenarios(given, 8.0)) == 1


def test_calibration_is_on_training_scenes_and_its_check_on_none_of_any_set() -> None:
    calibrated, checked = (
        {export_trajectories.scene_of(index, 60, held_out=held_out).seed for index in range(60)}
        for held_out in (False, True)
    )
    assert any(calibrated <= set(part.seeds) for part in TRAINING_PARTS.values())
    shown = {seed for six in SHOWCASES.values() for seed in six.values()}
    assert min(checked) >= HELD_OUT_SEED0
    assert not checked & (shown | {seed for part in SETS.values() for seed in part.seeds})


def test_few_scenes_of_a_calibration_are_of_kinds_as_different_as_can_be() -> None:
    scenes = [export_trajectories.scene_of(index, 5, held_out=False) for index in range(5)]
    assert len({scene.category for scene in scenes}) >= 4
    kinds = all_kinds()
    every = {export_trajectories.scene_of(i, len(kinds), held_out=False).kind.name for i in range(len(kinds))}
    assert every == {kind.name for kind in kinds}


def test_worlds_have_scenes_of_other_names() -> None:
    assert {kind.name for kind in all_kinds(PLAIN)}.isdisjoint(kind.name for kind in all_kinds(WIDE))
