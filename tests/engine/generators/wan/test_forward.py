"""The fast forward against the untouched library: exact in fp32, bounded in 8 bits, and what it remembers."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_denoise as tiny
import torch
from bounds import gemm_bound
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from torch import Tensor, nn

from engine.denoise.assemble import assemble
from engine.denoise.family import Shape
from engine.denoise.guidance import Guidance, GuidedText
from engine.denoise.layers import BoundAttention, ElementWise, bind, compile_blocks, quantized_range
from engine.denoise.sampler import PrefixSampler, read_schedule
from engine.generators.wan import denoiser as module
from engine.generators.wan.denoiser import FastDenoiser
from engine.generators.wan.eager import EagerDenoiser
from engine.generators.wan.family import WanFamily
from engine.generators.wan.forward import REMEMBERED_TIMES
from engine.generators.wan.recipes import wan_recipe
from engine.protocols import Denoiser
from engine.quant.surgery import quantize_linears
from engine.settings.presets import PRESETS

torch.set_num_threads(1)

OURS, PLAIN = bind("run"), bind("plain")

BUNDLED = Path(__file__).parents[4] / "engine/demo/models/generator/transformer"


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


def ask(denoiser: Denoiser, branch: str, prefix_frames: int = 1, patch_px: int = 1) -> Tensor:
    text = denoiser.prepare(tiny.text(2 if branch == "both" else 1))
    timestep = tiny.at(640.0, prefix_frames=prefix_frames, patch_px=patch_px)
    velocity = denoiser(tiny.latents(), timestep, text, branch=branch)
    assert isinstance(velocity, Tensor)
    return velocity


# --- equality -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("element_wise", [OURS, PLAIN], ids=["ours", "plain"])
@pytest.mark.parametrize("prefix_frames", [0, 1, 2])
@pytest.mark.parametrize("branch", ["cond", "both"])
@pytest.mark.parametrize("patch_px", [1, 2])
@pytest.mark.parametrize("cross_attn_norm", [True, False])
def test_equals_the_library_in_fp32(
    cross_attn_norm: bool, patch_px: int, branch: str, prefix_frames: int, element_wise: ElementWise
) -> None:
    transformer = tiny.transformer(cross_attn_norm=cross_attn_norm, patch_px=patch_px)
    expected = ask(EagerDenoiser(transformer), branch, prefix_frames, patch_px)
    ours = ask(tiny.fast(transformer, element_wise=element_wise), branch, prefix_frames, patch_px)
    assert ours.shape == expected.shape and ours.dtype == torch.float32
    assert tiny.largest(ours, expected) < 1e-5
    assert torch.equal(ask(EagerDenoiser(transformer), branch, prefix_frames, patch_px), expected)


def test_the_inputs_matter() -> None:
    """Guards the test above: each of prefix, timestep, text and latents must change the velocity."""
    denoiser = tiny.fast(tiny.transformer())
    text = denoiser.prepare(tiny.text())
    base = denoiser(tiny.latents(), tiny.at(640.0), text, branch="cond")
    for other in (
        denoiser(tiny.latents(), tiny.at(640.0, prefix_frames=2), text, branch="cond"),
        denoiser(tiny.latents(), tiny.at(600.0), text, branch="cond"),
        denoiser(tiny.latents(9), tiny.at(640.0), text, branch="cond"),
        denoiser(tiny.latents(), tiny.at(640.0), denoiser.prepare(tiny.text(seed=9)), branch="cond"),
    ):
        assert tiny.largest(other, base) > 1e-3


def test_in_bf16_it_errs_no_more_than_the_library() -> None:
    exact = ask(EagerDenoiser(tiny.transformer(head_dim=32, ffn_dim=128)), "both")
    half = tiny.to_half(tiny.transformer(head_dim=32, ffn_dim=128))
    theirs = ask(EagerDenoiser(half), "both")
    assert 1e-4 < tiny.relative(ask(tiny.fast(half), "both"), exact) < 1.25 * tiny.relative(theirs, exact)


def test_two_steps_of_the_bundled_generator_equal_the_library() -> None:
    transformer = WanTransformer3DModel.from_pretrained(BUNDLED, local_files_only=True).eval()
    schedule = read_schedule(FlowMatchEulerDiscreteScheduler(shift=5.0), 2)
    noise, prefix = tiny.random(1, 32, 5, 8, 8, seed=1), tiny.random(1, 32, 2, 8, 8, seed=2)
    text = GuidedText(cond=tiny.random(1, 12, 128, seed=3), uncond=tiny.random(1, 12, 128, seed=4))

    def denoise(denoiser: Denoiser) -> Tensor:
        sampler, guidance = PrefixSampler(schedule, noise, prefix, patch_px=1), Guidance(denoiser, text, 2.5)
        for step in range(2):
            sampler.advance(guidance.velocity(sampler.latents, sampler.timestep, step))
        return sampler.latents

    expected = denoise(EagerDenoiser(transformer))
    assert tiny.largest(denoise(tiny.fast(transformer)), expected) < 1e-5
    assert torch.equal(denoise(EagerDenoiser(transformer)), expected), "the library's forward is untouched"


# --- 8 bits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("element_wise", [OURS, PLAIN], ids=["ours", "plain"])
@pytest.mark.parametrize(("format", "bound"), [("fp8", 0.04), ("int8", 0.02)])
def test_8_bit_linear_layers(format: str, bound: float, element_wise: ElementWise) -> None:
    """`bound`: relative error of the velocity of a random transformer, about the error of one product."""
    transformer = tiny.transformer(num_layers=4, head_dim=32, ffn_dim=128)
    exact = ask(EagerDenoiser(transformer), "both")
    report = quantize_linears(transformer, wan_recipe(transformer), format, expect=2 * 8)
    assert len(report.formats) == 16 and set(report.formats.values()) == {format}
    expected = ask(EagerDenoiser(transformer), "both")
    ours = ask(tiny.fast(transformer, element_wise=element_wise), "both")
    error = tiny.relative(ours, exact)
    assert 1e-3 < error < bound
    assert tiny.relative(ours, expected) < 0.2 * error, "the same rounding as layer by layer"


# --- what is remembered -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 13.0, 640.5, 1000.0])
@pytest.mark.parametrize("prefix_frames", [0, 1])
def test_time_rows_equal_what_the_library_computes_for_every_token(value: float, prefix_frames: int) -> None:
    transformer = tiny.transformer()
    rows = tiny.fast_wan(transformer).time_rows(value, has_prefix=prefix_frames > 0)
    tokens = tiny.at(value, prefix_frames=prefix_frames).per_token(torch.device("cpu"))
    temb, projected, _, _ = transformer.condition_embedder(
        tokens.flatten(), tiny.text(), None, timestep_seq_len=tokens.shape[1]
    )
    row = [0] * (16 * prefix_frames) + [rows.block.shape[1] - 1] * (48 - 16 * prefix_frames)
    # Two rows here and one per token there, through sums of 16, 24 and 24 terms.
    bound = gemm_bound(torch.float32, 16 + 24 + 24, float(projected.abs().max()))
    torch.testing.assert_close(rows.block[:, row], projected.unflatten(2, (6, -1)), atol=bound, rtol=0)
    final = transformer.scale_shift_table[None] + temb[:, :, None]
    torch.testing.assert_close(rows.out[:, row], final, atol=bound, rtol=0)
    assert rows.block.shape[1] == (2 if prefix_frames else 1)


class Calls:
    """How often modules ran."""

    def __init__(self, *modules: nn.Module) -> None:
        self.count = 0
        for layer in modules:
            layer.register_forward_hook(self._note)

    def _note(self, module: nn.Module, inputs: object, output: object) -> None:
        self.count += 1


def test_time_rows_are_computed_once_and_forgotten_when_there_are_too_many() -> None:
    transformer = tiny.transformer()
    wan, calls = tiny.fast_wan(transformer), Calls(transformer.condition_embedder.time_embedder)
    for value in (1.0, 1.0, 2.0, 1.0):
        wan.time_rows(value, has_prefix=True)
    assert calls.count == 2
    wan.time_rows(1.0, has_prefix=False)
    assert calls.count == 3, "without a prefix there is one row"
    first = wan.time_rows(1.0, has_prefix=True).block.clone()
    for value in range(REMEMBERED_TIMES):
        wan.time_rows(10.0 + value, has_prefix=True)
    assert calls.count == 3 + REMEMBERED_TIMES
    assert torch.equal(wan.time_rows(1.0, has_prefix=True).block, first)  # the same call once more
    assert calls.count == 4 + REMEMBERED_TIMES, "the table has a limit"


def test_text_is_encoded_once_per_prepare_and_rotary_tables_once_per_shape() -> None:
    transformer = tiny.transformer(num_layers=3)
    denoiser = tiny.fast(transformer)
    keys = Calls(*(block.attn2.to_k for block in transformer.blocks))
    embedder, rotary = Calls(transformer.condition_embedder.text_embedder), Calls(transformer.rope)
    text = denoiser.prepare(tiny.text())
    for value in (900.0, 500.0, 100.0):
        denoiser(tiny.latents(), tiny.at(value), text, branch="cond")
    assert (embedder.count, keys.count, rotary.count) == (1, 3, 1)
    denoiser.prepare(tiny.text(seed=7))
    assert (embedder.count, keys.count) == (2, 6)


def test_another_shape_gets_its_own_rotary_tables() -> None:
    transformer = tiny.transformer()
    denoiser, eager = tiny.fast(transformer), EagerDenoiser(transformer)
    for frames, height, width in ((3, 4, 4), (3, 2, 8), (2, 4, 4), (3, 4, 4)):
        latents = tiny.random(1, tiny.CHANNELS, frames, height, width)
        timestep = replace(tiny.at(500.0), latent_frames=frames, tokens_per_frame=height * width)
        ours, expected = (
            d(latents, timestep, d.prepare(tiny.text()), branch="cond") for d in (denoiser, eager)
        )
        assert tiny.largest(ours, expected) < 1e-5


# --- 8-bit attention in the middle --------------------------------------------------------------------------


def test_the_low_range_leaves_out_both_ends() -> None:
    assert quantized_range(0.1, 0.2) == (200.0, 900.0)
    assert quantized_range(0.0, 0.0) == (0.0, 1000.0)


def test_quantized_attention_runs_at_the_middle_timesteps_only() -> None:
    used: list[str] = []

    def named(name: str) -> BoundAttention:
        def run(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
            used.append(name)
            out: Tensor = tiny.bound().run(q, k, v, scale=scale)
            return out

        return BoundAttention(name=name, run=run)

    wan = tiny.fast_wan(
        tiny.transformer(num_layers=1), attention=named("exact"), quantized_attention=named("low")
    )
    for levels in (((quantized_range(0.1, 0.2),),), None):
        denoiser = FastDenoiser(wan, quantized_ranges=levels)
        text = denoiser.prepare(tiny.text())
        for value in (950.0, 900.0, 500.0, 200.0, 150.0):
            denoiser(tiny.latents(), tiny.at(value), text, branch="cond")
    assert used == ["exact", "low", "low", "low", "exact"] + ["exact"] * 5


def test_each_block_has_its_own_ranges() -> None:
    used: list[str] = []

    def named(name: str) -> BoundAttention:
        def run(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
            used.append(name)
            out: Tensor = tiny.bound().run(q, k, v, scale=scale)
            return out

        return BoundAttention(name=name, run=run)

    wan = tiny.fast_wan(tiny.transformer(num_layers=3), attention=named("e"), quantized_attention=named("l"))
    denoiser = FastDenoiser(wan, quantized_ranges=((), ((0.0, 1000.0),), ((0.0, 200.0), (600.0, 1000.0))))
    text = denoiser.prepare(tiny.text())
    for value, expected in ((900.0, "ell"), (600.0, "ell"), (400.0, "ele"), (200.0, "ell"), (201.0, "ele")):
        used.clear()
        denoiser(tiny.latents(), tiny.at(value), text, branch="cond")
        assert "".join(used) == expected, value
    with pytest.raises(AssertionError, match="block by block"):
        FastDenoiser(wan, quantized_ranges=((),))


def test_a_graph_is_captured_for_every_combination_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal tensors, other kernels: a graph that did not know which blocks are low would replay the wrong."""
    made: list[object] = []
    pools: set[object] = set()

    class Eager:
        def __init__(self, forward: Any, *, num_changing: int, pool: object) -> None:
            made.append(self)
            pools.add(pool)
            self.forward = forward

        def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            out: tuple[Tensor, ...] = self.forward(*tensors)
            return out

    monkeypatch.setattr(module, "GraphedForward", Eager)
    half = BoundAttention(name="half", run=lambda q, k, v, *, scale: 0.5 * v)
    ranges = ((), ((0.0, 500.0),), ((0.0, 1000.0),))
    wan = tiny.fast_wan(tiny.transformer(num_layers=3), quantized_attention=half)
    graphed, plain = (FastDenoiser(wan, quantized_ranges=ranges, graphs=on) for on in (True, False))
    for value, num_graphs in ((900.0, 1), (300.0, 2), (800.0, 2), (100.0, 2)):
        ours, expected = (
            d(tiny.latents(), tiny.at(value), d.prepare(tiny.text()), branch="cond") for d in (graphed, plain)
        )
        assert torch.equal(ours, expected) and len(made) == num_graphs, value
    assert len(pools) == 1, "a lane replays them one after the other"


