"""Specs: what is refused, and that the record is complete."""

from __future__ import annotations

import json

import pytest

from export.spec import (
    RECIPES,
    ExportError,
    ExportSpec,
    Profile,
    TensorSpec,
    Tolerance,
    recipe_of,
    require_capability,
    spec_from_record,
)


def spec(**changes: object) -> ExportSpec:
    values: dict[str, object] = {
        "subject": "s",
        "inputs": (TensorSpec(name="x", dims=("B", 3), dtype="fp32"),),
        "outputs": (TensorSpec(name="y", dims=("B", "N"), dtype="fp32"),),
        "profiles": (
            Profile(name="one", sizes={"B": 1, "N": 4}),
            Profile(name="two", sizes={"B": 2, "N": 4}),
        ),
        "tolerance": {"fp16": Tolerance(relative=0.1, cosine=0.9)},
        "weights_digest": "sha256:0",
    }
    return ExportSpec(**{**values, **changes})  # type: ignore[arg-type]


def test_dimensions() -> None:
    assert spec().named_dims == ("B", "N")
    assert spec().varying_dims == ("B",)
    assert spec().outputs[0].shape({"B": 2, "N": 4}) == (2, 4)


def test_record_is_complete() -> None:
    written = json.loads(json.dumps(spec().record()))
    assert spec_from_record(written) == spec()
    with pytest.raises(ExportError, match="weights_digest"):
        spec_from_record({key: value for key, value in written.items() if key != "weights_digest"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profiles": ()}, "no profile"),
        ({"profiles": (Profile(name="a", sizes={"B": 1}),)}, r"\['B', 'N'\]"),
        ({"profiles": (Profile(name="a", sizes={"B": 1, "N": 4, "Q": 1}),)}, "'Q'"),
        ({"profiles": (Profile(name="a", sizes={"B": 0, "N": 4}),)}, "'B': 0"),
        ({"profiles": (Profile(name="a", sizes={"B": 1, "N": 4}),) * 2}, "repeat"),
        ({"outputs": (TensorSpec(name="x", dims=("B", "N"), dtype="fp32"),)}, "repeat"),
        ({"tolerance": {"fp9": Tolerance(relative=0.1, cosine=0.9)}}, "fp9"),
    ],
)
def test_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        spec(**changes)


def test_tensor_refused() -> None:
    with pytest.raises(ExportError, match="float16"):
        TensorSpec(name="x", dims=(1,), dtype="float16")
    with pytest.raises(ExportError, match="at least 1"):
        TensorSpec(name="x", dims=(1, 0), dtype="fp16")


def test_recipe_by_name() -> None:
    with pytest.raises(ExportError, match="nearest: fp8"):
        recipe_of("fp8 ")
    with pytest.raises(ExportError, match="cannot be exported as int8"):
        spec().tolerance_of("int8")
    assert spec().tolerance_of("fp16").relative == 0.1


@pytest.mark.parametrize(
    ("name", "below", "enough"),
    [
        ("fp8", 86, 89),
        ("fp8-attention", 80, 120),
        ("int8", 75, 80),
        ("int4", 75, 86),
        ("nvfp4", 89, 120),
        ("bf16", 75, 80),
    ],
)
def test_capability(name: str, below: int, enough: int) -> None:
    require_capability(RECIPES[name], enough)
    with pytest.raises(ExportError, match=f"recipe {name} needs compute capability"):
        require_capability(RECIPES[name], below)


def test_capability_names_what_fits() -> None:
    with pytest.raises(ExportError, match="use one of: bf16, fp16, int8, int4"):
        require_capability(RECIPES["fp8"], 86)


def test_every_recipe_says_where_it_runs() -> None:
    assert {name for name, recipe in RECIPES.items() if not recipe.runs_in_onnxruntime} == {"bf16", "nvfp4"}
