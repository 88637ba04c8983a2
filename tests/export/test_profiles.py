"""The profile of a call: found by exact shapes, and refused with the list of what was built."""

from __future__ import annotations

import pytest
import torch

from export.profiles import profile_of
from export.spec import ExportError, ExportSpec, Profile, TensorSpec

SPEC = ExportSpec(
    subject="thing",
    inputs=(
        TensorSpec(name="x", dims=("B", 4), dtype="fp32"),
        TensorSpec(name="t", dims=("B",), dtype="fp32"),
    ),
    outputs=(TensorSpec(name="y", dims=("B", 4), dtype="fp32"),),
    profiles=(Profile(name="one", sizes={"B": 1}), Profile(name="three", sizes={"B": 3})),
    tolerance={},
    weights_digest="d",
)


@pytest.mark.parametrize(("batch", "index"), [(1, 0), (3, 1)])
def test_the_profile_with_these_shapes(batch: int, index: int) -> None:
    assert profile_of(SPEC, {"x": torch.zeros(batch, 4), "t": torch.zeros(batch)}) == index


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": torch.zeros(2, 4), "t": torch.zeros(2)},
        {"x": torch.zeros(3, 4), "t": torch.zeros(1)},
        {"x": torch.zeros(1, 5), "t": torch.zeros(1)},
        {"x": torch.zeros(1, 4)},
    ],
)
def test_any_other_shape_is_refused(inputs: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ExportError) as caught:
        profile_of(SPEC, inputs)
    assert "one: x [1, 4], t [1]" in caught.value.problem and "three: x [3, 4], t [3]" in caught.value.problem
    assert f"x {list(inputs['x'].shape)}" in caught.value.problem
