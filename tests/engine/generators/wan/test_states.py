"""Hidden states of Wan: our forward gives the library's, and no bit of a take depends on them."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_denoise as tiny
import torch
from tiny_wan import build_folder, edit
from tiny_wan_variants import build_anyflow, build_clip, build_i2v, build_vace
from torch import Tensor

from engine.api.takes import finish
from engine.denoise.assemble import Assembled, assemble
from engine.denoise.family import Shape
from engine.denoise.layers import BoundAttention
from engine.denoise.states import Observable, pooled
from engine.errors import ConfigError
from engine.generators.wan import denoiser as module
from engine.generators.wan import generator as wan
from engine.generators.wan.denoiser import FastDenoiser
from engine.generators.wan.eager import EagerDenoiser
from engine.generators.wan.family import WanFamily
from engine.generators.wan.own_prefix import use_own_prefix
from engine.generators.wan.prefix_keys import for_take
from engine.machine.memory import GRAPHS
from engine.settings.presets import PRESETS, DenoiseSettings
from engine.types import Prompt, Scenario, Video

torch.set_num_threads(1)

LAYERS = (0, 2)
PROMPT = Prompt(text="a red ball rolls to the right", negative="still", seed=7, revision=0)
FAST = DenoiseSettings(forward="fast", compile="off")
BUNDLED = Path(__file__).parents[4] / "engine/demo/models/generator"


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


def look(denoiser: Any, branch: str = "cond", prefix_frames: int = 1) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The velocity of a plain call, which is that of an observed one, and the states."""
    text = denoiser.prepare(tiny.text(2 if branch == "both" else 1))
    timestep = tiny.at(640.0, prefix_frames=prefix_frames)
    plain = denoiser(tiny.latents(), timestep, text, branch=branch)
    velocity, states = denoiser.observed(tiny.latents(), timestep, text, branch=branch, layers=LAYERS)
    assert torch.equal(velocity, plain), "states change no pixel"
    assert [tuple(one.shape) for one in states] == [(3, 24)] * len(LAYERS)
    return velocity, states