# --- compiled and replayed ----------------------------------------------------------------------------------


def test_every_variant_of_a_block_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """First, inner 8-bit and last block, one and two rows, both attentions: more than torch's own limit of 8.

    The backend "eager" keeps the graphs as they are, so that only tracing is paid for.
    """
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled(f, backend="eager", **options))
    torch._dynamo.reset()
    transformer = tiny.transformer(num_layers=3)
    quantize_linears(transformer, wan_recipe(transformer), "int8", expect=8)
    low = BoundAttention(name="low", run=nn.functional.scaled_dot_product_attention)
    exact = BoundAttention(name="exact", run=nn.functional.scaled_dot_product_attention)
    made = [tiny.fast_wan(transformer, attention=exact, quantized_attention=low) for _ in range(2)]
    for wan in made:
        for block in wan.blocks:
            block.cross_attention = exact
    compile_blocks(made[0].blocks)
    both = [FastDenoiser(wan, quantized_ranges=((quantized_range(0.1, 0.1),),) * 3) for wan in made]
    for rows, value in ((2, 990.0), (1, 990.0), (2, 500.0)):
        ours, expected = (
            d(
                tiny.latents(),
                tiny.at(value),
                d.prepare(tiny.text(rows)),
                branch="both" if rows == 2 else "cond",
            )
            for d in both
        )
        assert tiny.largest(ours, expected) < 1e-5
    torch._dynamo.reset()


