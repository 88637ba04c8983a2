"""The prefix computed once: exact where it looks at itself alone, its price where it does not, and no state
that outlives a take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny_denoise as tiny
import torch
from tiny_wan import build_folder, build_scenario, edit
from torch import Tensor

from engine.api.takes import finish
from engine.denoise.guidance import Guidance, GuidedText
from engine.denoise.layers import BoundAttention, bind
from engine.generators.wan import flow_run
from engine.generators.wan import generator as wan
from engine.generators.wan.denoiser import FastDenoiser
from engine.generators.wan.eager import EagerDenoiser
from engine.generators.wan.forward import FastWan
from engine.generators.wan.memory import prefix_bytes
from engine.generators.wan.own_prefix import use_own_prefix
from engine.generators.wan.prefix_keys import (
    KeptPrefixDenoiser,
    OwnPrefixDenoiser,
    computing_steps,
    for_take,
    prefix_note,
)
from engine.generators.wan.recipes import WAN
from engine.quant.surgery import quantize_linears
from engine.settings.presets import DenoiseSettings
from engine.types import Prompt
from kernels.reference import plain

TIMES = (900.0, 640.0, 300.0, 100.0)
KEPT = 0.5
"""Of the noise levels: the steps 0 and 2 compute the prefix."""
PREFIX = 1

torch.set_num_threads(1)


def own(**given: Any) -> Any:
    transformer = tiny.transformer(**given)
    use_own_prefix(transformer, PREFIX, tiny.FRAMES)
    return transformer


def at_step(denoiser: Any, step: int, branch: str = "cond", text_seed: int = 2, seed: int = 1) -> Tensor:
    """The velocity behind the prefix at a step; each step has noise of its own behind one prefix."""
    latents = tiny.latents(seed)
    latents[:, :, PREFIX:] = tiny.latents(100 + step)[:, :, PREFIX:]
    with torch.no_grad():
        text = denoiser.prepare(tiny.text(2 if branch == "both" else 1, text_seed))
        velocity = denoiser(latents, tiny.at(TIMES[step]), text, branch=branch)
    assert isinstance(velocity, Tensor) and velocity.shape[2] == tiny.FRAMES
    return velocity[:, :, PREFIX:]


@pytest.mark.parametrize("element_wise", ["run", "plain"])
@pytest.mark.parametrize("branch", ["cond", "both"])
def test_a_prefix_of_its_own_is_exact_at_every_step(branch: str, element_wise: Any) -> None:
    transformer = own()
    oracle = EagerDenoiser(transformer)
    expected = [at_step(oracle, step, branch) for step in range(len(TIMES))]
    take = for_take(tiny.fast(transformer, element_wise=bind(element_wise)), TIMES, 0.0)
    assert isinstance(take, OwnPrefixDenoiser)
    for step, velocity in enumerate(expected):
        assert tiny.largest(at_step(take, step, branch), velocity) < 1e-5


def test_one_pass_over_the_prefix_serves_all_steps_branches_and_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transformer = own()
    fast = tiny.fast(transformer)
    tokens: list[int] = []
    through = FastWan._through_blocks

    def noted(wan: Any, h: Tensor, *args: Any, **options: Any) -> Any:
        tokens.append(h.shape[1])
        return through(wan, h, *args, **options)

    monkeypatch.setattr(FastWan, "_through_blocks", noted)
    take = for_take(fast, TIMES, 0.0)
    asked = [(0, "cond", 2), (0, "uncond", 5), (1, "both", 2), (2, "cond", 7)]
    for step, branch, text_seed in asked:
        found = at_step(take, step, branch, text_seed)
        assert tiny.largest(found, at_step(fast, step, branch, text_seed)) < 1e-5
    side = tiny.SIDE**2
    whole = tiny.FRAMES * side
    noisy = whole - PREFIX * side
    assert tokens == [PREFIX * side, noisy, whole, noisy, whole, noisy, whole, noisy, whole]


def test_takes_share_nothing() -> None:
    fast = tiny.fast(own())
    first, second = for_take(fast, TIMES, 0.0), for_take(fast, TIMES, 0.0)
    at_step(first, 0)
    other = at_step(second, 0, seed=9)
    assert tiny.largest(other, at_step(fast, 0, seed=9)) < 1e-5
    assert tiny.largest(other, at_step(first, 0)) > 1e-2


def test_8_bit_layers_and_attention_read_it_too() -> None:
    """The keys are kept before norm and rotation, so that every kernel finds them as it wants them."""
    transformer = own(num_layers=4, head_dim=16, ffn_dim=32)
    exact = EagerDenoiser(own(num_layers=4, head_dim=16, ffn_dim=32))
    quantize_linears(transformer, WAN, "fp8", expect=16)
    seen: list[tuple[int, ...]] = []

    def eight_bit(q: Tensor, k: Tensor, v: Tensor, *scales: Tensor, scale: float) -> Tensor:
        seen.append((q.shape[2], k.shape[2]))
        wide = (x.float() * s[:, :, None, None] for x, s in zip((q, k, v), scales, strict=True))
        return plain(*wide, scale=scale)

    low = BoundAttention(name="low", run=plain, quantized=eight_bit)
    ranges = (((0.0, 1000.0),),) * 4
    fast = FastDenoiser(tiny.fast_wan(transformer, quantized_attention=low), quantized_ranges=ranges)
    kept = at_step(for_take(fast, TIMES, 0.0), 1)
    noisy = (tiny.FRAMES - PREFIX) * tiny.SIDE**2
    assert set(seen) == {(noisy, tiny.FRAMES * tiny.SIDE**2)}, "the prefix alone is exact"
    assert tiny.relative(kept, at_step(exact, 1)) < 0.15


def test_a_kernel_for_a_prefix_is_told_where_it_ends() -> None:
    told: list[tuple[int, int, int]] = []

    def sparse(q: Tensor, k: Tensor, v: Tensor, *, scale: float, prefix: int) -> Tensor:
        told.append((q.shape[2], k.shape[2], prefix))
        return plain(q, k, v, scale=scale)

    low = BoundAttention(name="sparse", run=sparse, takes_prefix=True)
    ranges = (((0.0, 1000.0),),) * 3
    side = tiny.SIDE**2
    whole, noisy = tiny.FRAMES * side, (tiny.FRAMES - PREFIX) * side
    for transformer, queries in ((tiny.transformer(), whole), (own(), noisy)):
        fast = FastDenoiser(tiny.fast_wan(transformer, quantized_attention=low), quantized_ranges=ranges)
        told.clear()
        expected = at_step(EagerDenoiser(transformer), 0)
        assert tiny.largest(at_step(fast, 0), expected) < 1e-5
        assert told == [(queries, whole, side)] * 3
        told.clear()
        assert tiny.largest(at_step(for_take(fast, TIMES, KEPT), 0), expected) < 1e-5
        assert told == [(queries, whole, side)] * 3


# --- a prefix that looks at noisy tokens --------------------------------------------------------------------


def test_any_other_prefix_is_computed_again_where_so_much_noise_is_gone() -> None:
    transformer = tiny.transformer()
    fast = tiny.fast(transformer)
    take = for_take(fast, TIMES, KEPT)
    assert isinstance(take, KeptPrefixDenoiser)
    errors = [tiny.relative(at_step(take, step), at_step(fast, step)) for step in range(len(TIMES))]
    assert errors[0] == errors[2] == 0.0, "in these it is computed"
    assert 1e-3 < errors[1] < 0.5 and 1e-3 < errors[3] < 0.5, "in these it is that of the step before"
    assert at_step(take, 1).equal(at_step(fast, 1)), "it went back to more noise"


@pytest.mark.parametrize(
    ("kept", "steps"), [(0.0, (0, 1, 2, 3)), (0.2, (0, 1, 2, 3)), (KEPT, (0, 2)), (0.8, (0, 3)), (1.0, (0,))]
)
def test_the_prefix_is_computed_again_by_noise_levels(kept: float, steps: tuple[int, ...]) -> None:
    assert computing_steps(TIMES, kept) == steps


def test_what_is_kept_is_exact_for_the_step_that_it_is_of() -> None:
    """Asked again at the timestep and noise that it was made at, the tokens behind it read what they read."""
    fast = tiny.fast(tiny.transformer())
    take = for_take(fast, TIMES, 1.0)
    for branch in ("cond", "both"):
        first = at_step(take, 0, branch)
        assert tiny.largest(at_step(take, 0, branch), first) < 1e-5


def test_each_branch_has_its_own_and_a_step_that_was_left_out_makes_it_older(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast = tiny.fast(tiny.transformer())
    take = for_take(fast, TIMES, KEPT)
    made: list[tuple[float, str]] = []
    keeping = FastDenoiser.keeping

    def noted(self: Any, latents: Any, timestep: Any, text: Any, *, branch: str, layers: Any) -> Any:
        made.append((timestep.value, branch))
        return keeping(self, latents, timestep, text, branch=branch, layers=layers)

    monkeypatch.setattr(FastDenoiser, "keeping", noted)
    asked = [(0, "uncond"), (0, "cond"), (1, "cond"), (2, "cond"), (3, "uncond"), (3, "cond")]
    for step, branch in asked:  # the other branch was not asked at step 2, where both are computed
        at_step(take, step, branch)
    assert made == [(900.0, "uncond"), (900.0, "cond"), (300.0, "cond"), (100.0, "uncond")]


def test_blocks_are_traced_in_one_piece() -> None:
    """As they are compiled, with a backend that costs nothing."""
    transformer = own(num_layers=1)
    plain, traced = (for_take(tiny.fast(transformer), TIMES, 0.0) for _ in range(2))
    for block in traced._denoiser.wan.blocks:
        block.compile(fullgraph=True, dynamic=False, backend="eager")
    assert tiny.largest(at_step(traced, 0), at_step(plain, 0)) < 1e-5


def test_guidance_runs_over_it() -> None:
    """As a job does: batched and not, the same numbers."""
    found = []
    for batched in (True, False):
        take = for_take(tiny.fast(own()), TIMES, 0.0)
        text = GuidedText(cond=tiny.text(seed=2), uncond=tiny.text(seed=3))
        guidance = Guidance(take, text, 2.0, batched=batched)
        with torch.no_grad():
            found.append(guidance.velocity(tiny.latents(), tiny.at(TIMES[0]), 0)[:, :, PREFIX:])
    assert tiny.largest(found[0], found[1]) < 1e-5


def test_other_denoisers_are_left_as_they_are() -> None:
    eager, fast = EagerDenoiser(own()), tiny.fast(tiny.transformer())
    assert for_take(eager, TIMES, KEPT) is eager and for_take(fast, TIMES, 0.0) is fast
    assert prefix_note(eager, KEPT) is None and prefix_note(fast, 0.0) is None
    assert prefix_note(fast, KEPT) == "kept through 0.5 of the noise levels"
    assert prefix_note(tiny.fast(own()), KEPT) == "computed once a take"
    with pytest.raises(AssertionError, match="looks at noisy tokens"):
        fast.wan.own_prefix_keys(tiny.latents(), PREFIX)


def test_a_take_with_a_prefix_of_its_own_is_that_of_the_library(tmp_path: Path) -> None:
    folder = build_folder(tmp_path / "wan")
    edit(folder, "retake.json", prefix_attention="own")
    scenario, prompt = build_scenario(tmp_path), Prompt(text="a ball", negative="still", seed=1, revision=0)
    found = []
    for forward in ("library", "fast"):
        generator = wan.load(folder, device="cpu", dtype="fp32", denoise=DenoiseSettings(forward=forward))
        found.append(finish(generator.start(scenario, prompt)).frames.astype(int))
    assert abs(found[0] - found[1]).max() <= 1 and found[0].std() > 1


@pytest.mark.parametrize("attention", ["own", "all"])
def test_what_a_job_keeps_is_in_the_plan(tmp_path: Path, attention: str) -> None:
    folder = build_folder(tmp_path / "wan")
    edit(folder, "retake.json", prefix_attention=attention)
    settings = DenoiseSettings(forward="fast", prefix_kept=1.0)
    generator = wan.load(folder, device="cpu", dtype="fp32", denoise=settings)
    planned = prefix_bytes(generator.parts, generator.spec, settings, guided=generator.is_guided)
    told = {"own": "computed once a take", "all": "kept through 1 of the noise levels"}
    assert generator.notes["prefix"] == told[attention]
    assert generator.settings.prefix_kept == (0.0 if attention == "own" else 1.0)
    prompt = Prompt(text="a ball", negative="still", seed=1, revision=0)
    job = generator.start(build_scenario(tmp_path), prompt)
    takes: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_run, "for_take", lambda *given: takes.append(for_take(*given)) or takes[-1])
        job.launch()
        job.launch()
    (take,) = takes
    kept = [take._prefix] if attention == "own" else [keys for _, keys in take._kept.values()]
    assert planned == sum(tensor.nbytes for keys in kept for pair in keys.pairs for tensor in pair) > 0
    without = dataclasses.replace(settings, forward="library", prefix_kept=0.0)
    guided = {"guided": generator.is_guided}
    assert prefix_bytes(generator.parts, generator.spec, without, **guided) == 0
    exported = prefix_bytes(generator.parts, generator.spec, without, **guided, exported=True)
    assert exported == (planned if attention == "own" else 0)  # a package keeps the same, of its own prefix


@pytest.mark.gpu
@pytest.mark.parametrize("kept", [0.0, KEPT])
def test_graphs_replay_it(kept: float) -> None:
    transformer = tiny.to_half(tiny.transformer() if kept else own(), "cuda")
    wan = tiny.fast_wan(transformer)
    plain_take = for_take(FastDenoiser(wan), TIMES, kept)
    graphed = for_take(FastDenoiser(wan, graphs=True), TIMES, kept)
    for step in range(len(TIMES)):
        found = [on_gpu(take, step) for take in (plain_take, graphed)]
        assert tiny.relative(found[1], found[0]) < 1e-2


def on_gpu(denoiser: Any, step: int) -> Tensor:
    with torch.no_grad():
        text = denoiser.prepare(tiny.text().cuda())
        velocity: Tensor = denoiser(tiny.latents(step).cuda(), tiny.at(TIMES[step]), text, branch="cond")
    return velocity