def close(ours: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(tiny.largest(a, b) < 1e-5 for a, b in zip(ours, expected, strict=True))


# --- what they are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix_frames", [0, 1])
@pytest.mark.parametrize("branch", ["cond", "both"])
def test_our_forward_gives_the_states_of_the_library(branch: str, prefix_frames: int) -> None:
    transformer = tiny.transformer()
    _, expected = look(EagerDenoiser(transformer), branch, prefix_frames)
    _, ours = look(tiny.fast(transformer), branch, prefix_frames)
    assert close(ours, expected) and not close(ours[:1], ours[1:])


def test_they_are_what_the_blocks_of_the_library_give_behind_the_prefix() -> None:
    transformer, seen = tiny.transformer(), list[Tensor]()
    handle = transformer.blocks[2].register_forward_hook(lambda m, i, out: seen.append(out))
    _, (_, states) = look(EagerDenoiser(transformer), "both")
    handle.remove()
    tokens = seen[-1][1, 16:]  # of the branch with the prompt, behind one frame of 4 x 4 tokens
    expected = torch.stack([tokens[:16].mean(0), tokens[16:].mean(0), tokens.std(0, correction=0)])
    assert torch.allclose(states, expected, atol=1e-6)


def test_no_hook_is_left_behind() -> None:
    transformer = tiny.transformer()
    look(EagerDenoiser(transformer))
    assert not any(part._forward_hooks for part in transformer.modules())
    with pytest.raises(IndexError):
        EagerDenoiser(transformer).observed(
            tiny.latents(), tiny.at(640.0), tiny.text(), branch="cond", layers=(0, 99)
        )
    assert not any(part._forward_hooks for part in transformer.modules()), "nor by a call that failed"


@pytest.mark.parametrize("way", ["own", "kept", "kept_later"])
def test_a_prefix_that_is_computed_once_leaves_the_states_of_noisy_tokens(way: str) -> None:
    """A kept prefix is exact in the step that it was made in, and near it in the same step asked again."""
    transformer = tiny.transformer()
    if way == "own":
        use_own_prefix(transformer, 1, tiny.FRAMES)
    _, expected = look(EagerDenoiser(transformer))
    take = for_take(tiny.fast(transformer), (640.0, 300.0), 0.0 if way == "own" else 1.0)
    assert isinstance(take, Observable)
    text = take.prepare(tiny.text())
    for _ in range(2 if way == "kept_later" else 1):
        _, states = take.observed(tiny.latents(), tiny.at(640.0), text, branch="cond", layers=LAYERS)
    assert close(states, expected)


# --- captured and compiled ----------------------------------------------------------------------------------


def test_a_graph_returns_them_and_one_without_them_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that replays: what a hook notes is not seen again."""

    class Replayed:
        made = 0

        def __init__(self, forward: Any, *, num_changing: int, pool: object) -> None:
            Replayed.made += 1
            self.forward, self.results = forward, None

        def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            self.results = self.results or self.forward(*tensors)
            return tuple(result.clone() for result in self.results)

    monkeypatch.setattr(module, "GraphedForward", Replayed)
    wan_module = tiny.fast_wan(tiny.transformer())
    graphed, plain = (FastDenoiser(wan_module, graphs=on) for on in (True, False))
    _, expected = look(plain)
    for _ in range(3):
        _, states = look(graphed)
        assert all(map(torch.equal, states, expected))
    assert Replayed.made == 2


def test_compiled_blocks_leave_them_too() -> None:
    """As they are compiled, with a backend that costs nothing; pooling is between the blocks."""
    torch._dynamo.reset()
    transformer = tiny.transformer(num_layers=3)
    made = tiny.fast(transformer)
    exact = BoundAttention(name="exact", run=torch.nn.functional.scaled_dot_product_attention)
    for block in made.wan.blocks:
        block.attention = block.quantized_attention = block.cross_attention = exact
        block.compile(fullgraph=True, dynamic=False, backend="eager")
    assert close(look(made)[1], look(EagerDenoiser(transformer))[1])
    torch._dynamo.reset()


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("preset", ["fast", "fastest"])
def test_on_a_gpu_graphs_and_compiled_blocks_give_them(tmp_path: Path, preset: str) -> None:
    """Velocities of an observed call are those of a plain one bit for bit, states of each replay its own."""
    transformer = tiny.transformer(num_layers=3, head_dim=64, ffn_dim=256)
    half = tiny.to_half(copy.deepcopy(transformer), "cuda")
    settings = dataclasses.replace(PRESETS[preset], linear="bf16", compile="on", graphs="on")
    shape = Shape(batch=2, tokens=48, text_tokens=tiny.TEXT_TOKENS)
    made = assemble(WanFamily(half), settings, shape, cache=tmp_path).denoiser
    oracle = EagerDenoiser(transformer)
    assert isinstance(made, Observable)
    for seed in (1, 2, 1):
        for branch, rows in (("both", 2), ("cond", 1)):
            latents, text = tiny.latents(seed), tiny.text(rows, seed=seed)
            _, expected = oracle.observed(
                latents, tiny.at(640.0), oracle.prepare(text), branch=branch, layers=LAYERS
            )
            prepared = made.prepare(text.cuda())
            plain = made(latents.cuda(), tiny.at(640.0), prepared, branch=branch)
            velocity, states = made.observed(
                latents.cuda(), tiny.at(640.0), prepared, branch=branch, layers=LAYERS
            )
            assert torch.equal(velocity, plain)
            for ours, theirs in zip(states, expected, strict=True):
                assert tiny.relative(ours.cpu(), theirs) < 0.05


# --- takes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder(tmp_path_factory.mktemp("models") / "wan")


def take(generator: wan.WanGenerator, scenario: Scenario, prompt: Prompt = PROMPT) -> Video:
    return finish(generator.start(scenario, prompt))


@pytest.mark.parametrize(
    "settings",
    [
        DenoiseSettings(),
        dataclasses.replace(FAST, prefix_kept=0.5, cfg_gate=0.5),
        dataclasses.replace(FAST, step_cache=0.34),
    ],
    ids=["library", "kept prefix", "extrapolated"],
)
def test_takes_are_bit_for_bit_the_same(folder: Path, scenario: Scenario, settings: DenoiseSettings) -> None:
    options: dict[str, Any] = {
        "device": "cpu",
        "dtype": "fp32",
        "denoise": settings,
        "num_inference_steps": 5,
    }
    without, with_states = (wan.load(folder, states=on, **options) for on in (False, True))
    assert without.sites is None and with_states.sites is not None
    plain, kept = (take(generator, scenario) for generator in (without, with_states))
    assert np.array_equal(plain.frames, kept.frames)
    assert plain.states is None and kept.states is not None
    assert kept.states.sites == with_states.sites
    steps = (0, 1, 2, 4) if settings.step_cache else (0, 1, 2, 3)
    assert kept.states.sites.steps == steps and kept.states.values.shape == (4, 2, 3, 24)
    assert np.array_equal(kept.states.values, take(with_states, scenario).states.values)  # type: ignore[union-attr]
    other = take(with_states, scenario, dataclasses.replace(PROMPT, seed=8)).states
    assert other is not None and not np.array_equal(kept.states.values, other.values)


@pytest.mark.parametrize("build", [build_i2v, build_vace], ids=["i2v", "vace"])
def test_variants_that_see_the_prefix_beside_the_latents(tmp_path: Path, build: Any) -> None:
    """All of their tokens are noisy; with hints of a control branch, what is looked at is before them."""
    folder, clip = build(tmp_path / "model"), build_clip(tmp_path / "clips")
    found = []
    for settings in (DenoiseSettings(), FAST):
        options: dict[str, Any] = {"device": "cpu", "dtype": "fp32", "denoise": settings}
        without, kept = (wan.load(folder, states=on, **options) for on in (False, True))
        made = take(kept, clip, PROMPT)
        assert np.array_equal(take(without, clip, PROMPT).frames, made.frames)
        assert made.states is not None
        found.append(made.states.values)
    assert np.abs(found[0] - found[1]).max() < 1e-4


def test_who_has_none_is_refused_by_name(tmp_path: Path, folder: Path) -> None:
    anyflow = build_anyflow(tmp_path / "anyflow")
    options: dict[str, Any] = {"device": "cpu", "dtype": "fp32", "states": True, "with_weights": False}
    with pytest.raises(
        ConfigError, match="AnyFlow-FAR keeps no hidden states: it denoises chunk after chunk"
    ):
        wan.load(anyflow, **options)

    class Exported:
        def prepare(self, text: Any) -> Any: ...

        def __call__(self, latents: Any, timestep: Any, text: Any, *, branch: str) -> Any: ...

    form = Assembled(denoiser=Exported(), notes={})
    with pytest.raises(ConfigError, match="an exported denoiser keeps no hidden states"):
        wan.load(folder, device="cpu", dtype="fp32", states=True, exported=form)


def test_an_early_end_leaves_the_steps_that_were_made(tmp_path: Path, scenario: Scenario) -> None:
    folder = build_folder(tmp_path / "wan")
    edit(folder, "retake.json", num_inference_steps=8)
    settings = dataclasses.replace(DenoiseSettings(), early_stop=1.0)
    generator = wan.load(folder, device="cpu", dtype="fp32", denoise=settings, states=True)
    assert generator.num_steps == 8
    states = take(generator, scenario).states
    assert states is not None and states.sites.steps == (0, 1, 2, 3)


def test_of_one_token_a_half_the_moments_are_numbers() -> None:
    assert pooled(torch.ones(1, 2, 3)).isfinite().all()


@pytest.mark.slow
def test_the_bundled_generator_makes_the_same_takes_and_different_states_of_other_seeds(
    tmp_path: Path,
) -> None:
    """In fp32 on the CPU, by both forwards."""
    clip, found = build_clip(tmp_path, fps=8.0), []
    for settings in (DenoiseSettings(), FAST):
        options: dict[str, Any] = {"device": "cpu", "dtype": "fp32", "denoise": settings}
        options["num_inference_steps"] = 3
        without, kept = (wan.load(BUNDLED, states=on, **options) for on in (False, True))
        made = take(kept, clip)
        assert np.array_equal(take(without, clip).frames, made.frames)
        other = take(kept, clip, dataclasses.replace(PROMPT, seed=8))
        assert made.states is not None and other.states is not None
        assert made.states.sites.steps == (0, 1, 2) and len(made.states.sites.layers) == 3
        assert np.abs(made.states.values - other.states.values).max() > 1e-3
        found.append(made.states.values)
    assert np.abs(found[0] - found[1]).max() < 1e-3 * np.abs(found[0]).max()


def test_graphs_with_states_are_planned_for(folder: Path) -> None:
    """Each has inputs of its own; without graphs nothing is held."""
    held = []
    for states in (False, True):
        settings = dataclasses.replace(FAST, graphs="on")
        options: dict[str, Any] = {"denoise": settings, "with_weights": False, "capability": (9, 0)}
        card = wan.load(folder, device="cuda", dtype="bf16", states=states, **options)
        held.append(card.footprint(card.spec).held[GRAPHS])
    settings = dataclasses.replace(FAST, graphs="off")
    none = wan.load(folder, device="cpu", dtype="fp32", denoise=settings, with_weights=False, states=True)
    assert held[1] > held[0] > 0 and GRAPHS not in none.footprint(none.spec).held
