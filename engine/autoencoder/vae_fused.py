"""Encoder and decoder of one Wan autoencoder in few passes over memory: same weights, cache and pixels.

One pass does the norm, SiLU and the bias of the convolution before, and writes the padded input of the next
causal convolution (causal_conv.py). Where a norm follows a block, that pass also adds the residual. Every
module is replaced by one with the same children, so the names of parameters and the slots of the cache stay
the library's. Weights that are derived from others are made here: load a checkpoint before. Knows no chunks
(vae.py) and no gradient.
B batch . C channels . T frames . H, W pixels
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanDecoder3d,
    WanEncoder3d,
    WanResample,
    WanResidualBlock,
    WanRMS_norm,
    WanUpBlock,
)
from torch import Tensor, nn

from engine.autoencoder.causal_conv import (
    NUM_CACHED,
    OUTPUT_MULTIPLE,
    PaddedInput,
    can_pair,
    convolve,
    double_pixels,
    filled_up,
    merged_upsampling,
    paired_channels,
    paired_columns,
)
from engine.autoencoder.fp8_conv import Fp8Conv, Fp8Input, check_convolutions
from engine.autoencoder.library_modules import check_counts, check_modules, named, target_of
from engine.autoencoder.vae import use_channels_last
from kernels.fused import channel_norm

Cache = list[Any]
"""Per causal convolution: None, `last_frames` of its input, or "Rep" where time begins to double."""

Input = TypeVar("Input", bound=PaddedInput | Fp8Input)


@dataclass(slots=True)
class DeferredSum:
    """y + bias + residual, not yet added: the pass that reads it next does that."""

    y: Tensor
    """[B, C, T, H, W], channels-last; free to be overwritten."""
    bias: Tensor
    """[C]"""
    residual: Tensor | None
    """As y, until it is taken."""

    def take_residual(self) -> Tensor:
        """Lets go of it: callers hold this object while its reader works, and memory is short there."""
        residual, self.residual = self.residual, None
        assert residual is not None, "a deferred sum has one reader"
        return residual


def use_fused_vae(
    vae: AutoencoderKLWan,
    *,
    merge_upsampling: bool | None = None,
    paired: frozenset[int] | None = None,
    fp8: Collection[str] = (),
) -> int:
    """Replaces residual blocks, upsampling, norms of attention and both halves; returns how many modules.

    In place, on this instance alone; weights become channels-last. For inference only: a gradient is refused.
    `merge_upsampling` makes doubling and the convolution after it one transposed convolution with 4/9 of the
    multiplications, whose summed weights are rounded once more. `paired`: numbers of channels for which two
    columns are convolved as one pixel. None, for both, is what is fast on the device of the weights.
    `fp8`: names of convolutions that round their inputs and weights to E4M3, among `fp8_convolutions(vae)`.
    """
    blocks = named(vae, WanResidualBlock)
    upsamplers = {
        name: module for name, module in named(vae, WanResample).items() if module.mode.startswith("up")
    }
    attentions = named(vae, WanAttentionBlock)
    check_counts(vae, len(blocks), len(upsamplers), len(attentions))
    check_modules(vae, blocks)
    check_convolutions(vae, fp8)
    use_channels_last(vae)
    pays = paired_channels(target_of(vae))  # merging was measured where pairing was, and pays there
    merge = bool(pays) if merge_upsampling is None else merge_upsampling
    paired = pays if paired is None else paired
    for name, block in blocks.items():
        rounded = [conv for conv in ("conv1", "conv2") if f"{name}.{conv}" in fp8]
        vae.set_submodule(name, FastResidualBlock(block, paired, rounded))
    for name, upsampler in upsamplers.items():
        vae.set_submodule(name, FastUpsampler(upsampler, merge=merge))
    for attention in attentions.values():
        attention.norm = FastNorm(attention.norm)
    vae.encoder, vae.decoder = FastEncoder(vae.encoder), FastDecoder(vae.decoder, paired)
    _defer_biases(vae.decoder)
    _defer_sums(vae)
    return len(blocks) + len(upsamplers) + len(attentions) + 2


class FastNorm(nn.Module):
    """A WanRMS_norm of pictures or videos, in one pass."""

    def __init__(self, norm: WanRMS_norm) -> None:
        super().__init__()
        self.gamma = norm.gamma

    def forward(self, x: Tensor) -> Tensor:
        return channel_norm.run(x, self.gamma, silu=False)


class FastResidualBlock(nn.Module):
    """Norm, SiLU, causal convolution, twice, and the sum with the input."""

    pairs1: Tensor | None
    pairs2: Tensor | None
    input_bias: Tensor | None
    output_bias: Tensor

    def __init__(self, block: WanResidualBlock, paired: frozenset[int], fp8: Collection[str]) -> None:
        """fp8: which of "conv1" and "conv2" are."""
        super().__init__()
        self.norm1, self.conv1 = block.norm1, block.conv1
        self.norm2, self.conv2 = block.norm2, block.conv2
        self.conv_shortcut = block.conv_shortcut
        rounded: dict[str, Fp8Conv | None] = {}
        for number, conv, norm in ((1, self.conv1, self.norm1), (2, self.conv2, self.norm2)):
            fits = {conv.in_channels, conv.out_channels} <= paired and can_pair(conv)
            pairs, name = paired_columns(conv.weight) if fits else None, f"conv{number}"
            rounded[name] = Fp8Conv(conv, norm, pairs) if name in fp8 else None
            self.register_buffer(f"pairs{number}", None if name in fp8 else pairs, persistent=False)
        self.fp8_1, self.fp8_2 = rounded["conv1"], rounded["conv2"]
        self.defers_sum = False
        """Whether the result is a DeferredSum."""
        self.take_bias(None)

    def take_bias(self, bias: Tensor | None) -> None:
        """From now on the input lacks this bias [C] of the convolution before, and the block adds it."""
        output = self.conv2.bias.detach().float()
        if isinstance(self.conv_shortcut, nn.Identity):
            output = output if bias is None else output + bias.detach().float()
        else:
            output = output + self.conv_shortcut.bias.detach().float()
            if bias is not None:
                weight = self.conv_shortcut.weight.detach().float().flatten(1)  # [C out, C], of one pixel
                output = output + weight @ bias.detach().float()
        self.register_buffer("input_bias", None if bias is None else bias.detach().clone(), persistent=False)
        self.register_buffer("output_bias", output, persistent=False)

    def forward(
        self, x: Tensor | DeferredSum, feat_cache: Cache | None = None, feat_idx: list[int] | None = None
    ) -> Tensor | DeferredSum:
        make = _input_of(self.conv1, self.pairs1, self.fp8_1)
        padded = _normed(self.norm1, x, self.input_bias, make, feat_cache, feat_idx)
        if isinstance(x, DeferredSum):
            x = x.y
        y = padded.convolve(None)
        del padded  # each of these is as large as the video in full size, and here are most of them
        make = _input_of(self.conv2, self.pairs2, self.fp8_2)
        padded = _normed(self.norm2, y, self.conv1.bias, make, feat_cache, feat_idx)
        del y
        y = padded.convolve(None)
        del padded
        if not isinstance(self.conv_shortcut, nn.Identity):
            x = convolve(self.conv_shortcut, x, self.conv_shortcut.weight, None)
        if self.defers_sum:
            return DeferredSum(y.contiguous(memory_format=torch.channels_last_3d), self.output_bias, x)
        return channel_norm.add_residual(y, self.output_bias, x)


class FastUpsampler(nn.Module):
    """A WanResample that doubles height and width, and time where it has a `time_conv`."""

    merged: Tensor | None

    def __init__(self, resample: WanResample, *, merge: bool) -> None:
        super().__init__()
        self.resample = resample.resample
        self.time_conv: Any = getattr(resample, "time_conv", None)
        merged = merged_upsampling(self.resample[1].weight) if merge else None
        self.register_buffer("merged", merged, persistent=False)
        self.adds_bias = True

    def forward(
        self, x: Tensor, feat_cache: Cache | None = None, feat_idx: list[int] | None = None
    ) -> Tensor:
        frames = x.movedim(1, -1)  # [B, T, H, W, C], dense
        if self.time_conv is not None and feat_cache is not None:
            assert feat_idx is not None
            frames = self._double_time(x, frames, feat_cache, feat_idx)
        conv = self.resample[1]
        bias = conv.bias if self.adds_bias else None
        if self.merged is not None:
            pictures = frames.flatten(0, -4).movedim(-1, 1)
            y: Tensor = F.conv_transpose2d(pictures, self.merged, bias, stride=2, padding=1)
        else:
            y = F.conv2d(double_pixels(frames), conv.weight, bias, padding=1)
        videos: Tensor = y.unflatten(0, (x.shape[0], -1))  # [B, T, C, H, W]
        return videos.transpose(1, 2)

    def _double_time(self, x: Tensor, frames: Tensor, cache: Cache, index: list[int]) -> Tensor:
        """Frames twice, [B, T, H, W, C] or a view [B, T, 2, H, W, C]; the first of a video stays single."""
        slot, past = _next_slot(cache, index)
        begins = past is None
        if begins and x.shape[2] == 1:
            cache[slot] = "Rep"
            return frames
        if begins:
            x = x[:, :, 1:]
        if not isinstance(past, Tensor):  # the first frame of a video is no past for the others
            past = torch.zeros_like(x[:, :, :1]).expand(-1, -1, NUM_CACHED, -1, -1)
        padded = PaddedInput(self.time_conv, x, past)
        padded.inside.copy_(x)
        cache[slot] = padded.last_frames()
        doubled: Tensor = padded.convolve(self.time_conv.bias).unflatten(1, (2, -1))  # [B, 2, C, T, H, W]
        doubled = doubled.permute(0, 3, 1, 4, 5, 2)
        if not begins:
            return doubled
        joined = frames.new_empty(len(frames), 1 + 2 * x.shape[2], *frames.shape[2:])
        joined[:, :1] = frames[:, :1]
        joined[:, 1:].unflatten(1, (-1, 2)).copy_(doubled)
        return joined


class FastEncoder(nn.Module):
    """The forward of a WanEncoder3d over its own children."""

    def __init__(self, encoder: WanEncoder3d) -> None:
        super().__init__()
        self.conv_in, self.norm_out, self.conv_out = encoder.conv_in, encoder.norm_out, encoder.conv_out
        self.down_blocks, self.mid_block = encoder.down_blocks, encoder.mid_block

    def forward(
        self, x: Tensor, feat_cache: Cache | None = None, feat_idx: list[int] | None = None
    ) -> Tensor:
        x = _convolve_first(self.conv_in, x, feat_cache, feat_idx)
        for block in self.down_blocks:
            x = block(x, feat_cache=feat_cache, feat_idx=feat_idx)
        x = self.mid_block(x, feat_cache=feat_cache, feat_idx=feat_idx)
        make = partial(PaddedInput, self.conv_out)
        return _normed(self.norm_out, x, None, make, feat_cache, feat_idx).convolve_to_few()


class FastDecoder(nn.Module):
    """The forward of a WanDecoder3d over its own children, which takes the first frame along with others."""

    joins_first_frame = True
    takes_num_blocks = True
    out_pairs: Tensor | None

    def __init__(self, decoder: WanDecoder3d, paired: frozenset[int]) -> None:
        super().__init__()
        self.conv_in, self.norm_out, self.conv_out = decoder.conv_in, decoder.norm_out, decoder.conv_out
        self.mid_block, self.up_blocks = decoder.mid_block, decoder.up_blocks
        pairs = None
        if self.conv_out.in_channels in paired and can_pair(self.conv_out):
            pairs = paired_columns(filled_up(self.conv_out.weight, OUTPUT_MULTIPLE // 2))
        self.register_buffer("out_pairs", pairs, persistent=False)

    def forward(
        self,
        x: Tensor,
        feat_cache: Cache | None = None,
        feat_idx: list[int] | None = None,
        first_chunk: bool = False,
        num_blocks: int | None = None,
    ) -> Tensor:
        """Pixels; of no frame where only the first `num_blocks` are gone through, which fill the cache."""
        x = _convolve_first(self.conv_in, x, feat_cache, feat_idx)
        x = self.mid_block(x, feat_cache=feat_cache, feat_idx=feat_idx)
        for block in self.up_blocks[:num_blocks]:
            x = block(x, feat_cache=feat_cache, feat_idx=feat_idx, first_chunk=first_chunk)
        if num_blocks is not None and num_blocks < len(self.up_blocks):
            doublings = len(self.up_blocks) - 1 - num_blocks  # of height and width, one a block but the last
            height, width = (size << doublings for size in x.shape[3:])
            return x.new_empty(x.shape[0], self.conv_out.out_channels, 0, height, width)
        make = partial(PaddedInput, self.conv_out, paired=self.out_pairs)
        padded = _normed(self.norm_out, x, None, make, feat_cache, feat_idx, keeps_sum=False)
        return padded.convolve_to_few()


def _input_of(
    conv: WanCausalConv3d, pairs: Tensor | None, fp8: Fp8Conv | None
) -> Callable[[Tensor, Tensor | None], PaddedInput | Fp8Input]:
    """(values of its size, frames before) -> the input of a convolution in the form that it takes."""
    return partial(PaddedInput, conv, paired=pairs) if fp8 is None else partial(Fp8Input, fp8)


def _normed(
    norm: WanRMS_norm,
    x: Tensor | DeferredSum,
    bias: Tensor | None,
    make: Callable[[Tensor, Tensor | None], Input],
    cache: Cache | None,
    index: list[int] | None,
    *,
    keeps_sum: bool = True,
) -> Input:
    """SiLU of the norm of x + bias, ready for a causal convolution whose own bias is left to a later pass.

    A DeferredSum has its own bias. Its y is overwritten with the sum, unless nobody reads it (`keeps_sum`).
    """
    y, bias, residual = (x.y, x.bias, x.take_residual()) if isinstance(x, DeferredSum) else (x, bias, None)
    slot, past = _next_slot(cache, index)
    padded = make(y, past)
    out, inverse = padded.inside, padded.inverse
    if residual is not None and keeps_sum:
        channel_norm.add_and_norm(y, bias, residual, norm.gamma, silu=True, out=out, inverse=inverse)
    else:
        channel_norm.run(y, norm.gamma, silu=True, bias=bias, residual=residual, out=out, inverse=inverse)
    if cache is not None:
        cache[slot] = padded.last_frames()
    return padded


def _convolve_first(conv: WanCausalConv3d, x: Tensor, cache: Cache | None, index: list[int] | None) -> Tensor:
    """The causal convolution at the beginning, which no norm precedes."""
    slot, past = _next_slot(cache, index)
    padded = PaddedInput(conv, x, past)
    padded.inside.copy_(x)
    if cache is not None:
        cache[slot] = padded.last_frames()
    return padded.convolve(conv.bias)


def _next_slot(cache: Cache | None, index: list[int] | None) -> tuple[int, Any]:
    """Takes the next slot of the cache: (its index, its content), or (-1, None) without a cache."""
    if cache is None:
        return -1, None
    assert index is not None, "a cache without its index"
    slot = index[0]
    index[0] += 1
    return slot, cache[slot]


def _defer_biases(decoder: Any) -> None:
    """Adds the bias of each upsampling in the pass that reads its result next, which saves one over it."""
    for block, following in pairwise(decoder.up_blocks):
        # the residual layout adds to the result in between
        if isinstance(block, WanUpBlock) and block.upsamplers is not None:
            upsampler = block.upsamplers[0]
            following.resnets[0].take_bias(upsampler.resample[1].bias)
            upsampler.adds_bias = False


def _defer_sums(vae: AutoencoderKLWan) -> None:
    """Leaves the sum at the end of a block to the norm that comes next, which saves reading it again."""
    levels = [*vae.encoder.down_blocks, *vae.decoder.up_blocks]
    sequences = [vae.encoder.down_blocks, *(level.resnets for level in levels if hasattr(level, "resnets"))]
    for sequence in sequences:
        for block, following in pairwise(sequence):
            if isinstance(block, FastResidualBlock) and isinstance(following, FastResidualBlock):
                block.defers_sum = True
    last = vae.decoder.up_blocks[-1]
    # the library's block must do nothing after its last residual block
    if isinstance(last, WanUpBlock) and last.upsamplers is None:
        last.resnets[-1].defers_sum = True
