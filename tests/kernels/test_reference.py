"""The reference against sums written out, and measures of error that notice what they should."""

from __future__ import annotations

import math

import pytest
import torch
from attention_cases import fill_padding, lengths, tensors

from kernels import reference


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> list[float]:
    """One query over a list of keys, in Python numbers."""
    weights = [
        math.exp(scale * sum(a * b for a, b in zip(q.tolist(), key, strict=True))) for key in k.tolist()
    ]
    columns = zip(*v.tolist(), strict=True)
    return [sum(w * x for w, x in zip(weights, column, strict=True)) / sum(weights) for column in columns]


def test_attention_is_the_formula() -> None:
    q, k, v = tensors(3, 5, 16, torch.float32)
    out = reference.attention(q, k, v, scale=0.3)
    expected = by_hand(q[1, 2, 1], k[1, 2], v[1, 2], 0.3)
    assert torch.allclose(out[1, 2, 1].cpu(), torch.tensor(expected), atol=1e-5)


def test_lengths_hide_padding_whatever_it_holds() -> None:
    q, k, v = tensors(4, 9, 16, torch.float32)
    valid = lengths(9, 4)
    out = reference.attention(q, fill_padding(k, valid), fill_padding(v, valid), scale=0.3, kv_lengths=valid)
    assert torch.equal(out[0], reference.attention(q, k, v, scale=0.3)[0])
    short = reference.attention(q[1:], k[1:, :, :4], v[1:, :, :4], scale=0.3)
    assert torch.allclose(out[1], short[0], atol=1e-6)


def test_a_row_without_keys_is_zero() -> None:
    q, k, v = tensors(4, 9, 16, torch.float32)
    for function in (reference.attention, reference.plain):
        out = function(q, k, v, scale=0.3, kv_lengths=lengths(0, 9))
        assert out[0].abs().max() == 0 and out[1].abs().max() > 0


@pytest.mark.parametrize(
    "change",
    [
        {"kv_lengths": torch.tensor([1, 1], dtype=torch.int64)},
        {"kv_lengths": torch.tensor([1], dtype=torch.int32)},
        {"scale": 0.0},
        {"scale": -1.0},
    ],
)
def test_wrong_arguments_are_refused(change: dict) -> None:
    q, k, v = tensors(4, 9, 16, torch.float32)
    with pytest.raises(AssertionError):
        reference.attention(q, k, v, **({"scale": 0.3} | change))


def test_shapes_and_types_must_agree() -> None:
    q, k, v = tensors(4, 9, 16, torch.float32)
    with pytest.raises(AssertionError):
        reference.attention(q, k, v[:, :, 1:], scale=0.3)
    with pytest.raises(AssertionError):
        reference.attention(q, k.half(), v, scale=0.3)
    with pytest.raises(AssertionError):
        reference.attention(q.transpose(2, 3).contiguous().transpose(2, 3), k, v, scale=0.3)


def test_compare_measures_known_differences() -> None:
    errors = reference.compare(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]))
    assert (errors.largest, errors.relative, errors.cosine) == (4.0, 5.0 / 4.0, 0.0)
    same = reference.compare(torch.ones(3), torch.ones(3))
    assert (same.largest, same.relative) == (0.0, 0.0) and same.cosine == pytest.approx(1.0)


def test_compare_of_nan_is_nan() -> None:
    errors = reference.compare(torch.tensor([1.0, math.nan]), torch.ones(2))
    assert all(math.isnan(x) for x in (errors.largest, errors.relative, errors.cosine))


def test_compare_of_zeros() -> None:
    assert reference.compare(torch.zeros(2), torch.zeros(2)).cosine == 1.0


def test_allowed_error_scales_the_neighbour_or_a_step() -> None:
    assert reference.allowed_error(0.1, torch.ones(2), torch.float16, 2.0) == 0.2
    floor = reference.allowed_error(0.0, torch.full((2,), -4.0), torch.float16, 2.0)
    assert floor == 2.0 * 0.25 * 4.0 * 2**-10
    floor = reference.allowed_error(0.0, torch.full((2,), -4.0), torch.float32, 2.0)
    assert floor == 2.0 * 4.0 * 4.0 * 2**-23
