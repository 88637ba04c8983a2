"""Causal convolutions over one buffer, in their plain and paired form, against the library's convolution."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from eight_bit import normal
from torch import Tensor
from torch.nn import functional as F

from engine.autoencoder import causal_conv
from engine.autoencoder.causal_conv import (
    PaddedInput,
    filled_up,
    merged_upsampling,
    paired_channels,
    paired_columns,
)
from kernels.descriptors import Target


def build(channels: int = 6, outputs: int = 5) -> WanCausalConv3d:
    torch.manual_seed(0)
    return WanCausalConv3d(channels, outputs, 3, padding=1).requires_grad_(False)


def filled(conv: WanCausalConv3d, x: Tensor, past: Tensor | None, *, pairs: bool) -> PaddedInput:
    padded = PaddedInput(conv, x, past, paired_columns(conv.weight) if pairs else None)
    padded.inside.copy_(x)
    return padded


@pytest.mark.parametrize("num_past", [0, 1, 2])
@pytest.mark.parametrize("num_frames", [1, 3])
@pytest.mark.parametrize("width", [2, 7, 8])
@pytest.mark.parametrize("pairs", [False, True])
def test_is_the_convolution_of_the_library(num_past: int, num_frames: int, width: int, pairs: bool) -> None:
    conv, frames = build(), normal(2, 6, num_past + num_frames, 3, width)
    past = frames[:, :, :num_past] if num_past else None
    padded = filled(conv, frames[:, :, num_past:], past, pairs=pairs)
    assert (padded.paired is not None) == (pairs and width % 2 == 0)
    expected = conv(frames)[:, :, num_past:] - conv.bias[:, None, None, None]
    torch.testing.assert_close(padded.convolve(None), expected, atol=1e-5, rtol=1e-5)
    kept = padded.last_frames()
    assert torch.equal(kept, frames[:, :, -2:])
    columns = width if padded.paired is None else width + 2
    assert kept.untyped_storage().nbytes() == kept.numel() // width * columns * 4, "keeps the buffer"
    following = frames[:, :, :1] + 1
    joined = torch.cat([frames[:, :, -2:], following], dim=2)
    again = filled(conv, following, kept, pairs=pairs)  # takes what was kept, with its columns of zeros
    expected = conv(joined)[:, :, -1:] - conv.bias[:, None, None, None]
    torch.testing.assert_close(again.convolve(None), expected, atol=1e-5, rtol=1e-5)


def test_pairs_are_views_both_ways() -> None:
    x = normal(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    pairs = causal_conv.pair_up(x)
    assert pairs.shape == (2, 6, 4, 5, 3) and pairs.data_ptr() == x.data_ptr()
    assert pairs.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(pairs[:, :3], x[..., ::2]) and torch.equal(pairs[:, 3:], x[..., 1::2])
    again = causal_conv.take_apart(pairs)
    assert torch.equal(again, x) and again.data_ptr() == x.data_ptr() and again.stride() == x.stride()


def test_a_paired_weight_holds_every_tap_twice_and_zeros() -> None:
    weight = torch.arange(1.0, 1 + 2 * 3 * 27).reshape(2, 3, 3, 3, 3)
    paired = paired_columns(weight)
    assert paired.shape == (4, 6, 3, 3, 2)
    assert int((paired == 0).sum()) == paired.numel() // 4
    assert sorted(paired[paired != 0].tolist()) == sorted(2 * weight.flatten().tolist())


def test_only_hopper_pairs_columns() -> None:
    assert paired_channels(Target(kind="cuda", capability=(9, 0))) == {96}
    for other in (None, *(Target(kind="cuda", capability=(major, 0)) for major in (8, 10, 12))):
        assert not paired_channels(other)


def test_only_convolutions_of_all_positions_are_paired() -> None:
    assert causal_conv.can_pair(build())
    assert not causal_conv.can_pair(WanCausalConv3d(6, 6, 3, stride=(1, 2, 2), padding=1))
    assert not causal_conv.can_pair(WanCausalConv3d(6, 6, (3, 1, 1), padding=(1, 0, 0)))


@pytest.mark.parametrize("pairs", [False, True])
def test_few_outputs_are_filled_up_on_the_way_only(pairs: bool) -> None:
    conv, frames = build(outputs=3), normal(1, 6, 4, 3, 8)
    weight = paired_columns(filled_up(conv.weight, 4)) if pairs else None
    padded = PaddedInput(conv, frames, None, weight)
    padded.inside.copy_(frames)
    torch.testing.assert_close(padded.convolve_to_few(), conv(frames), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_merged_upsampling_is_doubling_and_convolution() -> None:
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(5, 3, 3, 3, generator=generator), torch.randn(5, generator=generator)
    x = torch.randn(2, 3, 4, 5, generator=generator)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest-exact"), weight, bias, padding=1)
    merged = merged_upsampling(weight)
    torch.testing.assert_close(F.conv_transpose2d(x, merged, bias, stride=2, padding=1), expected)
    doubled = causal_conv.double_pixels(x.movedim(1, -1))
    torch.testing.assert_close(F.conv2d(doubled, weight, bias, padding=1), expected)
