"""The fast coders against the untouched autoencoder of the same weights: pixels, latents, cache, refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock
from eight_bit import DEVICE, needs_triton
from tiny_wan import LATENT_CHANNELS, build_autoencoder
from torch import Tensor, nn
from torch.nn import functional as F

from engine.autoencoder.vae import _empty_cache, decode_in_chunks, decode_pixels, encode_moments
from engine.autoencoder.vae_fused import FastDecoder, FastResidualBlock, use_fused_vae
from engine.quant.recipes import SurgeryError
from kernels.fused import channel_norm

torch.set_num_threads(1)


def build(*, residual: bool, dtype: torch.dtype = torch.float32) -> AutoencoderKLWan:
    """Weights of which no gamma is one and no bias small, so that each of them shows."""
    torch.manual_seed(0)
    vae = build_autoencoder(residual=residual, blocks_per_level=2)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name.endswith(("gamma", "bias")):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return vae.to(DEVICE, dtype).requires_grad_(False)


WIDTHS = frozenset({4, 6, 8, 16})
"""Most numbers of channels in these autoencoders: convolutions from and to them can be paired."""


@pytest.fixture(scope="module", params=[(False, False), (True, False), (False, True), (True, True)])
def pair(request: pytest.FixtureRequest) -> tuple[AutoencoderKLWan, AutoencoderKLWan]:
    """(the library's, ours)"""
    residual, paired = request.param
    vae = build(residual=residual)
    fast = copy.deepcopy(vae)
    # residual blocks of both coders, upsamplers, attentions, coders
    count = use_fused_vae(fast, merge_upsampling=paired, paired=WIDTHS if paired else frozenset())
    assert count == (2 + 4 * 3) + (2 + 4 * 2) + 3 + 2 + 2
    blocks = [module for module in fast.modules() if isinstance(module, FastResidualBlock)]
    assert any(block.pairs1 is not None and block.pairs2 is not None for block in blocks) == paired
    assert (fast.decoder.out_pairs is not None) == paired
    # each of four levels is a sequence of two blocks in the encoder and of three in the decoder; without the
    # residuals of levels, the norm behind the last block of all sums up as well
    assert sum(block.defers_sum for block in blocks) == 4 * 1 + 4 * 2 + (not residual)
    return vae, fast


def random_pixels(num_frames: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(batch, 3, num_frames, 32, 48, generator=generator) * 2 - 1).to(DEVICE)


def random_latents(latent_frames: int, batch: int = 2, size: tuple[int, int] = (4, 6)) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, LATENT_CHANNELS, latent_frames, *size, generator=generator).to(DEVICE)


