"""Values that are no numbers: the first place is named, with a damaged weight or the format as the cause."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from engine.denoise.finite import FiniteWatch, likely_cause
from engine.errors import NotFinite


def watch(**noted: float) -> FiniteWatch:
    made = FiniteWatch()
    for where, value in noted.items():
        made.note(where, torch.tensor([1.0, value]))
    return made


def test_finite_values_pass() -> None:
    watch(one=2.0, two=65504.0).require({"model": nn.Linear(2, 2)}, torch.float16)
    FiniteWatch().require({}, torch.float32)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_place_is_named(value: float) -> None:
    with pytest.raises(NotFinite, match=r"^two: values that are not finite"):
        watch(one=1.0, two=value, three=math.nan).require({}, torch.bfloat16)


def test_a_damaged_weight_is_the_cause_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).requires_grad_(False)
    model[1].weight[0, 1] = math.nan
    with pytest.raises(NotFinite, match=r"dit\.1\.weight holds 1 of 6 values") as error:
        watch(step=math.nan).require({"vae": nn.Linear(1, 1), "dit": model}, torch.bfloat16)
    assert "weights of dit again" in error.value.fix


def test_fp16_is_the_cause_where_the_weights_are_finite() -> None:
    assert likely_cause({"dit": nn.Linear(1, 1)}, torch.float16)[1] == "use --dtype bf16"
    assert "exact" in likely_cause({"dit": nn.Linear(1, 1, device="meta")}, torch.bfloat16)[1]
