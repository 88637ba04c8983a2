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


GPU = torch.device("cuda", 1)
X, T = torch.zeros(1, 4), torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "device", "message"),
    [
        ({"x": X.half()}, None, "x is torch.float16, built for torch.float32"),
        ({"t": T.double()}, None, "t is torch.float64, built for torch.float32"),
        ({"t": T.long()}, None, "t is torch.int64, built for torch.float32"),
        ({"x": X.to("meta")}, torch.device("cpu"), "x is on meta, built for cpu"),
        ({}, GPU, "x is on cpu, built for cuda:1; t is on cpu, built for cuda:1"),
    ],
)
def test_another_dtype_or_device_is_refused(
    change: dict[str, torch.Tensor], device: torch.device | None, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        profile_of(SPEC, {"x": X, "t": T} | change, device)


def test_a_target_that_moves_its_inputs_takes_them_from_anywhere() -> None:
    assert profile_of(SPEC, {"x": X.to("meta"), "t": T}) == 0
    assert profile_of(SPEC, {"x": X.to("meta"), "t": T.to("meta")}, torch.device("meta")) == 0


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
