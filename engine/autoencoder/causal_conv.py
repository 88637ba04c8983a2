"""Causal convolutions of a Wan autoencoder over one padded buffer: past frames first, then the new ones.

The buffer is filled from outside, so that nothing is concatenated or padded afterwards. Where cuDNN is slow
for a number of channels, two columns of pixels are taken as one pixel of twice the channels. The weights for
that, and for doubling merged with the convolution after it, are made here. Knows no module of the decoder
but the convolution, and no cache but the frames it is given.
B batch . C channels . T frames . P frames a convolution looks back on (2, or 0) . H, W pixels
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor

from kernels.descriptors import Target

NUM_CACHED: Final = 2
"""Frames the library keeps for each causal convolution."""
OUTPUT_MULTIPLE: Final = 8
"""Output channels are padded to a multiple of this: kernels of tensor cores store 16 bytes at a time."""
HOPPER_PAIRED: Final = frozenset({96})
"""Channels of which cuDNN has no kernel for Hopper's tensor cores; of twice as many it has."""


def paired_channels(target: Target | None) -> frozenset[int]:
    """Convolutions from and to these many channels are faster over pairs of columns (None: on the CPU)."""
    is_hopper = target is not None and target.capability == (9, 0)
    return HOPPER_PAIRED if is_hopper else frozenset()


class PaddedInput:
    """The input of one causal convolution: frames that it looks back on, then `inside`, which a caller fills.

    At the very first frame there is nothing to look back on: the last tap in time is the whole convolution.
    """

    inverse: None = None
    """What values are multiplied by on the way into `inside`: nothing, they are as wide as elsewhere."""

    def __init__(
        self, conv: WanCausalConv3d, x: Tensor, past: Tensor | None, paired: Tensor | None = None
    ) -> None:
        """x [B, C, T, H, W] gives the size; past [B, C, 1 or 2, H, W].

        paired: `paired_columns` of the weight; an odd width cannot be paired and is convolved as it is.
        """
        assert not (torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)), (
            "the fused VAE has no gradient: use inference_mode, or the library's modules"
        )
        batch, channels, num_frames, height, width = x.shape
        num_known = 0 if past is None else past.shape[2]
        self.conv, self.num_cached = conv, min(NUM_CACHED, num_known + num_frames)
        self.paired = paired if width % 2 == 0 else None
        self.is_first_frame = past is None and num_frames == 1
        num_front = 0 if self.is_first_frame else conv.kernel_size[0] - 1  # P
        self.margin = 0 if self.paired is None else 1  # columns of zeros on each side
        self.buffer = torch.empty(
            (batch, channels, num_front + num_frames, height, width + 2 * self.margin),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last_3d,
        )
        if self.margin:
            self.buffer[..., :: width + 1] = 0  # the first column and the last
        self.frames = self.buffer[..., self.margin : self.margin + width]
        self.inside = self.frames[:, :, num_front:]
        if past is not None:
            known = slice(num_front - num_known, num_front)
            lines = _whole_lines(past) if self.margin else None
            if lines is None:
                self.frames[:, :, known] = past
            else:
                self.buffer[:, :, known] = lines
        if num_front > num_known:
            self.frames[:, :, : num_front - num_known] = 0

    def last_frames(self) -> Tensor:
        """What the library caches: at most two frames, only those that were there; of a copy.

        The copy has the columns of zeros around: whole lines are copied, here and into the next buffer.
        """
        copied = self.buffer[:, :, -self.num_cached :].clone(memory_format=torch.channels_last_3d)
        return copied[..., self.margin : copied.shape[-1] - self.margin]

    def convolve(self, bias: Tensor | None) -> Tensor:
        if self.paired is None:
            return convolve(self.conv, self.buffer, self._taps(self.conv.weight), bias)
        width, _, height = self.conv._padding[:3]
        assert width == 1 and bias is None, "pairs are convolved with one column around, without a bias"
        y = F.conv3d(pair_up(self.buffer), self._taps(self.paired), None, 1, (0, height, 0))
        return take_apart(y)

    def convolve_to_few(self) -> Tensor:
        """`convolve` with the bias, to few channels, padded with zeros on the way for tensor cores."""
        outputs, bias = self.conv.out_channels, self.conv.bias
        if self.paired is None:
            y = convolve(
                self.conv, self.buffer, filled_up(self._taps(self.conv.weight), OUTPUT_MULTIPLE), None
            )
        else:
            y = self.convolve(None)
        pixels: Tensor = y[:, :outputs] + bias[:, None, None, None]
        return pixels

    def _taps(self, weight: Tensor) -> Tensor:
        if self.is_first_frame:
            weight = weight[:, :, -1:].contiguous(memory_format=torch.channels_last_3d)
        return weight


