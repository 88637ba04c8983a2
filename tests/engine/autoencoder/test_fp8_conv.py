"""FP8 convolutions of a decoder against torch's convolution of the rounded values, whole and in pieces."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm
from eight_bit import DEVICE, needs_triton, normal
from torch import Tensor
from torch.nn import functional as F

from engine.autoencoder.causal_conv import paired_columns
from engine.autoencoder.fp8_conv import Fp8Conv, Fp8Input, fp8_convolutions
from engine.autoencoder.vae import decode_pixels
from engine.autoencoder.vae_fused import FastResidualBlock, use_fused_vae
from engine.quant.recipes import SurgeryError
from kernels.conv import fp8
from kernels.fused import channel_norm
from kernels.fused.formats import FP8, quantize_rows, to_format

torch.set_num_threads(1)


def layers(channels: int = 32, outputs: int = 64) -> tuple[WanCausalConv3d, WanRMS_norm]:
    torch.manual_seed(0)
    conv = WanCausalConv3d(channels, outputs, 3, padding=1).to(DEVICE).requires_grad_(False)
    norm = WanRMS_norm(channels, images=False).to(DEVICE).requires_grad_(False)
    norm.gamma.copy_(1 + 0.3 * normal(*norm.gamma.shape, seed=1))
    return conv, norm


def rounded(weight: Tensor) -> Tensor:
    """What an FP8 weight stands for: [O, C, ...] with a scale for each output."""
    codes, scale = quantize_rows(weight.flatten(1), FP8)
    return (codes.float() * scale).view_as(weight)


def as_rounded(norm: WanRMS_norm, x: Tensor) -> Tensor:
    """silu(norm(x)) as it comes out of E4M3, with the bound of the norm as its scale."""
    unit = norm.gamma.abs().max() * norm.gamma.numel() ** 0.5 / FP8.max
    return to_format(F.silu(norm(x)) / unit, FP8).float() * unit


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("width", [3, 6])
@pytest.mark.parametrize("lengths", [(3,), (1, 2), (1, 1, 1, 2), (2, 3)])
def test_pieces_are_the_causal_convolution_of_rounded_values(
    lengths: tuple[int, ...], width: int, pairs: bool
) -> None:
    conv, norm = layers()
    made = Fp8Conv(conv, norm, paired_columns(conv.weight) if pairs else None)
    x = normal(2, 32, sum(lengths), 4, width, size=3.0).contiguous(memory_format=torch.channels_last_3d)
    past, found = None, []
    for frames in x.split(lengths, dim=2):
        padded = Fp8Input(made, frames, past)
        assert padded.is_paired == (pairs and width == 6)
        channel_norm.run(frames, norm.gamma, silu=True, out=padded.inside, inverse=padded.inverse)
        past = padded.last_frames()
        assert past.dtype == FP8.dtype and past.untyped_storage().nbytes() == past.numel()
        found.append(padded.convolve(None))
    exact = copy.deepcopy(conv)
    exact.weight.copy_(rounded(conv.weight))
    exact.bias.zero_()
    expected = exact(as_rounded(norm, x))
    # a value that falls on the other side of a tie moves an output by one step of E4M3
    torch.testing.assert_close(torch.cat(found, dim=2), expected, atol=0.02, rtol=0)
    assert (torch.cat(found, dim=2) - expected).norm() < 1e-3 * expected.norm()
    assert expected.std() > 0.2


def build(dtype: torch.dtype = torch.float32) -> AutoencoderKLWan:
    """Widths of the decoder: 64, 32, 32 and 16 channels."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=16,
        z_dim=4,
        dim_mult=[1, 2, 2, 4],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name.endswith(("gamma", "bias")):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return vae.to(DEVICE, dtype).eval().requires_grad_(False)


def possible(vae: AutoencoderKLWan) -> list[str]:
    return [name for name, reason in fp8_convolutions(vae).items() if reason is None]


def round_operands(vae: AutoencoderKLWan, names: list[str]) -> None:
    """Makes the untouched convolutions round as FP8 does."""

    def hook(norm: WanRMS_norm) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
        """Of the input, and of the frames that the library keeps unrounded."""
        unit = norm.gamma.abs().max() * norm.gamma.numel() ** 0.5 / FP8.max

        def of(values: Any) -> Any:
            return to_format(values / unit, FP8).float() * unit if isinstance(values, Tensor) else values

        return lambda _, given: tuple(of(values) for values in given)

    for name in names:
        conv = vae.get_submodule(name)
        conv.weight.copy_(rounded(conv.weight))
        conv.register_forward_pre_hook(hook(vae.get_submodule(name.replace("conv", "norm"))))


