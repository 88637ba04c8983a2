"""RMS norm over channels and the sums around it: kernel, plain torch, the library's module."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from eight_bit import DEVICE, assert_same_codes, assert_within_twice, needs_triton, normal, target
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused import channel_norm
from kernels.fused.formats import FP8, to_format

NAN = float("nan")


def last(x: Tensor) -> Tensor:
    layout = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
    return x.contiguous(memory_format=layout)


@needs_triton
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 1),
        (2, 16, 2, 3, 5),
        (1, 96, 1, 7, 5),
        (2, 97, 2, 2, 3),
        (1, 384, 3, 1, 2),
        (1, 1024, 5, 1),
    ],
)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernel_is_plain_torch(
    shape: tuple[int, ...], silu: bool, with_bias: bool, dtype: torch.dtype
) -> None:
    x = last(normal(*shape, dtype=dtype, size=3.0))
    gamma = normal(shape[1], *[1] * (len(shape) - 2), dtype=dtype, seed=1)
    bias = normal(shape[1], dtype=dtype, seed=2) if with_bias else None
    actual = channel_norm.launch(x, gamma, silu=silu, bias=bias)
    expected = channel_norm.plain(x, gamma, silu=silu, bias=bias)
    exact = channel_norm.plain(x.float(), gamma, silu=silu, bias=bias)
    assert actual.dtype == dtype and actual.shape == x.shape
    assert_within_twice(actual, expected, exact)


@needs_triton
@pytest.mark.parametrize("num_rows", [31, 32, 33])
def test_positions_around_a_tile(num_rows: int) -> None:
    assert channel_norm._rows(96) == (32, 128)
    x, gamma = last(normal(2, 96, 1, 1, num_rows)), normal(96, seed=1)
    torch.testing.assert_close(
        channel_norm.launch(x, gamma, silu=True), channel_norm.plain(x, gamma, silu=True)
    )


@needs_triton
def test_writes_behind_the_frames_of_a_buffer_and_nothing_else() -> None:
    """x is a slice of frames as well; what lies around both is NaN."""
    wide = last(torch.full((2, 24, 6, 3, 4), NAN, device=DEVICE))
    wide[:, :, 1:4] = normal(2, 24, 3, 3, 4)
    buffer = last(torch.full((2, 24, 5, 3, 4), NAN, device=DEVICE))
    x, gamma = wide[:, :, 1:4], normal(24, seed=1)
    out = channel_norm.launch(x, gamma, silu=True, out=buffer[:, :, 2:])
    assert out.data_ptr() == buffer[:, :, 2:].data_ptr()
    torch.testing.assert_close(buffer[:, :, 2:], channel_norm.plain(x, gamma, silu=True))
    assert buffer[:, :, :2].isnan().all()


@needs_triton
@pytest.mark.parametrize("height", [1, 3])
def test_writes_between_the_columns_of_a_buffer(height: int) -> None:
    buffer = last(torch.full((2, 24, 5, height, 9), NAN, device=DEVICE))
    x, gamma = last(normal(2, 24, 3, height, 6)), normal(24, seed=1)
    inside = buffer[:, :, 2:, :, 1:7]
    assert channel_norm.launch(x, gamma, silu=True, out=inside).data_ptr() == inside.data_ptr()
    torch.testing.assert_close(inside, channel_norm.plain(x, gamma, silu=True))
    for around in (buffer[:, :, :2], buffer[..., :1], buffer[..., 7:]):
        assert around.isnan().all()
    with pytest.raises(AssertionError, match="not channels-last"):
        channel_norm.launch(x[..., :5], gamma, silu=True, out=buffer[:, :, 2:, :, ::2])


@needs_triton
@pytest.mark.parametrize(("frames", "height"), [(3, 3), (1, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_writes_e4m3_within_lines_and_columns_of_zeros(frames: int, height: int, dtype: torch.dtype) -> None:
    x, residual = (last(normal(2, 24, frames, height, 6, dtype=dtype, seed=seed)) for seed in (0, 2))
    gamma, inverse = normal(24, seed=1), torch.tensor([90.0], device=DEVICE)
    buffers = [
        last(torch.zeros(2, 24, frames + 2, height + 2, 8, device=DEVICE).to(FP8.dtype)) for _ in range(4)
    ]
    insides = [buffer[:, :, 2:, 1:-1, 1:-1] for buffer in buffers]
    wide = channel_norm.plain(x.float(), gamma, silu=True, residual=residual.float())
    expected = to_format(wide * inverse, FP8)
    terms = {"silu": True, "inverse": inverse}
    channel_norm.plain(x, gamma, residual=residual, out=insides[0], **terms)
    channel_norm.launch(x, gamma, residual=residual, out=insides[1], **terms)
    y, z = x.clone(), x.clone()
    channel_norm.plain_both(y, None, residual, gamma, out=insides[2], **terms)
    channel_norm.launch_both(z, None, residual, gamma, out=insides[3], **terms)
    torch.testing.assert_close(z, y)
    assert expected.float().abs().max() > 100
    for buffer, inside in zip(buffers, insides, strict=True):
        assert_same_codes(inside, expected)
        inside.zero_()
        assert not buffer.float().any()


@needs_triton
def test_other_layouts_are_copied_and_refused() -> None:
    x, gamma = normal(2, 24, 3, 3, 4), normal(24, seed=1)
    assert not channel_norm._is_rows(x)
    expected = channel_norm.plain(x, gamma, silu=False)
    torch.testing.assert_close(channel_norm.launch(x, gamma, silu=False), expected)
    with pytest.raises(AssertionError, match="not channels-last"):
        channel_norm.launch(x, gamma, silu=False, out=torch.empty_like(x))


@needs_triton
@pytest.mark.parametrize("shape", [(1, 17, 1, 1, 1), (2, 96, 2, 3, 6), (2, 384, 3, 2)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_residual(shape: tuple[int, ...], with_bias: bool, dtype: torch.dtype) -> None:
    y, residual = (last(normal(*shape, dtype=dtype, seed=seed)) for seed in (1, 2))
    bias = normal(shape[1], dtype=dtype, seed=3) if with_bias else None
    expected = channel_norm.plain_residual(y.clone(), bias, residual)
    exact = channel_norm.plain_residual(y.clone().float(), bias, residual.float())
    for other in (residual, residual.contiguous()):
        copy = y.clone()
        actual = channel_norm.launch_residual(copy, bias, other)
        assert actual.data_ptr() == copy.data_ptr()
        assert_within_twice(actual, expected, exact)
    assert_within_twice(channel_norm.launch_residual(y.contiguous(), bias, residual), expected, exact)


@needs_triton
@pytest.mark.parametrize("shape", [(1, 17, 1, 1, 1), (2, 96, 2, 3, 6), (2, 384, 3, 2)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_norm_of_a_sum(shape: tuple[int, ...], with_bias: bool, silu: bool, dtype: torch.dtype) -> None:
    """With the sum and without it, into a part of a buffer whose rest stays as it was."""
    y, residual = (last(normal(*shape, dtype=dtype, seed=seed)) for seed in (1, 2))
    gamma, bias = normal(shape[1], dtype=dtype, seed=4), normal(shape[1], seed=3) if with_bias else None
    terms = {"silu": silu, "bias": bias, "residual": residual}
    expected, sums = (
        channel_norm.plain(y, gamma, **terms),
        channel_norm.plain_residual(y.clone(), bias, residual),
    )
    exact = channel_norm.plain(y.float(), gamma, **terms)
    exact_sums = channel_norm.plain_residual(y.clone().float(), bias, residual.float())
    for other in (residual, residual.contiguous()):
        before = y.clone()
        assert_within_twice(
            channel_norm.launch(y, gamma, silu=silu, bias=bias, residual=other), expected, exact
        )
        assert torch.equal(y, before)
        copy = y.clone()
        wide = last(torch.full((*shape[:-1], shape[-1] + 2), NAN, dtype=dtype, device=DEVICE))
        inside = wide[..., 1:-1]
        assert channel_norm.launch_both(copy, bias, other, gamma, silu=silu, out=inside) is inside
        assert_within_twice(inside, expected, exact)
        assert_within_twice(copy, sums, exact_sums)
        assert wide[..., [0, -1]].isnan().all()


@needs_triton
def test_a_sum_has_no_place_in_other_layouts() -> None:
    y, gamma = normal(2, 24, 3, 3, 4), normal(24, seed=1)
    with pytest.raises(AssertionError, match="cannot take the place"):
        channel_norm.launch_both(y, None, last(y), gamma, silu=True, out=last(torch.empty_like(y)))


@needs_triton
@pytest.mark.parametrize("silu", [True, False])
def test_a_row_of_zeros_stays_zero(silu: bool) -> None:
    x = last(torch.zeros(1, 16, 2, 2, device=DEVICE))
    assert not channel_norm.launch(x, torch.ones(16, device=DEVICE), silu=silu).any()


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_is_the_norm_of_the_library(images: bool, dtype: torch.dtype) -> None:
    norm = WanRMS_norm(48, images=images).to(DEVICE, dtype)
    with torch.no_grad():
        norm.gamma.copy_(1 + 0.3 * normal(*norm.gamma.shape, seed=1))
        x = last(normal(2, 48, *([4, 5] if images else [3, 4, 5]), dtype=dtype, size=3.0))
        expected, exact = F.silu(norm(x)), F.silu(norm.float()(x.float()))
        norm.to(dtype)
        actual = channel_norm.run(x, norm.gamma, silu=True)
    if dtype == torch.float32:
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    else:
        assert_within_twice(actual, expected, exact)


def test_run_takes_a_buffer_on_every_device() -> None:
    x, gamma = last(normal(1, 8, 2, 2, 2)), normal(8, seed=1)
    buffer = last(torch.zeros(1, 8, 4, 2, 2, device=DEVICE))
    channel_norm.run(x, gamma, silu=True, out=buffer[:, :, 2:])
    torch.testing.assert_close(buffer[:, :, 2:], channel_norm.plain(x, gamma, silu=True))
    assert not buffer[:, :, :2].any()
    y = x.clone()
    assert channel_norm.add_residual(y, gamma, x).data_ptr() == y.data_ptr()
    sums = channel_norm.plain_residual(x.clone(), gamma, x)
    torch.testing.assert_close(y, sums)
    expected = channel_norm.plain(x, gamma, silu=True, bias=gamma, residual=x)
    torch.testing.assert_close(channel_norm.run(x, gamma, silu=True, bias=gamma, residual=x), expected)
    y = x.clone()
    out = channel_norm.add_and_norm(y, gamma, x, gamma, silu=True, out=buffer[:, :, 2:])
    assert out.data_ptr() == buffer[:, :, 2:].data_ptr()
    torch.testing.assert_close(buffer[:, :, 2:], expected)
    torch.testing.assert_close(y, sums)


def test_wrong_calls_are_refused() -> None:
    x = normal(1, 8, 2, 2, 2)
    with pytest.raises(AssertionError, match="7 values for 8 channels"):
        channel_norm.run(x, normal(7), silu=True)
    for out in (None, torch.empty_like(x)):
        with pytest.raises(AssertionError, match=r"the output .* is not .* torch.float8_e4m3fn"):
            channel_norm.run(x, normal(8), silu=True, out=out, inverse=torch.ones(1))
    with pytest.raises(AssertionError, match=r"is not \[B, C, H, W\]"):
        channel_norm.run(x[0, :, 0], normal(8), silu=True)
    with pytest.raises(AssertionError, match=r"torch.bfloat16\) is not"):
        channel_norm.run(x, normal(8), silu=True, out=x.bfloat16())
    with pytest.raises(AssertionError, match=r"\(1, 8, 1, 2, 2\) torch.float32 is not"):
        channel_norm.add_residual(x, None, x[:, :, :1])
    with pytest.raises(AssertionError, match=r"\(1, 8, 1, 2, 2\), torch.float32\) is not"):
        channel_norm.add_and_norm(x, None, x, normal(8), silu=True, out=x[:, :, :1])


def test_supports_says_no() -> None:
    assert "channels" in str(channel_norm.supports(target(), channels=5000))
    assert channel_norm.supports(Target(kind="cpu", capability=None), channels=64) is not None
    assert "8.0" in str(channel_norm.supports(Target(kind="cuda", capability=(7, 5)), channels=64))
    assert channel_norm.supports(Target(kind="cuda", capability=(9, 0)), channels=384) is None


@pytest.mark.gpu
@pytest.mark.parametrize(("channels", "height", "width"), [(96, 480, 832), (192, 240, 416), (384, 60, 104)])
def test_wan_shape(channels: int, height: int, width: int) -> None:
    """Beyond 2**31 elements for the first: 60 frames of full size."""
    frames = 60 if channels == 96 else 16
    made = {"dtype": torch.bfloat16, "device": DEVICE, "memory_format": torch.channels_last_3d}
    x = torch.empty((1, channels, frames, height, width), **made).normal_()
    gamma, bias = normal(channels, seed=1), normal(channels, seed=2)
    buffer = torch.empty((1, channels, frames + 2, height, width), **made)
    channel_norm.run(x, gamma, silu=True, bias=bias, out=buffer[:, :, 2:])
    for frame in (0, frames // 2, frames - 1):
        part = x[:, :, frame : frame + 1]
        exact = channel_norm.plain(part.float(), gamma, silu=True, bias=bias)
        plain = channel_norm.plain(part, gamma, silu=True, bias=bias)
        assert_within_twice(buffer[:, :, 2 + frame : 3 + frame], plain, exact)
