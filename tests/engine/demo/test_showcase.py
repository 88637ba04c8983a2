"""Scenes by seed as a dataset, and the scenes of the demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.datasets.physics_iq import kind_of, open_dataset, read_descriptions
from engine.demo.scenes import DEFAULT_WORLD, PLAIN, WIDE, WORLDS, all_kinds, choose_kinds, make_scene
from engine.demo.scenes.base import HELD_OUT_SEED0
from engine.demo.scenes.seeds import SETS
from engine.demo.showcase import SHOWCASES, SizedScene, write_scenes, write_showcase
from engine.errors import ConfigError, DatasetError


@pytest.mark.parametrize("world", WORLDS)
def test_they_cover_all_categories_and_are_held_out(world: str) -> None:
    shown = SHOWCASES[world]
    chosen = choose_kinds(list(shown), world)
    assert len(shown) == {PLAIN: 6, WIDE: 10}[world]
    assert {kind.category for kind in chosen} == {kind.category for kind in all_kinds(world)}
    assert min(shown.values()) > HELD_OUT_SEED0 + 100_000  # `--measure` starts at HELD_OUT_SEED0
    assert not any(seed in part.seeds for part in SETS.values() for seed in shown.values())


def test_the_demo_shows_the_paper_s_own_scene() -> None:
    assert "rotating-stick-blocks" in SHOWCASES[PLAIN]


def test_sized_scene() -> None:
    scene = make_scene(5, choose_kinds(["two-balls"], PLAIN))
    sized = SizedScene(scene, 64)
    assert sized.render(1, "center").shape[1:] == (64, 64, 3)
    assert (sized.name, sized.category, sized.brief) == (scene.name, scene.category, scene.brief)
    assert sized.truth == scene.truth


def test_write_scenes(tmp_path: Path) -> None:
    counted: list[tuple[int, int]] = []
    write_scenes(
        tmp_path,
        seeds=range(3, 5),
        size_px=64,
        views=["left", "right"],
        kinds=["two-balls"],
        world=PLAIN,
        progress=lambda done, total: counted.append((done, total)),
    )
    dataset = open_dataset(tmp_path)
    scenarios = dataset.scenarios(8.0)
    assert [s.id for s in scenarios] == [
        "0001_perspective-left",
        "0002_perspective-right",
        "0003_perspective-left",
        "0004_perspective-right",
    ]
    for scenario in scenarios:
        dataset.check(scenario)
        assert (scenario.prefix.width, scenario.prefix.height) == (64, 64)
    assert counted[-1] == (8, 8)


def test_wrong_wishes(tmp_path: Path) -> None:
    good = {"seeds": range(1), "size_px": 64, "views": ["center"], "kinds": ["two-balls"], "world": PLAIN}
    wrong: list[tuple[dict[str, object], str]] = [
        ({"views": ["middle"]}, "'middle' is not a view"),
        ({"kinds": ["two-bals"]}, "nearest: two-balls"),
        ({"size_px": 65}, "odd"),
    ]
    for change, message in wrong:
        with pytest.raises(ConfigError, match=message):
            write_scenes(tmp_path, **(good | change))  # type: ignore[arg-type]
    with pytest.raises(DatasetError):
        write_scenes(tmp_path, seeds=[], size_px=64, views=["center"], kinds=[])
    assert not list(tmp_path.iterdir())


def test_write_showcase(tmp_path: Path) -> None:
    write_showcase(tmp_path)
    shown = open_dataset(tmp_path).scenarios(8.0)
    kinds = [kind_of(row.scene) for row in read_descriptions(tmp_path)]
    assert len(shown) == 10 and set(kinds) == set(SHOWCASES[DEFAULT_WORLD])
