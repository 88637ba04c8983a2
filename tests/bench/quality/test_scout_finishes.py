"""Other finishes beside the take of the same noise: differences and orders by hand."""

from __future__ import annotations

import pytest

from bench.quality.budget_arms import Scene
from bench.quality.candidate_pool import Key
from bench.quality.scout_finishes import finishes


def scene(name: str, kept_gain: float) -> Scene:
    """Takes that are the worse the better their look; kept ones follow their look, at another height."""
    values = {}
    for sample in range(4):
        values[Key(0, sample)] = 50.0 - sample
        values[Key(0, sample, 2, True)] = 30.0 + sample
        values[Key(0, sample, 2, True, 25)] = 48.5 + kept_gain + sample - 1.5
    values[Key(0, 0, 2, True, 0, 2)] = 47.0
    looks = tuple(key for key in values if key.is_look)
    return Scene(
        name=name, category="Optics", kind="ball", num_prompts=1, values=values, looks=looks,
        scores=lambda keys: [{} for _ in keys],
    )  # fmt: skip


def test_each_finish_is_set_beside_the_take_of_its_noise() -> None:
    kept, again = finishes([scene("ball-1", 2.0), scene("ball-2", 4.0)])[::-1]
    assert (kept["steps"], kept["form"], kept["kept"], kept["again"]) == (2, "whole", 0.25, 0)
    assert kept["num_takes"] == 8 and kept["plain"]["mean"] == 48.5
    assert kept["minus_plain"]["mean"] == pytest.approx(3.0)
    assert kept["minus_plain"]["ci95"] == pytest.approx([2.0, 4.0])
    assert kept["of_best_look"]["mean"] == pytest.approx(3.0 + 3.0), (
        "of the last, whose plain take is the worst"
    )
    assert kept["follows"]["plain"]["mean"] == pytest.approx(-1.0)
    assert kept["follows"]["finish"]["mean"] == pytest.approx(1.0) and kept["follows"]["finish"]["n"] == 2
    assert (again["kept"], again["again"], again["num_takes"]) == (0.0, 2, 2)
    assert again["minus_plain"]["mean"] == -3.0
    assert again["follows"]["plain"] == {"mean": None, "ci95": None, "n": 0}, "one take has no order"


def test_scenes_without_another_finish_have_no_rows() -> None:
    only = scene("ball-1", 0.0)
    plain = {key: value for key, value in only.values.items() if not (key.kept or key.again)}
    assert finishes([Scene(name="ball-1", category="Optics", kind="ball", num_prompts=1, values=plain,
                           looks=only.looks, scores=only.scores)]) == []  # fmt: skip
