"""8-bit attention in plain torch: the exact path is the library's, each rounding is the kernels' own."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_denoise as tiny
import torch
from torch import Tensor

from engine.denoise.layers import BoundAttention
from engine.denoise.sampler import PrefixTimestep
from engine.generators.wan.denoiser import FastDenoiser
from engine.generators.wan.own_prefix import use_own_prefix
from engine.generators.wan.recipes import read_attention
from engine.quant.attention_error import WEIGHT_OFFSET, Projected, outputs, reason_against
from engine.quant.calibration import compare
from kernels.attention import fa3_fp8
from kernels.descriptors import AttentionProblem, Target
from kernels.fused import head_quant, qk_norm_rope
from kernels.fused.formats import FP8, dequantize, to_format
from kernels.reference import plain

ALL = 10_000


def projected(tokens: int = 200, heads: int = 2, size: int = 32, *, seed: int = 1) -> Projected:
    q, k, v = (tiny.random(1, tokens, heads * size, seed=seed + i) for i in range(3))
    angles = tiny.random(1, tokens, 1, size // 2, seed=9).repeat_interleave(2, dim=-1)
    weight = 1 + 0.2 * tiny.random(heads * size, seed=8)
    return Projected(
        q=q, k=k, v=v, norm_q=weight, norm_k=weight.flip(0), cos=angles.cos(), sin=angles.sin(),
        heads=heads, eps=1e-6,
    )  # fmt: skip


def test_the_exact_path_equals_the_library() -> None:
    module, seen = tiny.transformer(head_dim=16), []
    attention = module.blocks[1].attn1

    def keep(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        given = outputs(read_attention(layer, args, kwargs), None, ALL)
        seen.append((layer.to_out[0](given.transpose(1, 2).flatten(2)), output))

    attention.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        module(tiny.latents(), torch.tensor([500.0]), tiny.text(2)[:1])
    ((ours, expected),) = seen
    assert tiny.largest(ours, expected) < 1e-5


def test_of_a_prefix_that_looks_at_itself_alone_no_query_is_measured() -> None:
    """8-bit attention serves the queries behind it, over all keys: those of the prefix see fewer."""
    module, seen = tiny.transformer(head_dim=16), []
    latents = tiny.latents()
    frames = latents.shape[2]
    use_own_prefix(module, 1, frames)
    attention = module.blocks[1].attn1

    def keep(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        given = read_attention(layer, args, kwargs)
        for format in (None, "fp8", "int8", "sparse"):
            found = outputs(given, format, ALL)
            seen.append((layer.to_out[0](found.transpose(1, 2).flatten(2)), output))

    attention.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        module(latents, torch.tensor([500.0]), tiny.text(2)[:1])
    behind = [(ours, expected[:, expected.shape[1] // frames :]) for ours, expected in seen]
    assert all(ours.shape == expected.shape for ours, expected in behind)
    assert tiny.largest(*behind[0]) < 1e-5
    assert all(0 < compare(*pair)[1] < 0.1 for pair in behind[1:3])


def test_fp8_is_what_the_fused_path_feeds_to_a_kernel() -> None:
    """The forward with a kernel that takes E4M3, whose softmax is exact, against ours without rounded
    weights: the inputs are the same bits, so what is left is the rounding of the weights."""
    module, fed = tiny.transformer(num_layers=1, head_dim=16), []

    def quantized(q: Tensor, k: Tensor, v: Tensor, *scales: Tensor, scale: float) -> Tensor:
        q, k, v = (dequantize(x, s[:, :, None, None]) for x, s in zip((q, k, v), scales, strict=True))
        fed.append(plain(q, k, v, scale=scale))
        return fed[-1]

    low = BoundAttention(name="low", run=plain, quantized=quantized)
    wan = tiny.fast_wan(module, quantized_attention=low)
    denoiser, seen = FastDenoiser(wan, quantized_ranges=(((0.0, 1000.0),),)), []
    module.blocks[0].attn1.register_forward_pre_hook(
        lambda layer, args, kwargs: seen.append(outputs(read_attention(layer, args, kwargs), "fp8", ALL)),
        with_kwargs=True,
    )
    timestep: PrefixTimestep = tiny.at(500.0)
    with torch.no_grad():
        denoiser(tiny.latents(), timestep, denoiser.prepare(tiny.text()), branch="cond")
        tokens = timestep.per_token(torch.device("cpu"))
    # merging q, k and v leaves the library's layers as views of the merged weights
    with torch.no_grad():
        module(tiny.latents(), tokens, tiny.text())
    _, relative = compare(seen[0], fed[0])
    assert 0 < relative < FP8.relative_error


@pytest.mark.parametrize(("format", "least", "most"), [("fp8", 0.01, 0.06), ("int8", 0.001, 0.02)])
def test_errors_are_those_of_the_format(format: str, least: float, most: float) -> None:
    given = projected()
    cosine, relative = compare(outputs(given, format, ALL), outputs(given, None, ALL))
    assert least < relative < most and cosine > 0.998


def test_the_offset_keeps_small_weights() -> None:
    """Without it a weight below 2^-10 of the largest would be zero in E4M3."""
    small = torch.tensor([2.0**-12])
    assert to_format(small, FP8).float() == 0
    assert to_format(small * WEIGHT_OFFSET, FP8).float() / WEIGHT_OFFSET == small


@pytest.mark.gpu
def test_the_error_of_fp8_is_that_of_flash_attention_3() -> None:
    """Not bit by bit: the kernel rounds weights relative to the largest score so far, not of the row."""
    given = projected(tokens=1000, size=64)
    problem = AttentionProblem(
        batch=1, heads=2, q_len=1000, kv_len=1000, head_dim=64, dtype="bf16", mask="none",
        target=Target.of(torch.device("cuda")),
    )  # fmt: skip
    if reason := fa3_fp8.supports(problem):
        pytest.skip(f"fa3_fp8: {reason}")
    scales = [qk_norm_rope.static_scale(weight, 2) for weight in (given.norm_q, given.norm_k)]
    q, k = (
        qk_norm_rope.plain(x, weight, given.cos, given.sin, heads=2, eps=given.eps, scale=scale)
        for x, weight, scale in zip((given.q, given.k), (given.norm_q, given.norm_k), scales, strict=True)
    )
    v, v_scale = head_quant.plain(given.v.unflatten(2, (2, -1)))
    inputs = [x.cuda().transpose(1, 2) for x in (q, k, v)]
    ran = fa3_fp8.run_quantized(*inputs, *(s[None].cuda() for s in scales), v_scale.cuda(), scale=64**-0.5)
    exact = outputs(given, None, ALL)
    _, kernel = compare(ran.float().cpu(), exact)
    _, ours = compare(outputs(given, "fp8", ALL), exact)
    assert 0.75 < kernel / ours < 1.33


def test_queries_are_sampled_evenly() -> None:
    given = projected(tokens=90)
    whole = outputs(given, None, ALL)
    assert torch.allclose(outputs(given, None, 30), whole[:, :, ::3], atol=1e-6)


def test_an_outlier_in_the_values_costs_the_other_channels_of_its_head() -> None:
    calm, wild = projected(), projected()
    wild.v[..., 0] *= 3e5  # one scale a head: what is left of the others is below the smallest normal value

    def error(given: Projected, head: int) -> float:
        rounded, exact = (outputs(given, format, ALL)[:, head, :, 1:] for format in ("fp8", None))
        return compare(rounded, exact)[1]

    assert error(wild, 0) > 3 * error(calm, 0)
    assert error(wild, 1) == pytest.approx(error(calm, 1)), "another head has another scale"


def test_a_head_size_no_kernel_takes() -> None:
    assert reason_against(12, "fp8") == "head size 12 is not a multiple of 8"
    assert reason_against(12, "int8") is None and reason_against(64, "fp8") is None
