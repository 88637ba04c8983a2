"""The fast forward of Cosmos3 against the library's full forward: exact in fp32, bounded in 8 bits."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_cosmos3 as tiny
import tiny_denoise
import torch
from torch import Tensor

from engine.denoise.assemble import assemble
from engine.denoise.family import Shape
from engine.denoise.guidance import BOTH, COND
from engine.denoise.layers import BoundAttention, ElementWise, bind, compile_blocks, quantized_range
from engine.generators.cosmos3.eager import EagerDenoiser
from engine.generators.cosmos3.family import Cosmos3Family
from engine.generators.cosmos3.forward import Cosmos3Denoiser, FastCosmos3, patchify, unpatchify
from engine.generators.cosmos3.recipes import cosmos3_recipe
from engine.quant.surgery import quantize_linears
from engine.settings.presets import DenoiseSettings
from kernels.attention import triton_prefix_sparse

torch.set_num_threads(1)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OURS, PLAIN = bind("run"), bind("plain")

LAYOUTS = pytest.mark.parametrize("layout", [tiny.SUPER, tiny.EDGE], ids=["super", "edge"])
PASSES = pytest.mark.parametrize("element_wise", [OURS, PLAIN], ids=["ours", "plain"])


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


def fast(
    model: Any,
    element_wise: ElementWise = OURS,
    attention: BoundAttention | None = None,
    quantized: BoundAttention | None = None,
    fps: float = tiny.FPS,
) -> FastCosmos3:
    return FastCosmos3(
        model,
        fps=fps,
        element_wise=element_wise,
        attention=attention or tiny_denoise.bound(),
        quantized_attention=quantized,
    )


def ask(model: FastCosmos3, *, prefix: int = 1, value: float = 640.0, text: Tensor | None = None) -> Tensor:
    denoiser = Cosmos3Denoiser(model)
    prompt = denoiser.prepare(tiny.token_ids() if text is None else text)
    return denoiser(tiny.latents(), tiny.at(value, prefix_frames=prefix), prompt, branch=COND)


def expect(model: Any, *, prefix: int = 1, value: float = 640.0) -> Tensor:
    return tiny.library(model, tiny.latents(), tiny.token_ids(), tiny.at(value, prefix_frames=prefix))


@LAYOUTS
@PASSES
@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_equals_the_library_in_fp32(layout: dict[str, Any], element_wise: ElementWise, prefix: int) -> None:
    model = tiny.transformer(layout)
    expected = expect(model, prefix=prefix)
    ours = ask(fast(model, element_wise), prefix=prefix)
    assert ours.shape == expected.shape and ours.dtype == torch.float32
    assert tiny_denoise.largest(ours, expected) < 1e-5
    assert not ours[:, :, :prefix].any() and ours[:, :, prefix:].abs().min() > 0
    assert torch.equal(expect(model, prefix=prefix), expected), "the library's forward is untouched"


def test_biases_of_the_attention_are_not_forgotten() -> None:
    model = tiny.transformer(attention_bias=True)
    for name, parameter in model.named_parameters():
        if "self_attn" in name and name.endswith("bias"):
            parameter.data.normal_()
    assert tiny_denoise.largest(ask(fast(model)), expect(model)) < 1e-5


def test_the_inputs_matter() -> None:
    """Guards the tests above: prefix, timestep, text and its length, and frame rate change the velocity."""
    model = tiny.transformer()
    made = fast(model)
    base = ask(made)
    for other in (
        ask(made, value=600.0),
        ask(made, text=tiny.token_ids(seed=9)),
        ask(made, text=tiny.token_ids(6)),
        ask(fast(model, fps=24.0)),
        ask(made, prefix=2),
    ):
        assert tiny_denoise.largest(other[:, :, 2:], base[:, :, 2:]) > 1e-5


def test_in_bf16_it_errs_no_more_than_the_library() -> None:
    exact = expect(tiny.transformer())
    half = tiny.transformer()
    for name, parameter in half.named_parameters():
        if "time_embedder" not in name:
            parameter.data = parameter.data.bfloat16()
    theirs = tiny_denoise.relative(expect(half), exact)
    assert 1e-4 < tiny_denoise.relative(ask(fast(half)), exact) < 1.25 * theirs


@LAYOUTS
@PASSES
@pytest.mark.parametrize(("format", "bound"), [("fp8", 0.04), ("int8", 0.02)])
def test_8_bit_linear_layers(
    layout: dict[str, Any], element_wise: ElementWise, format: str, bound: float
) -> None:
    model = tiny.transformer(layout, num_layers=4, hidden_size=64, intermediate_size=128)
    exact = expect(model)
    table = cosmos3_recipe(model)
    quantize_linears(model, table, format, expect=2 * len(table.quantized))
    expected = expect(model)
    ours = ask(fast(model, element_wise))
    error = tiny_denoise.relative(ours, exact)
    assert 1e-3 < error < bound
    assert tiny_denoise.relative(ours, expected) < 0.2 * error, "the same rounding as layer by layer"


def test_quantized_attention_runs_in_its_range_with_its_own_keys() -> None:
    model, seen = tiny.transformer(num_layers=1), []
    made = Cosmos3Denoiser(
        fast(model, quantized=tiny.e4m3(seen, grouped=True)), quantized_ranges=((quantized_range(0.1, 0.2),),)
    )
    prompt = made.prepare(tiny.token_ids())
    for value in (950.0, 500.0, 150.0):
        before = len(seen)
        ours = made(tiny.latents(), tiny.at(value), prompt, branch=COND)
        error = tiny_denoise.relative(ours, expect(model, value=value))
        assert (len(seen) - before, error > 1e-4) == ((1, True) if value == 500.0 else (0, False))


@LAYOUTS
def test_blocks_compile_as_one_graph(layout: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend "eager" keeps the graphs as they are, so that only tracing is paid for."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled(f, backend="eager", **options))
    torch._dynamo.reset()
    model = tiny.transformer(layout, num_layers=3)
    table = cosmos3_recipe(model)
    quantize_linears(model, table, "int8", expect=len(table.quantized))
    sdpa = BoundAttention(
        name="sdpa", run=torch.nn.functional.scaled_dot_product_attention, quantized=None, grouped=False
    )
    plain, quick = fast(model, attention=sdpa), fast(model, attention=sdpa)
    compile_blocks(quick.blocks)
    assert tiny_denoise.largest(ask(quick), ask(plain)) < 1e-5
    torch._dynamo.reset()


@pytest.mark.parametrize("sparse", [False, True])
def test_texts_of_every_length_share_one_compilation(monkeypatch: pytest.MonkeyPatch, sparse: bool) -> None:
    """From the first length on, with the same numbers; and the length of the video stays a constant, though
    another one was compiled before."""
    compiled, seen = torch.compile, []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        fakes = [node.meta["example_value"] for node in graph.graph.find_nodes(op="placeholder")]
        seen.append({str(size) for x in fakes if isinstance(x, Tensor) for size in x.shape})
        return graph

    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled(f, backend=backend, **options))
    torch._dynamo.reset()
    model = tiny.transformer(num_layers=1)
    behind_prefix = BoundAttention(name="sparse", run=triton_prefix_sparse.run, takes_prefix=True)
    plain, quick = (
        Cosmos3Denoiser(fast(model, attention=behind_prefix if sparse else None)) for _ in range(2)
    )
    compile_blocks(quick.model.blocks)
    whole, lower = tiny.latents(), tiny.latents()[:, :, :, : tiny.PATCH]
    for length, latents in ((5, whole), (6, whole), (9, lower), (11, lower), (7, whole)):
        ours, expected = (
            one(latents, tiny.at(640.0), one.prepare(tiny.token_ids(length)), branch=COND)
            for one in (quick, plain)
        )
        assert tiny_denoise.largest(ours, expected) < 1e-5
    assert len(seen) == 2, "one for each size of the video"
    for sizes in seen:
        assert len({size for size in sizes if not size.isdigit()}) == 1, f"more than the text varies: {sizes}"
    torch._dynamo.reset()


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("element_wise", ["ours", "compiler"])
@pytest.mark.parametrize(
    "attention",
    [("fa3_fp8", "triton_int8"), ("triton_int8",), ("fa3_prefix_sparse",), ("triton_prefix_sparse",)],
    ids=["fa3", "triton", "fa3 sparse", "triton sparse"],
)
def test_on_a_gpu_compiled_equals_uncompiled_for_every_length(
    tmp_path: Path, element_wise: str, attention: tuple[str, ...]
) -> None:
    sizes = {"head_dim": 64, "hidden_size": 256, "intermediate_size": 512, "rope_axes_dim": (12, 10, 10)}
    model = tiny.transformer(**sizes).to(DEVICE, torch.bfloat16)
    settings = DenoiseSettings(
        forward="fast", linear="auto", element_wise=element_wise, quantized_attention=attention
    )
    shape = Shape(batch=1, tokens=18, text_tokens=33, prefix_tokens=6)
    slow, quick = (
        assemble(
            Cosmos3Family(copy.deepcopy(model), fps=tiny.FPS),
            replace(settings, compile=on),
            shape,
            cache=tmp_path,
        )
        for on in ("off", "on")
    )
    oracle, latents = EagerDenoiser(model, fps=tiny.FPS), tiny.latents().to(DEVICE)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for length, value in ((5, 990.0), (9, 500.0), (16, 500.0), (33, 990.0), (16, 990.0)):
        exact, first, second = (
            one(latents, tiny.at(value), one.prepare(tiny.token_ids(length)), branch=COND).cpu()
            for one in (oracle, slow.denoiser, quick.denoiser)
        )
        error = tiny_denoise.relative(first, exact)
        assert 0 < error < 0.15, slow.notes
        assert tiny_denoise.relative(second, exact) < 1.5 * error + 1e-3, quick.notes
    made = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    kinds = 1 + len(attention)  # exact, and whichever quantized one a length of text is fit for
    assert made <= 3 * kinds, "first, inner and last block, with each attention"


def test_patches_come_back() -> None:
    video = torch.randn(2, 4, 3, 4, 6)
    tokens = patchify(video, 2)
    assert tokens.shape == (2, 18, 16)
    assert torch.equal(unpatchify(tokens, (3, 2, 3), 2), video)


def test_a_model_that_could_make_sound_too_makes_video() -> None:
    model = tiny.transformer(sound_gen=True, sound_dim=4, action_gen=True, action_dim=3)
    expected = tiny.library(model, tiny.latents(), tiny.token_ids(), tiny.at(640.0))
    assert tiny_denoise.largest(ask(fast(model)), expected) < 1e-5


def test_refusals() -> None:
    made = Cosmos3Denoiser(fast(tiny.transformer(num_layers=1)))
    with pytest.raises(AssertionError, match="one at a time"):
        made(tiny.latents(), tiny.at(1.0), made.prepare(tiny.token_ids()), branch=BOTH)


@LAYOUTS
def test_hidden_states_are_those_of_the_library_and_change_no_velocity(layout: dict[str, Any]) -> None:
    model, found = tiny.transformer(layout), []
    for denoiser in (EagerDenoiser(model, fps=tiny.FPS), Cosmos3Denoiser(fast(model))):
        text = denoiser.prepare(tiny.token_ids())
        plain = denoiser(tiny.latents(), tiny.at(640.0), text, branch=COND)
        velocity, states = denoiser.observed(tiny.latents(), tiny.at(640.0), text, branch=COND, layers=(0, 2))
        assert torch.equal(velocity, plain)
        assert [tuple(one.shape) for one in states] == [(3, 32), (3, 32)]
        found.append(torch.stack(states))
    assert tiny_denoise.largest(found[1], found[0]) < 1e-5
    assert tiny_denoise.largest(found[0][0], found[0][1]) > 1e-2