@torch.no_grad()
def test_a_decoder_is_that_of_the_library_with_rounded_operands() -> None:
    vae = build()
    names = possible(vae)
    reasons = [reason for reason in fp8_convolutions(vae).values() if reason is not None]
    assert len(names) + len(reasons) == 2 * (2 + 4 * 2) and 0 < len(reasons) < 8
    assert all("channels are no multiple of 32" in reason for reason in reasons)
    latents = normal(1, 4, 4, 3, 4, seed=2)
    exact, fast, other = (decode_pixels(vae, latents, clamp=False), copy.deepcopy(vae), copy.deepcopy(vae))
    round_operands(other, names)
    expected = decode_pixels(other, latents, clamp=False)
    use_fused_vae(fast, fp8=names)
    ours = decode_pixels(fast, latents, clamp=False)
    assert (ours - expected).norm() < 0.1 * (ours - exact).norm()
    assert 0.001 < (ours - exact).norm() / exact.norm() < 0.1
    for chunk_latents in (1, 2):
        pieces = decode_pixels(fast, latents, chunk_latents, clamp=False)
        assert (pieces - ours).norm() < 0.1 * (ours - exact).norm()


@torch.no_grad()
def test_without_a_name_nothing_is_rounded() -> None:
    vae = build()
    fast, other = copy.deepcopy(vae), copy.deepcopy(vae)
    use_fused_vae(fast, fp8=[])
    use_fused_vae(other, fp8=possible(vae)[:1])
    blocks = [module for module in fast.modules() if isinstance(module, FastResidualBlock)]
    assert blocks and all(block.fp8_1 is None and block.fp8_2 is None for block in blocks)
    assert sum(isinstance(module, Fp8Conv) for module in other.modules()) == 1
    assert not any(isinstance(module, Fp8Conv) for module in other.encoder.modules())
    assert set(fast.state_dict()) == set(other.state_dict()) == set(vae.state_dict())


def test_what_cannot_be_is_refused_before_anything_changes() -> None:
    vae = build()
    for name, message in (
        ("decoder.up_blocks.3.resnets.0.conv1", "16 input channels are no multiple of 32"),
        ("decoder.conv_out", "no convolution of a residual block"),
        ("encoder.mid_block.resnets.0.conv1", "no convolution of a residual block"),
    ):
        with pytest.raises(SurgeryError, match=message) as refusal:
            use_fused_vae(vae, fp8=[possible(vae)[0], name])
        assert possible(vae)[0] in str(refusal.value.fix)
    assert not any(isinstance(module, FastResidualBlock) for module in vae.modules())


@needs_triton
@torch.no_grad()
def test_with_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts and sizes are those that the kernels take; one level, since the interpreter is slow."""
    vae = build()
    names = [name for name in possible(vae) if "mid_block" in name]
    latents = normal(1, 4, 2, 2, 2, seed=2)
    fast = copy.deepcopy(vae)
    use_fused_vae(fast, fp8=names)
    expected = decode_pixels(fast, latents, 1, clamp=False)
    convolved: list[Tensor] = []

    def run(x8: Tensor, w8: Tensor, scale: Tensor, *, out_dtype: torch.dtype) -> Tensor:
        arguments = fp8.Arguments(x8, w8, scale, out_dtype=out_dtype)
        fp8._check(arguments)
        convolved.append(x8)
        return fp8.launch(x8, w8, scale, out_dtype=out_dtype)

    def norm(x: Tensor, gamma: Tensor, *, inverse: Any = None, **terms: Any) -> Tensor:
        function = channel_norm.plain if inverse is None else channel_norm.launch
        return function(x, gamma, inverse=inverse, **terms)

    monkeypatch.setattr(fp8, "run", run)
    monkeypatch.setattr(channel_norm, "run", norm)
    found = decode_pixels(fast, latents, 1, clamp=False)
    assert len(convolved) == 4  # the decoder takes the first frame along: one piece
    assert (found - expected).norm() < 0.01 * expected.norm()


@pytest.mark.gpu
@torch.inference_mode()
def test_wan_size() -> None:
    """The real widths on a small picture: as far from fp32 as the same rounding in plain torch, twice at
    most, since sums stay in the tensor cores."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan().to(DEVICE, torch.bfloat16).eval().requires_grad_(False)
    latents = torch.randn(1, 16, 5, 12, 20, device=DEVICE, dtype=torch.bfloat16)
    exact = copy.deepcopy(vae).float().decode(latents.float()).sample
    simulated = copy.deepcopy(vae).float()
    names = possible(vae)
    assert len(names) == 28
    round_operands(simulated, names)
    neighbour = (simulated.decode(latents.float()).sample - exact).norm() / exact.norm()
    use_fused_vae(vae, fp8=names)
    for chunk_latents in (1, 4):
        ours = decode_pixels(vae, latents, chunk_latents)
        error = (ours.float() - exact).norm() / exact.norm()
        assert error <= 2 * neighbour, f"{error} against {neighbour}"
