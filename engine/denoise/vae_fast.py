"""The coders of one Wan autoencoder with few passes over memory: same weights, same cache, same pixels.

Norm, SiLU and the bias of the convolution before are one pass, which writes straight behind the frames the
next causal convolution looks back on: nothing is concatenated or padded. Every module is replaced by one with
the same children, so names of parameters, the count of cache slots and their contents stay the library's.
Knows no chunks (engine/denoise/vae.py) and no gradient.
B batch · C channels · T frames · P frames a convolution looks back on (2, or 0) · H, W pixels
"""

from __future__ import annotations

from typing import Any

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
)
from torch import Tensor, nn

from engine.denoise.vae import use_channels_last
from engine.quant.tables import SurgeryError
from kernels.fused import channel_norm
from kernels.problem import Target

NUM_CACHED = 2
"""Frames the library keeps for each causal convolution."""
OUTPUT_MULTIPLE = 8
"""Output channels are filled up to this: the kernels of tensor cores store 16 bytes at a time."""
LIBRARY = 'set denoise.vae = "library"'

Cache = list[Any]
"""Per causal convolution: None, [B, C, 1 or 2, H, W], or "Rep" where time begins to double."""


def use_fast_coders(vae: AutoencoderKLWan, *, merge_upsampling: bool = False) -> int:
    """Replace the residual blocks, the upsampling, the norms of attention and both heads; how many modules.

    In place, on this instance alone; weights become channels-last. For inference: a gradient is refused.
    `merge_upsampling` makes doubling and the convolution behind it one transposed convolution of 4/9 of the
    products, whose summed weights are rounded once more.
    """
    blocks = _named(vae, WanResidualBlock)
    upsamplers = {
        name: module for name, module in _named(vae, WanResample).items() if module.mode.startswith("up")
    }
    attentions = _named(vae, WanAttentionBlock)
    _check_counts(vae, len(blocks), len(upsamplers), len(attentions))
    _check_modules(vae, blocks)
    use_channels_last(vae)
    for name, block in blocks.items():
        vae.set_submodule(name, FastResidualBlock(block))
    for name, upsampler in upsamplers.items():
        vae.set_submodule(name, FastUpsampler(upsampler, merge=merge_upsampling))
    for attention in attentions.values():
        attention.norm = FastNorm(attention.norm)
    vae.encoder, vae.decoder = FastEncoder(vae.encoder), FastDecoder(vae.decoder)
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

    def __init__(self, block: WanResidualBlock) -> None:
        super().__init__()
        self.norm1, self.conv1 = block.norm1, block.conv1
        self.norm2, self.conv2 = block.norm2, block.conv2
        self.conv_shortcut = block.conv_shortcut

    def forward(
        self, x: Tensor, feat_cache: Cache | None = None, feat_idx: list[int] | None = None
    ) -> Tensor:
        y = _normed(self.norm1, x, None, self.conv1, feat_cache, feat_idx).convolve(None)
        y = _normed(self.norm2, y, self.conv1.bias, self.conv2, feat_cache, feat_idx).convolve(None)
        if not isinstance(self.conv_shortcut, nn.Identity):
            x = _convolve(self.conv_shortcut, x, self.conv_shortcut.weight, self.conv_shortcut.bias)
        return channel_norm.add_residual(y, self.conv2.bias, x)


