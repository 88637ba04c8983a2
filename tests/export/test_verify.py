"""A verification passes what is equal, fails what is not, and never passes by having seen nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tiny_export import forwards, subject
from torch import Tensor

from export.spec import ExportError, Tolerance
from export.verify import Side, eager_side, verify

LOOSE = Tolerance(relative=0.1, cosine=0.99)


def shifted(side: Side, amount: float) -> Side:
    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value + amount * value.std() for name, value in side(inputs).items()}

    return run


def test_equal_sides_pass(tmp_path: Path) -> None:
    side = eager_side(subject())
    made = verify(subject().spec, "fp8", side, side, forwards())
    assert made.failures == () and made.num_forwards == 3
    (output,) = made.outputs
    assert (output.name, output.max_absolute, output.relative) == ("velocity", 0.0, 0.0)
    assert output.cosine == pytest.approx(1.0)
    made.require()
    made.write(tmp_path / "v.json")
    assert json.loads((tmp_path / "v.json").read_text()) == made.record()


def test_numbers_are_those_of_the_difference() -> None:
    side = eager_side(subject())
    (output,) = verify(subject().spec, "fp8", side, shifted(side, 0.05), forwards(1)).outputs
    value = side(dict(zip([t.name for t in subject().spec.inputs], forwards(1)[0], strict=True)))["velocity"]
    gap = 0.05 * float(value.std())
    assert output.max_absolute == pytest.approx(gap, rel=1e-4)
    assert output.mean_absolute == pytest.approx(gap, rel=1e-4)
    assert output.relative == pytest.approx(gap * value.numel() ** 0.5 / float(value.norm()), rel=1e-4)


def test_what_was_seen_is_said() -> None:
    side = eager_side(subject())
    given = [(forward[0] + 100, *forward[1:]) for forward in forwards()]
    made = verify(subject().spec, "fp8", side, side, given)
    latents = torch.cat([forward[0] for forward in given])
    (seen,) = [one for one in made.inputs if one.name == "latents"]
    assert seen.mean == pytest.approx(float(latents.mean()), rel=1e-6)
    assert seen.deviation == pytest.approx(float(latents.std()), rel=1e-2)
    assert seen.max_absolute == pytest.approx(float(latents.max()))
    assert [one["name"] for one in made.record()["inputs"]] == ["latents", "timestep", "text", "text_mask"]


@pytest.mark.parametrize(("amount", "message"), [(0.5, "relative error"), (float("nan"), "not finite")])
def test_differences_fail(amount: float, message: str) -> None:
    side = eager_side(subject())
    made = verify(subject().spec, "fp8", side, shifted(side, amount), forwards(1), tolerance=LOOSE)
    with pytest.raises(ExportError, match=message):
        made.require()


def test_cosine_is_judged() -> None:
    side = eager_side(subject())
    strict = Tolerance(relative=10.0, cosine=0.9999)
    made = verify(subject().spec, "fp8", side, shifted(side, 0.5), forwards(1), tolerance=strict)
    assert [failure for failure in made.failures if "cosine" in failure]


def test_nothing_compared_fails() -> None:
    side = eager_side(subject())
    with pytest.raises(ExportError, match="nothing was compared"):
        verify(subject().spec, "fp8", side, side, []).require()


def test_other_shapes_and_recipes_are_refused() -> None:
    side = eager_side(subject())

    def cut(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[..., :-1] for name, value in side(inputs).items()}

    with pytest.raises(ExportError, match="shapes differ"):
        verify(subject().spec, "fp8", side, cut, forwards(1))
    with pytest.raises(ExportError, match="not a quantization recipe"):
        verify(subject().spec, "fp7", side, side, forwards(1))