def _whole_lines(frames: Tensor) -> Tensor | None:
    """[B, C, T, H, W + 2]: the frames with a column on each side, if those lie around them in memory."""
    batch, channels, num_frames, height, width = frames.shape
    pitch = (width + 2) * channels
    strides = (num_frames * height * pitch, 1, height * pitch, pitch, channels)
    if frames.stride() != strides or frames.storage_offset() != channels:
        return None
    return frames.as_strided((batch, channels, num_frames, height, width + 2), strides, 0)


def convolve(conv: WanCausalConv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The frames of x as they are: padded in height and width only, which costs nothing inside of it."""
    width, _, height = conv._padding[:3]
    return F.conv3d(x, weight, bias, conv.stride, (0, height, width))


def filled_up(weight: Tensor, multiple: int) -> Tensor:
    """Weight [O, ...] with outputs of zeros, up to a multiple."""
    return F.pad(weight, (0, 0) * (weight.ndim - 1) + (0, -weight.shape[0] % multiple))


def can_pair(conv: Any) -> bool:
    """Whether it is a convolution of 3 x 3 pixels at every position."""
    return tuple(conv.kernel_size[1:]) == (3, 3) and tuple(conv.stride) == (1, 1, 1)


def paired_columns(weight: Tensor) -> Tensor:
    """Weight [O, C, P + 1, 3, 3] for columns taken two at a time: [2 O, 2 C, P + 1, 3, 2].

    With a column of zeros before the first, outputs 2 j and 2 j + 1 are one, and see pairs j and j + 1, of
    which each uses three columns of four. The multiplications are the same, and a third more with zeros.
    """
    outputs, channels, taps, height, width = weight.shape
    paired = weight.new_zeros(2, outputs, 2, channels, taps, height, 2)
    for output in range(2):
        for tap in range(width):
            pair, column = divmod(output + tap, 2)
            paired[output, :, column, ..., pair] = weight.detach()[..., tap]
    return paired.flatten(2, 3).flatten(0, 1).contiguous(memory_format=torch.channels_last_3d)


def pair_up(x: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B, 2 C, T, H, W / 2]; a view where x is channels-last."""
    pairs: Tensor = x.movedim(1, -1).unflatten(3, (-1, 2)).flatten(-2).movedim(-1, 1)
    return pairs


def take_apart(y: Tensor) -> Tensor:
    """The inverse of `pair_up`."""
    pixels: Tensor = y.movedim(1, -1).unflatten(-1, (2, -1)).flatten(3, 4).movedim(-1, 1)
    return pixels


def double_pixels(frames: Tensor) -> Tensor:
    """[..., H, W, C] -> pictures [N, C, 2 H, 2 W], channels-last, every pixel four times: one pass."""
    *leading, height, width, channels = frames.shape
    spread = frames[..., :, None, :, None, :].expand(*leading, height, 2, width, 2, channels)
    return spread.reshape(-1, 2 * height, 2 * width, channels).movedim(-1, 1)


def merged_upsampling(weight: Tensor) -> Tensor:
    """Of a 3x3 convolution [O, C, 3, 3] after doubling: the transposed one of stride 2, [C, O, 4, 4].

    Output o takes pixel i at tap o - 2 i + 1; on the way there lie the taps k of which o + k - 1 is one of
    the two copies 2 i and 2 i + 1.
    """
    taps = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], device=weight.device)
    summed = torch.einsum("ak,bl,ockl->coab", taps, taps, weight.detach().float())
    return summed.to(weight.dtype).contiguous(memory_format=torch.channels_last)