class FastUpsampler(nn.Module):
    """A WanResample that doubles height and width, and time where it has a `time_conv`."""

    merged: Tensor | None

    def __init__(self, resample: WanResample, *, merge: bool) -> None:
        super().__init__()
        self.resample = resample.resample
        self.time_conv: Any = getattr(resample, "time_conv", None)
        merged = merged_upsampling(self.resample[1].weight) if merge else None
        self.register_buffer("merged", merged, persistent=False)

    def forward(
        self, x: Tensor, feat_cache: Cache | None = None, feat_idx: list[int] | None = None
    ) -> Tensor:
        frames = x.movedim(1, -1)  # [B, T, H, W, C], dense
        if self.time_conv is not None and feat_cache is not None:
            assert feat_idx is not None
            frames = self._double_time(x, frames, feat_cache, feat_idx)
        conv = self.resample[1]
        if self.merged is not None:
            pictures = frames.flatten(0, -4).movedim(-1, 1)
            y: Tensor = F.conv_transpose2d(pictures, self.merged, conv.bias, stride=2, padding=1)
        else:
            y = F.conv2d(_double_pixels(frames), conv.weight, conv.bias, padding=1)
        videos: Tensor = y.unflatten(0, (x.shape[0], -1))  # [B, T, C, H, W]
        return videos.transpose(1, 2)

    def _double_time(self, x: Tensor, frames: Tensor, cache: Cache, index: list[int]) -> Tensor:
        """[B, T, 2, H, W, C], a view; `frames` as they are at the first frame, which stays single."""
        slot, past = _next_slot(cache, index)
        if past is None:
            cache[slot] = "Rep"
            return frames
        if not isinstance(past, Tensor):
            past = torch.zeros_like(x[:, :, :1]).expand(-1, -1, NUM_CACHED, -1, -1)
        room = _Room(self.time_conv, x, past)
        room.inside.copy_(x)
        cache[slot] = room.last_frames()
        doubled: Tensor = room.convolve(self.time_conv.bias).unflatten(1, (2, -1))  # [B, 2, C, T, H, W]
        return doubled.permute(0, 3, 1, 4, 5, 2)


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
        return _normed(self.norm_out, x, None, self.conv_out, feat_cache, feat_idx).convolve_to_few()


class FastDecoder(nn.Module):
    """The forward of a WanDecoder3d over its own children."""

    def __init__(self, decoder: WanDecoder3d) -> None:
        super().__init__()
        self.conv_in, self.norm_out, self.conv_out = decoder.conv_in, decoder.norm_out, decoder.conv_out
        self.mid_block, self.up_blocks = decoder.mid_block, decoder.up_blocks

    def forward(
        self,
        x: Tensor,
        feat_cache: Cache | None = None,
        feat_idx: list[int] | None = None,
        first_chunk: bool = False,
    ) -> Tensor:
        x = _convolve_first(self.conv_in, x, feat_cache, feat_idx)
        x = self.mid_block(x, feat_cache=feat_cache, feat_idx=feat_idx)
        for block in self.up_blocks:
            x = block(x, feat_cache=feat_cache, feat_idx=feat_idx, first_chunk=first_chunk)
        return _normed(self.norm_out, x, None, self.conv_out, feat_cache, feat_idx).convolve_to_few()


class _Room:
    """The input of a causal convolution: the frames it looks back on, and behind them `inside`, to be filled.

    At the very first frame there is nothing to look back on: the last tap in time is the whole convolution.
    """

    def __init__(self, conv: WanCausalConv3d, x: Tensor, past: Tensor | None) -> None:
        """x [B, C, T, H, W] gives the size; past [B, C, 1 or 2, H, W]."""
        assert not (torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)), (
            "the fast coders have no gradient: use inference_mode, or the library's modules"
        )
        num_frames = x.shape[2]
        num_known = 0 if past is None else past.shape[2]
        self.conv, self.num_cached = conv, min(NUM_CACHED, num_known + num_frames)
        self.is_first_frame = past is None and num_frames == 1
        num_front = 0 if self.is_first_frame else conv.kernel_size[0] - 1  # P
        shape = (*x.shape[:2], num_front + num_frames, *x.shape[3:])
        self.buffer = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
        self.inside = self.buffer[:, :, num_front:]
        if past is not None:
            self.buffer[:, :, num_front - num_known : num_front] = past
        if num_front > num_known:
            self.buffer[:, :, : num_front - num_known] = 0

    def last_frames(self) -> Tensor:
        """What the library caches: at most two frames, only those that were there; a copy."""
        return self.buffer[:, :, -self.num_cached :].clone(memory_format=torch.channels_last_3d)

    def convolve(self, bias: Tensor | None) -> Tensor:
        return _convolve(self.conv, self.buffer, self._weight(), bias)

    def convolve_to_few(self) -> Tensor:
        """`convolve` with the bias, to a number of channels that is made fit for tensor cores on the way."""
        outputs, bias = self.conv.out_channels, self.conv.bias
        weight = F.pad(self._weight(), (0, 0) * 4 + (0, -outputs % OUTPUT_MULTIPLE))
        y = _convolve(self.conv, self.buffer, weight, None)[:, :outputs]
        pixels: Tensor = y + bias[:, None, None, None]
        return pixels

    def _weight(self) -> Tensor:
        weight: Tensor = self.conv.weight
        if self.is_first_frame:
            weight = weight[:, :, -1:].contiguous(memory_format=torch.channels_last_3d)
        return weight


