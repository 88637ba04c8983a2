"""Convolutions of a decoder's residual blocks in FP8: which, their weights and scales, and their input.

Before each stands silu(gamma sqrt(C) x / |x|), of which no element exceeds sqrt(C) max |gamma|, whatever the
video. That bound is the scale of the input: nothing is calibrated, nothing saturates, and frames that a
convolution looks back on were rounded alike. E4M3 is as fine for values of a hundredth of the bound, which
most are, as for the largest.
B batch . C channels . T frames . P frames a convolution looks back on (2, or 0) . H, W pixels
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResidualBlock, WanRMS_norm
from torch import Tensor, nn

from engine.autoencoder.causal_conv import NUM_CACHED, can_pair, pair_up, take_apart
from engine.autoencoder.library_modules import named, target_of
from engine.quant.recipes import SurgeryError
from kernels.conv import fp8
from kernels.descriptors import Target
from kernels.fused.formats import FP8, SMALLEST_AMAX


def fp8_convolutions(vae: AutoencoderKLWan) -> dict[str, str | None]:
    """Every convolution of the decoder's residual blocks, by its name in the untouched `vae`: None where it
    can be FP8 on the device of the weights, else the reason."""
    target = target_of(vae) or Target(kind="cpu", capability=None)
    return {
        f"{block}.{name}": _reason_against(getattr(module, name), target)
        for block, module in named(vae, WanResidualBlock).items()
        if block.startswith("decoder.")
        for name in ("conv1", "conv2")
    }


def _reason_against(conv: WanCausalConv3d, target: Target) -> str | None:
    if not can_pair(conv):
        return f"its taps are {tuple(conv.kernel_size)}, not 3 x 3 pixels at every position"
    return fp8.supports(target, channels=conv.in_channels, outputs=conv.out_channels)


def check_convolutions(vae: AutoencoderKLWan, names: Collection[str]) -> None:
    """SurgeryError unless all of `names` can be FP8."""
    known = fp8_convolutions(vae) if names else {}
    for name in names:
        reason = known.get(name, "no convolution of a residual block of this decoder has that name")
        if reason is not None:
            possible = [one for one, against in known.items() if against is None]
            raise SurgeryError(
                f"{name} cannot be FP8: {reason}", fix=f"name some of {', '.join(possible) or 'none'}"
            )


class Fp8Conv(nn.Module):
    """The causal convolution `conv` behind `norm` and SiLU, both operands in E4M3, sums and result as wide as
    they were; its bias is left to the pass that reads the result."""

    w8: Tensor
    scale: Tensor
    inverse: Tensor
    pairs8: Tensor | None
    pairs_scale: Tensor | None

    def __init__(self, conv: WanCausalConv3d, norm: WanRMS_norm, pairs: Tensor | None) -> None:
        """pairs: `paired_columns` of the weight, for even widths."""
        super().__init__()
        gamma = norm.gamma.detach().float()
        unit = (gamma.abs().amax() * gamma.numel() ** 0.5).clamp_min(SMALLEST_AMAX) / FP8.max
        self.looks_back = conv.kernel_size[0] - 1  # P
        self.register_buffer("inverse", (1.0 / unit).reshape(1), persistent=False)
        for weight, name, scale_name in ((conv.weight, "w8", "scale"), (pairs, "pairs8", "pairs_scale")):
            w8, scale = (None, None) if weight is None else fp8.quantize_weight(weight)
            self.register_buffer(name, w8, persistent=False)
            self.register_buffer(scale_name, None if scale is None else scale * unit, persistent=False)


class Fp8Input:
    """The input of one FP8 convolution with zeros around each frame: frames that it looks back on, then
    `inside`, which a caller fills with values times `inverse`."""

    def __init__(self, conv: Fp8Conv, x: Tensor, past: Tensor | None) -> None:
        """x [B, C, T, H, W] gives size and dtype; past: what `last_frames` gave, or None."""
        assert not (torch.is_grad_enabled() and x.requires_grad), (
            "the fused VAE has no gradient: use inference_mode, or the library's modules"
        )
        batch, channels, num_frames, height, width = x.shape
        num_known = 0 if past is None else past.shape[2]
        self.conv, self.dtype, self.inverse = conv, x.dtype, conv.inverse
        self.num_cached = min(NUM_CACHED, num_known + num_frames)
        self.is_paired = conv.pairs8 is not None and width % 2 == 0
        # at the very first frame the last tap in time is the whole convolution
        self.is_first_frame = past is None and num_frames == 1
        num_front = 0 if self.is_first_frame else conv.looks_back
        self.buffer = torch.empty(
            (batch, channels, num_front + num_frames, height + 2, width + 2),
            dtype=FP8.dtype,
            device=x.device,
            memory_format=torch.channels_last_3d,
        )
        codes = self.buffer.view(torch.uint8)
        codes[..., :: width + 1] = 0
        codes[..., :: height + 1, :] = 0
        codes[:, :, : num_front - num_known] = 0
        if past is not None:
            codes[:, :, num_front - num_known : num_front] = past.view(torch.uint8)
        self.inside = self.buffer[:, :, num_front:, 1:-1, 1:-1]

    def last_frames(self) -> Tensor:
        """A copy of at most two frames with their zeros, only those that were there: [B, C, 1 or 2, H + 2,
        W + 2] E4M3."""
        codes = self.buffer.view(torch.uint8)[:, :, -self.num_cached :]
        return codes.clone(memory_format=torch.channels_last_3d).view(FP8.dtype)

    def convolve(self, bias: None) -> Tensor:
        conv = self.conv
        if not self.is_paired:
            return fp8.run(self.buffer, self._taps(conv.w8), conv.scale, out_dtype=self.dtype)
        assert conv.pairs8 is not None and conv.pairs_scale is not None
        pairs = pair_up(self.buffer)
        return take_apart(fp8.run(pairs, self._taps(conv.pairs8), conv.pairs_scale, out_dtype=self.dtype))

    def _taps(self, w8: Tensor) -> Tensor:
        return w8[:, -1:].contiguous() if self.is_first_frame else w8
