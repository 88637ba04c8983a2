"""Scales, rounding and padding of the 8-bit inputs of attention."""

from __future__ import annotations

import pytest
import torch
from attention_cases import fill_padding, lengths, tensors

from kernels import reference
from kernels.attention import _eight_bit

E4M3_ERROR = 0.045  # half a step of 1/8 is 0.0625 at most, 0.03 on average


def relative(x8: torch.Tensor, scale: torch.Tensor, x: torch.Tensor) -> float:
    return reference.compare(x8.float() * scale, x.float()).relative


def test_heads_have_a_scale_each() -> None:
    q, _, _ = tensors(33, 70)
    q = q * torch.tensor([1.0, 100.0, 0.01], dtype=q.dtype, device=q.device)[:, None, None]
    q8, scale = _eight_bit.e4m3_heads(q)
    assert q8.dtype == torch.float8_e4m3fn and scale.shape == (2, 3) and scale.dtype == torch.float32
    for head in range(3):
        assert relative(q8[:, head], scale[:, head, None, None], q[:, head]) < E4M3_ERROR
    assert q8.float().abs().amax(dim=(2, 3)).min() == _eight_bit.E4M3_MAX


def test_one_scale_for_all() -> None:
    q, _, _ = tensors(33, 70)
    q8, scale = _eight_bit.e4m3_tensor(q)
    assert scale.shape == (1, 1, 1, 1) and relative(q8, scale, q) < E4M3_ERROR


def test_channels_have_a_scale_each_and_tokens_contiguous() -> None:
    _, _, v = tensors(33, 70)
    v8, scale = _eight_bit.e4m3_channels(v, None)
    assert v8.shape == v.shape and v8.stride(2) == 1 and v8.stride(3) % 16 == 0 and scale.shape == (2, 3, 64)
    assert relative(v8, scale[:, :, None], v) < E4M3_ERROR


def test_fp16_channels_have_room_for_a_sum() -> None:
    _, _, v = tensors(33, 70)
    large = v.bfloat16() * 3e5
    v16, scale = _eight_bit.fp16_channels(large, None)
    assert v16.dtype == torch.float16 and v16.abs().max() <= _eight_bit.FP16_PEAK
    assert relative(v16, scale[:, :, None], large) < 1e-3


@pytest.mark.parametrize("quantize", [_eight_bit.e4m3_channels, _eight_bit.fp16_channels])
def test_padding_is_zero_and_decides_no_scale(quantize) -> None:  # type: ignore[no-untyped-def]
    _, _, v = tensors(33, 70)
    valid = lengths(70, 40)
    x, scale = quantize(fill_padding(v, valid), valid)
    cut, cut_scale = quantize(v[1:, :, :40], None)
    assert torch.equal(x[1:, :, :40].float(), cut.float()) and torch.equal(scale[1:], cut_scale)
    assert x[1, :, 40:].float().abs().max() == 0


def test_means_are_of_the_keys_that_exist() -> None:
    _, k, _ = tensors(33, 70)
    valid = lengths(70, 40)
    mean = _eight_bit.channel_mean(fill_padding(k, valid), valid)
    assert torch.allclose(mean[1], k[1, :, :40].float().mean(1), atol=1e-5)
    assert torch.allclose(mean[0], _eight_bit.channel_mean(k, None)[0], atol=1e-5)
    assert bool(_eight_bit.channel_mean(fill_padding(k, lengths(0, 1)), lengths(0, 1)).isfinite().all())


def test_smooth_keys_leave_the_weights_of_softmax() -> None:
    q, k, v = (x.float() for x in tensors(33, 70))
    smooth = _eight_bit.smooth_keys(k + 5, None)
    assert smooth.mean(2).abs().max() < 1e-5
    expected = reference.attention(q, k + 5, v, scale=0.3)
    assert torch.allclose(reference.attention(q, smooth, v, scale=0.3), expected, atol=1e-4)


def test_zeros_have_a_scale_above_zero() -> None:
    zeros = torch.zeros(1, 1, 16, 16)
    x8, scale = _eight_bit.e4m3_heads(zeros)
    assert scale.min() > 0 and x8.float().abs().max() == 0