def on_gpu(transformer: WanTransformer3DModel, preset: str, cache: Path, **changes: Any) -> Any:
    shape = Shape(batch=2, tokens=48, text_tokens=tiny.TEXT_TOKENS)
    settings = replace(PRESETS[preset], **changes)
    return assemble(WanFamily(copy.deepcopy(transformer)), settings, shape, cache=cache)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("preset", ["fast", "fastest"])
@pytest.mark.parametrize("linear", ["bf16", "auto"])
def test_compiled_and_replayed_equals_uncompiled(tmp_path: Path, preset: str, linear: str) -> None:
    transformer = tiny.transformer(num_layers=4, head_dim=64, ffn_dim=256)
    oracle = EagerDenoiser(transformer)
    half = tiny.to_half(copy.deepcopy(transformer), "cuda")
    slow = on_gpu(half, preset, tmp_path, linear=linear, compile="off", graphs="off")
    quick = on_gpu(half, preset, tmp_path, linear=linear, compile="on", graphs="on")
    assert slow.notes["attention"].split(" ")[0] == quick.notes["attention"].split(" ")[0]
    for value, rows, seed in ((990.0, 2, 1), (500.0, 2, 2), (990.0, 1, 3), (500.0, 1, 4), (500.0, 2, 5)):
        branch, text = ("both" if rows == 2 else "cond"), tiny.text(rows, seed=seed)
        latents = tiny.latents(seed)
        exact = oracle(latents, tiny.at(value), oracle.prepare(text), branch=branch)
        first, second = (
            made.denoiser(
                latents.cuda(), tiny.at(value), made.denoiser.prepare(text.cuda()), branch=branch
            ).cpu()
            for made in (slow, quick)
        )
        error = tiny.relative(first, exact)
        assert 0 < error < 0.15, slow.notes
        assert tiny.relative(second, exact) < 1.5 * error + 1e-3, quick.notes
        assert tiny.relative(second, first) < 2 * error
