"""One fast layer of Cosmos3: grouped heads, 8-bit attention, and layers of which only some are 8-bit."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_cosmos3 as tiny
import torch
from tiny_denoise import bound, largest, relative
from torch import Tensor, nn

from engine.denoise.layers import BoundAttention, ElementWise, bind
from engine.generators.cosmos3.block import FastCosmos3Block
from engine.generators.cosmos3.text import video_rotary
from engine.quant.linears import QuantizedLinear

torch.set_num_threads(1)

OURS, PLAIN = bind("run"), bind("plain")

LAYOUTS = pytest.mark.parametrize("layout", [tiny.SUPER, tiny.EDGE], ids=["super", "edge"])
PASSES = pytest.mark.parametrize("element_wise", [OURS, PLAIN], ids=["ours", "plain"])
TOKENS, WIDTH, CLEAN = 18, 32, 6


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tables(model: Any) -> tuple[Tensor, Tensor]:
    return video_rotary(model, tiny.TEXT_TOKENS, (tiny.FRAMES, tiny.ROWS, tiny.COLUMNS), tiny.FPS)


def library(model: Any, h: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(video [1, S, C] after the layer, the text's keys, its values), by the library's own code."""
    layer, attn = model.layers[1], model.layers[1].self_attn
    seen: dict[str, Tensor] = {}
    norm = "norm_k" if attn.k_norm_und_for_gen is None else "k_norm_und_for_gen"
    for name in (norm, "to_v"):
        hook = lambda module, given, out, name=name: seen.__setitem__(name, out)  # noqa: E731
        getattr(attn, name).register_forward_hook(hook)
    still = torch.ones(tiny.TEXT_TOKENS, 16), torch.zeros(tiny.TEXT_TOKENS, 16)  # text at angle 0
    _, video = layer(words, h[0], (*still, *tables(model)))
    return video[None], seen[norm][None], seen["to_v"].unflatten(1, (2, 16))[None]


def ours(
    model: Any,
    h: Tensor,
    text: tuple[Tensor, Tensor],
    element_wise: ElementWise = OURS,
    attention: BoundAttention | None = None,
) -> Tensor:
    """With half of h as the pending branch of a layer before."""
    chosen = attention or bound()
    block = FastCosmos3Block(
        model.layers[1], element_wise=element_wise, attention=chosen, quantized_attention=chosen
    )
    cached = block.text_of_step(block.text(*text), quantized=False)
    out, branch = block(0.5 * h, 0.5 * h, cached, *tables(model), False, CLEAN)
    return out + branch


def given(layout: dict[str, Any]) -> tuple[Any, Tensor, Tensor]:
    return tiny.transformer(layout), normal(1, TOKENS, WIDTH, seed=3), normal(tiny.TEXT_TOKENS, WIDTH, seed=4)


@LAYOUTS
@PASSES
def test_a_block_equals_the_library(layout: dict[str, Any], element_wise: ElementWise) -> None:
    model, h, words = given(layout)
    expected, *text = library(model, h, words)
    assert largest(ours(model, h, (text[0], text[1]), element_wise), expected) < 1e-5


@LAYOUTS
@PASSES
@pytest.mark.parametrize("grouped", [True, False])
def test_attention_in_e4m3(layout: dict[str, Any], element_wise: ElementWise, grouped: bool) -> None:
    model, h, words = given(layout)
    expected, *text = library(model, h, words)
    seen: list[tuple[int, ...]] = []
    found = ours(model, h, (text[0], text[1]), element_wise, tiny.e4m3(seen, grouped=grouped))
    assert seen == [(1, 2 if grouped else 4, tiny.TEXT_TOKENS + TOKENS, 16)]
    assert 1e-4 < relative(found, expected) < 0.03


def test_a_grouped_kernel_gets_the_heads_as_they_are() -> None:
    model, h, words = given(tiny.SUPER)
    expected, *text = library(model, h, words)
    shapes = []

    def run(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
        shapes.append((q.shape[1], k.shape[1]))
        return nn.functional.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True)

    for grouped in (True, False):
        attention = BoundAttention(name="sdpa", run=run, grouped=grouped)
        found = ours(model, h, (text[0], text[1]), attention=attention)
        assert largest(found, expected) < 1e-5
    assert shapes == [(4, 2), (4, 4)]


def test_a_kernel_for_a_prefix_is_told_of_the_text_and_the_clean_tokens() -> None:
    model, h, words = given(tiny.SUPER)
    expected, *text = library(model, h, words)
    seen = []

    def run(q: Tensor, k: Tensor, v: Tensor, *, scale: float, prefix: int) -> Tensor:
        seen.append((prefix, k.shape[2]))
        return bound().run(q, k, v, scale=scale)

    attention = BoundAttention(name="sparse", run=run, takes_prefix=True)
    assert largest(ours(model, h, (text[0], text[1]), attention=attention), expected) < 1e-5
    assert seen == [(tiny.TEXT_TOKENS + CLEAN, tiny.TEXT_TOKENS + TOKENS)]


@pytest.mark.parametrize(
    "names",
    [
        ("self_attn.add_q_proj", "self_attn.add_k_proj", "self_attn.add_v_proj"),
        ("self_attn.to_add_out",),
        ("mlp_moe_gen.gate_proj", "mlp_moe_gen.up_proj"),
        ("mlp_moe_gen.down_proj",),
    ],
)
def test_any_layer_may_be_8_bit_beside_others_that_are_not(names: tuple[str, ...]) -> None:
    model, h, words = given(tiny.SUPER)
    exact, *text = library(model, h, words)
    for name in names:
        parent, _, attribute = name.rpartition(".")
        linear = model.layers[1].get_submodule(name)
        setattr(model.layers[1].get_submodule(parent), attribute, QuantizedLinear.from_linear(linear, "int8"))
    expected = library(model, h, words)[0]
    rounding = relative(expected, exact)
    assert rounding > 1e-4, "not quantized at all"
    assert relative(ours(model, h, (text[0], text[1])), expected) < 0.1 * rounding


def test_merged_weights_are_not_held_twice() -> None:
    layer = tiny.transformer(num_layers=2).layers[1]
    block = FastCosmos3Block(layer, element_wise=OURS, attention=bound(), quantized_attention=bound())
    for merged, parts in (
        (block.qkv, [getattr(layer.self_attn, f"add_{name}_proj") for name in "qkv"]),
        (block.up, [layer.mlp_moe_gen.gate_proj, layer.mlp_moe_gen.up_proj]),
    ):
        storage = merged.weight.untyped_storage().data_ptr()
        assert all(part.weight.untyped_storage().data_ptr() == storage for part in parts)