@pytest.mark.parametrize("chunk_latents", [0, 1, 2, 3])
@torch.no_grad()
def test_pixels_and_latents_are_those_of_the_library(
    pair: tuple[AutoencoderKLWan, AutoencoderKLWan], chunk_latents: int
) -> None:
    vae, fast = pair
    latents, pixels = random_latents(5), random_pixels(17)
    expected = vae.decode(latents).sample
    assert expected.std() > 0.01 and (expected[:, :, 1:] != expected[:, :, :-1]).any()
    torch.testing.assert_close(decode_pixels(fast, latents, chunk_latents), expected, atol=1e-5, rtol=1e-5)
    moments = vae.encode(pixels).latent_dist.parameters
    torch.testing.assert_close(encode_moments(fast, pixels, chunk_latents), moments, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def long(pair: tuple[AutoencoderKLWan, AutoencoderKLWan]) -> tuple[Tensor, Tensor]:
    """Latents of 85 small frames, and the frames of our decoder in chunks of 16."""
    latents = random_latents(22, batch=1, size=(2, 3))
    with torch.no_grad():
        return latents, torch.cat(list(decode_in_chunks(pair[1], latents, 4)), dim=2)


@pytest.mark.parametrize("first_frame", [1, 24, 57, 60, 85])
@torch.no_grad()
def test_frames_that_nobody_wants_are_not_made_and_change_no_bit_of_the_others(
    pair: tuple[AutoencoderKLWan, AutoencoderKLWan],
    long: tuple[Tensor, Tensor],
    first_frame: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vae, fast = pair
    latents, whole = long
    depths = []

    def counted(*given: Any, num_blocks: int, **named: Any) -> Any:
        depths.append(num_blocks)
        return FastDecoder.forward(fast.decoder, *given, num_blocks=num_blocks, **named)

    monkeypatch.setattr(fast.decoder, "forward", counted)
    chunks = list(decode_in_chunks(fast, latents, 4, first_frame=first_frame))
    assert torch.equal(torch.cat(chunks, dim=2), whole[:, :, first_frame:])
    # chunks end at 17, 33, 49, 65, 81 and 85; the last two of four blocks look back on 26 and 14 frames
    expected = [2 + (end > first_frame - 26) + (end > first_frame - 14) for end in (17, 33, 49, 65, 81, 85)]
    assert depths == expected and (first_frame < 57 or min(depths) < 4)
    library = list(decode_in_chunks(vae, latents, 4, first_frame=first_frame))
    torch.testing.assert_close(torch.cat(library, dim=2), whole[:, :, first_frame:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_loops_of_the_library_run_on_them(pair: tuple[AutoencoderKLWan, AutoencoderKLWan]) -> None:
    vae, fast = pair
    latents, pixels = random_latents(3), random_pixels(9)
    torch.testing.assert_close(fast.decode(latents).sample, vae.decode(latents).sample, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        fast.encode(pixels).latent_dist.parameters,
        vae.encode(pixels).latent_dist.parameters,
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("lengths", [(1, 1, 1, 1), (1, 2, 1), (1, 3)])
@torch.no_grad()
def test_every_slot_of_the_cache_is_the_same(
    pair: tuple[AutoencoderKLWan, AutoencoderKLWan], lengths: tuple[int, ...]
) -> None:
    latents = random_latents(sum(lengths))
    pixels = random_pixels(1 + 4 * (sum(lengths) - 1))
    if pair[0].config.patch_size is not None:
        pixels = F.pixel_unshuffle(pixels.movedim(2, 1), 2).movedim(1, 2)  # any 12 channels will do
    for coder, inputs, stride in (("decoder", latents, 1), ("encoder", pixels, 4)):
        modules = [getattr(vae, coder) for vae in pair]
        caches = [_empty_cache(module) for module in modules]
        position = 0
        for length in lengths:
            size = 1 if position == 0 else stride * length
            for module, cache in zip(modules, caches, strict=True):
                index = [0]
                first = {"first_chunk": position == 0} if coder == "decoder" else {}
                module(inputs[:, :, position : position + size], feat_cache=cache, feat_idx=index, **first)
                assert index[0] <= len(cache)
            assert_same_slots(*caches)
            position += size


@torch.no_grad()
def test_a_first_pass_of_several_frames_leaves_the_same_cache(
    pair: tuple[AutoencoderKLWan, AutoencoderKLWan],
) -> None:
    vae, fast = pair
    latents = random_latents(3)
    expected, actual = _empty_cache(vae.decoder), _empty_cache(fast.decoder)
    for first, frames in ((True, latents[:, :, :1]), (False, latents[:, :, 1:])):
        vae.decoder(frames, feat_cache=expected, feat_idx=[0], first_chunk=first)
    fast.decoder(latents, feat_cache=actual, feat_idx=[0], first_chunk=True)
    assert_same_slots(expected, actual)


def assert_same_slots(expected: list[Any], actual: list[Any]) -> None:
    for one, other in zip(expected, actual, strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
            with_margins = other.numel() // other.shape[-1] * (other.shape[-1] + 2)
            sizes = {size * other.element_size() for size in (other.numel(), with_margins)}
            assert other.untyped_storage().nbytes() in sizes, "keeps a buffer"
        else:
            assert one == other


@torch.no_grad()
def test_without_a_cache() -> None:
    """Time is not doubled then, which the residual layout of the library does not survive."""
    vae = build(residual=False)
    latents = random_latents(3)
    expected = vae.decoder(latents)
    use_fused_vae(vae)
    torch.testing.assert_close(vae.decoder(latents), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("paired", [frozenset(), WIDTHS])
@torch.no_grad()
def test_bf16_is_as_close_to_fp32_as_the_library(residual: bool, merge: bool, paired: frozenset[int]) -> None:
    vae = build(residual=residual, dtype=torch.bfloat16)
    latents = random_latents(3).bfloat16()
    exact = decode_pixels(copy.deepcopy(vae).float(), latents.float(), clamp=False)
    library = decode_pixels(vae, latents, clamp=False)
    use_fused_vae(vae, merge_upsampling=merge, paired=paired)
    ours = decode_pixels(vae, latents, 2, clamp=False)
    assert ours.dtype == torch.bfloat16
    error, neighbour = ((x.float() - exact).norm() / exact.norm() for x in (ours, library))
    assert error <= 1.2 * neighbour, f"{error} against {neighbour}"


@torch.no_grad()
def test_an_odd_width_is_paired_where_it_has_become_even() -> None:
    vae = build(residual=False)
    latents = random_latents(3)[..., :5]
    shown = vae.decode(latents).sample
    use_fused_vae(vae, merge_upsampling=True, paired=WIDTHS)
    torch.testing.assert_close(decode_pixels(vae, latents), shown, atol=1e-5, rtol=1e-5)


@needs_triton
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("paired", [frozenset(), WIDTHS])
@torch.no_grad()
def test_with_the_kernels(residual: bool, paired: frozenset[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The layouts are those that the kernels take without a copy, given convolutions as on a GPU."""
    calls: list[Tensor] = []
    conv3d, conv2d = F.conv3d, F.conv2d

    def last(*inputs: Any, **options: Any) -> Tensor:
        return conv3d(*inputs, **options).contiguous(memory_format=torch.channels_last_3d)

    def last_pictures(*inputs: Any, **options: Any) -> Tensor:
        return conv2d(*inputs, **options).contiguous(memory_format=torch.channels_last)

    def norm(x: Tensor, gamma: Tensor, *, residual: Any = None, **terms: Any) -> Tensor:
        calls.append(x)
        for read in (x, x if residual is None else residual):
            assert channel_norm._is_rows(read), (read.shape, read.stride())
        return channel_norm.launch(x, gamma, residual=residual, **terms)

    def add(y: Tensor, bias: Any, residual: Tensor) -> Tensor:
        assert channel_norm._is_rows(residual), (residual.shape, residual.stride())
        return channel_norm.launch_residual(y, bias, residual)

    def both(y: Tensor, bias: Any, residual: Tensor, gamma: Tensor, **terms: Any) -> Tensor:
        calls.append(y)
        assert channel_norm._is_rows(residual), (residual.shape, residual.stride())
        return channel_norm.launch_both(y, bias, residual, gamma, **terms)

    vae = build(residual=residual)
    latents = random_latents(3, batch=1, size=(2, 3))  # the interpreter is slow
    expected = decode_pixels(vae, latents)
    use_fused_vae(vae, paired=paired, merge_upsampling=False)
    monkeypatch.setattr(F, "conv3d", last)
    monkeypatch.setattr(F, "conv2d", last_pictures)
    monkeypatch.setattr(channel_norm, "run", norm)
    monkeypatch.setattr(channel_norm, "add_residual", add)
    monkeypatch.setattr(channel_norm, "add_and_norm", both)
    torch.testing.assert_close(decode_pixels(vae, latents, 1), expected, atol=1e-5, rtol=1e-5)
    num_norms = 2 * (2 + 4 * 3) + 1 + 1
    assert len(calls) == 2 * num_norms  # two latent frames, then one


def test_parameters_keep_their_names_and_copies_are_independent() -> None:
    vae = build(residual=False)
    names = [name for name, _ in vae.named_parameters()]
    fast = copy.deepcopy(vae)
    use_fused_vae(fast)
    assert [name for name, _ in fast.named_parameters()] and set(names) == set(fast.state_dict())
    assert any(isinstance(module, WanResidualBlock) for module in vae.modules())
    other = copy.deepcopy(fast)
    nn.init.zeros_(other.decoder.conv_out.weight)
    assert fast.decoder.conv_out.weight.any()


def test_a_gradient_is_refused() -> None:
    vae = build(residual=False).requires_grad_(True)
    use_fused_vae(vae)
    with pytest.raises(AssertionError, match="no gradient"):
        next(decode_in_chunks(vae, random_latents(1)))


def test_what_is_not_expected_is_refused_before_anything_changes() -> None:
    vae = build(residual=False)
    use_fused_vae(vae)
    with pytest.raises(SurgeryError, match="0 residual blocks instead of 24"):
        use_fused_vae(vae)
    for change, message in (
        (lambda block: setattr(block, "nonlinearity", nn.GELU()), "activation GELU"),
        (lambda block: setattr(block, "dropout", nn.Dropout(0.1)), "dropout 0.1"),
        (lambda block: setattr(block.norm1, "bias", nn.Parameter(torch.zeros(4))), "norm1 has a bias"),
    ):
        vae = build(residual=False)
        change(vae.decoder.mid_block.resnets[0])
        with pytest.raises(SurgeryError, match=message):
            use_fused_vae(vae)
        assert isinstance(vae.decoder.mid_block.resnets[0], WanResidualBlock)


@pytest.mark.gpu
@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("paired", [frozenset(), frozenset({96})])
@torch.inference_mode()
def test_wan_size(merge: bool, paired: frozenset[int]) -> None:
    """The real widths on a small picture; chunks of both kinds."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan().to(DEVICE, torch.bfloat16).eval().requires_grad_(False)
    latents = torch.randn(1, 16, 5, 12, 20, device=DEVICE, dtype=torch.bfloat16)
    exact = copy.deepcopy(vae).float().decode(latents.float()).sample
    library = vae.decode(latents).sample
    use_fused_vae(vae, merge_upsampling=merge, paired=paired)
    for chunk_latents in (1, 4):
        ours = decode_pixels(vae, latents, chunk_latents)
        error, neighbour = ((x.float() - exact).norm() / exact.norm() for x in (ours, library))
        assert error <= 1.2 * neighbour, f"{error} against {neighbour}"
