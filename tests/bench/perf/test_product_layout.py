"""The comparison of both layouts on a tiny model, and what the committed measurement claims."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from bench.perf import product_layout
from bench.perf.export_build import Model
from export.spec import RECIPES, Profile
from export.trt.library import is_installed

RESULTS = Path(__file__).resolve().parents[3] / "bench" / "results" / "product_layout.json"
TINY = Model(
    name="tiny",
    num_layers=1,
    num_heads=2,
    ffn_dim=256,
    of_layers=1,
    head_dim=64,
    text_dim=32,
    freq_dim=32,
    num_channels=4,
)
PROFILE = Profile(name="small", sizes={"B": 1, "F": 3, "h": 16, "w": 16, "L": 64})


def test_the_recipe_has_its_own_layout_again() -> None:
    with pytest.raises(ValueError, match="stopped"), product_layout.in_layout("fp8", 1):
        assert RECIPES["fp8"].layout == 1 and not RECIPES["fp8"].merges
        raise ValueError("stopped")
    assert RECIPES["fp8"].layout == 2 and RECIPES["fp8"].merges


def test_every_recipe_that_merges_is_compared() -> None:
    assert {name for name, recipe in RECIPES.items() if recipe.merges} == set(product_layout.EIGHT_BITS)
    assert {recipe.layout for recipe in RECIPES.values()} == set(product_layout.LAYOUTS.values())


@pytest.mark.slow
@pytest.mark.skipif(
    not is_installed("tensorrt-rtx") or importlib.util.find_spec("onnx") is None,
    reason="the packages tensorrt-rtx and onnx are not both installed",
)
def test_one_product_takes_fewer_kernels() -> None:
    (row,) = product_layout.measure(TINY, PROFILE, recipes=("fp8",), capabilities=(120,))
    assert row["products"] == {"each": 10, "one": 7}
    assert row["kernels"]["one"] < row["kernels"]["each"]


def test_the_committed_measurement() -> None:
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = {(row["recipe"], row["capability"]): row for row in document["rows"]}
    assert document["all_checks_hold"] and len(document["checks"]) == 2
    assert set(rows) == {
        (recipe, card) for recipe in product_layout.EIGHT_BITS for card in product_layout.CAPABILITIES
    }
    for (recipe, card), row in rows.items():
        each = 20 if recipe.startswith("fp8") and card == 120 else 13  # that builder merges none of FP8
        assert row["products"] == {"each": each, "one": 13}
        assert row["kernels"]["one"] < row["kernels"]["each"]