def _convolve(conv: WanCausalConv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The frames of x as they are: padded in height and width only, which costs nothing inside of it."""
    width, _, height = conv._padding[:3]
    return F.conv3d(x, weight, bias, conv.stride, (0, height, width))


def _normed(
    norm: WanRMS_norm,
    x: Tensor,
    bias: Tensor | None,
    conv: WanCausalConv3d,
    cache: Cache | None,
    index: list[int] | None,
) -> _Room:
    """SiLU of the norm of x + bias, ready for a causal convolution whose own bias is left to a later pass."""
    slot, past = _next_slot(cache, index)
    room = _Room(conv, x, past)
    channel_norm.run(x, norm.gamma, silu=True, bias=bias, out=room.inside)
    if cache is not None:
        cache[slot] = room.last_frames()
    return room


def _convolve_first(conv: WanCausalConv3d, x: Tensor, cache: Cache | None, index: list[int] | None) -> Tensor:
    """A causal convolution of what comes without a norm."""
    slot, past = _next_slot(cache, index)
    room = _Room(conv, x, past)
    room.inside.copy_(x)
    if cache is not None:
        cache[slot] = room.last_frames()
    return room.convolve(conv.bias)


def _next_slot(cache: Cache | None, index: list[int] | None) -> tuple[int, Any]:
    """(place, content) of the next slot, which is taken; nothing without a cache."""
    if cache is None:
        return -1, None
    assert index is not None, "a cache without its index"
    slot = index[0]
    index[0] += 1
    return slot, cache[slot]


def _double_pixels(frames: Tensor) -> Tensor:
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


def _named(vae: AutoencoderKLWan, kind: type[nn.Module]) -> dict[str, Any]:
    return {name: module for name, module in vae.named_modules() if isinstance(module, kind)}


def _check_counts(vae: AutoencoderKLWan, num_blocks: int, num_upsamplers: int, num_attentions: int) -> None:
    config = vae.config
    levels, per_level = len(config.dim_mult), config.num_res_blocks
    found = {"residual": num_blocks, "upsampling": num_upsamplers, "attention": num_attentions}
    # each coder has a middle of two blocks and one attention; the decoder one block more on each level
    expected = {"residual": 4 + levels * (2 * per_level + 1), "upsampling": levels - 1, "attention": 2}
    wrong = [
        f"{found[kind]} {kind} blocks instead of {expected[kind]}"
        for kind in found
        if found[kind] != expected[kind]
    ]
    if wrong:
        raise SurgeryError(f"the autoencoder has {', '.join(wrong)}", fix=LIBRARY)


def _check_modules(vae: AutoencoderKLWan, blocks: dict[str, Any]) -> None:
    """Everything that the fast forwards leave out must be nothing."""
    activated = [*blocks.items(), ("encoder", vae.encoder), ("decoder", vae.decoder)]
    for name, module in activated:
        if not isinstance(module.nonlinearity, nn.SiLU):
            raise SurgeryError(f"{name} has the activation {module.nonlinearity}, not SiLU", fix=LIBRARY)
    for name, block in blocks.items():
        if block.dropout.p != 0:
            raise SurgeryError(f"{name} has dropout {block.dropout.p}, not 0", fix=LIBRARY)
    target = Target.of(vae.device) if vae.device.type == "cuda" else None
    for name, norm in _named(vae, WanRMS_norm).items():
        if isinstance(norm.bias, Tensor) or not norm.channel_first:
            raise SurgeryError(f"{name} has a bias, or its channels last", fix=LIBRARY)
        reason = target and channel_norm.supports(target, channels=norm.gamma.numel())
        if reason is not None:
            raise SurgeryError(f"{name}: {reason}", fix=LIBRARY)
