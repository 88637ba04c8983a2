"""One fast block against the library's, over the same weights; what merging does to them; refusals."""

from __future__ import annotations

import pytest
import tiny_denoise as tiny
import torch
from bounds import gemm_bound
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn

from engine.denoise.layers import BoundAttention, ElementWise, bind, merge_linears
from engine.generators.wan.block import FastBlock
from engine.quant.linears import QuantizedLinear
from engine.quant.recipes import SurgeryError

torch.set_num_threads(1)

OURS, PLAIN = bind("run"), bind("plain")

WIDTH, TOKENS = 24, 48
INNER = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0")
FEED_FORWARD = ("ffn.net.0.proj", "ffn.net.2")


def fast_block(block: WanTransformerBlock, element_wise: ElementWise = OURS) -> FastBlock:
    return FastBlock(
        block,
        element_wise=element_wise,
        attention=tiny.bound(),
        quantized_attention=tiny.bound(),
        cross_attention=tiny.bound(),
    )


def run(block: FastBlock, model: WanTransformer3DModel, h: Tensor, text: Tensor, rows: Tensor) -> Tensor:
    """The hidden states after the block, its last branch added; 16 tokens of prefix."""
    cos, sin = model.rope(tiny.latents())
    h, branch, gate, _ = block(h, None, None, rows, *block.text_keys(text), cos, sin, 16, False)
    per_token = gate.repeat_interleave(torch.tensor([16, TOKENS - 16]), dim=1)
    return h + branch * per_token


def library(model: WanTransformer3DModel, h: Tensor, text: Tensor, rows: Tensor) -> Tensor:
    per_token = rows.repeat_interleave(torch.tensor([16, TOKENS - 16]), dim=1)  # [1, S, 6, C]
    out = model.blocks[1](h, text, per_token.expand(len(h), -1, -1, -1), model.rope(tiny.latents()))
    assert isinstance(out, Tensor)
    return out


def inputs(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    h = tiny.random(batch, TOKENS, WIDTH, seed=3)
    return h, tiny.random(batch, tiny.TEXT_TOKENS, WIDTH, seed=4), tiny.random(1, 2, 6, WIDTH, seed=5)


def quantize(block: nn.Module, format: str, names: tuple[str, ...]) -> None:
    for name in names:
        parent, _, attribute = name.rpartition(".")
        linear = block.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(block.get_submodule(parent), attribute, QuantizedLinear.from_linear(linear, format))


@pytest.mark.parametrize("element_wise", [OURS, PLAIN], ids=["ours", "plain"])
@pytest.mark.parametrize("cross_attn_norm", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_block_equals_the_library(batch: int, cross_attn_norm: bool, element_wise: ElementWise) -> None:
    model = tiny.transformer(cross_attn_norm=cross_attn_norm)
    given = inputs(batch)
    expected = library(model, *given)
    assert tiny.largest(run(fast_block(model.blocks[1], element_wise), model, *given), expected) < 1e-5


@pytest.mark.parametrize("element_wise", [OURS, PLAIN], ids=["ours", "plain"])
@pytest.mark.parametrize("cross_attn_norm", [True, False])
@pytest.mark.parametrize("format", ["fp8", "int8"])
def test_an_8_bit_block_equals_the_library_over_the_same_layers(
    format: str, cross_attn_norm: bool, element_wise: ElementWise
) -> None:
    """Sharing one quantization and one product must round as each layer by itself does."""
    model = tiny.transformer(cross_attn_norm=cross_attn_norm)
    given = inputs(2)
    exact = library(model, *given)
    quantize(model.blocks[1], format, INNER + FEED_FORWARD)
    expected = library(model, *given)
    ours = run(fast_block(model.blocks[1], element_wise), model, *given)
    rounding = tiny.relative(expected, exact)
    assert rounding > 1e-3, "not quantized at all"
    assert tiny.relative(ours, expected) < 0.1 * rounding


@pytest.mark.parametrize("names", [INNER, FEED_FORWARD, ("attn2.to_q",), ("ffn.net.2",), ("attn1.to_out.0",)])
def test_any_layer_may_be_8_bit_beside_others_that_are_not(names: tuple[str, ...]) -> None:
    model = tiny.transformer()
    given = inputs(1)
    exact = library(model, *given)
    quantize(model.blocks[1], "int8", names)
    expected = library(model, *given)
    ours = run(fast_block(model.blocks[1]), model, *given)
    assert tiny.relative(ours, expected) < 0.1 * tiny.relative(expected, exact)


def test_low_steps_use_the_low_attention() -> None:
    model = tiny.transformer()
    h, text, rows = inputs(1)
    block, used = fast_block(model.blocks[1]), []
    for name in ("attention", "quantized_attention"):

        def noted(*tensors: Tensor, scale: float, name: str = name) -> Tensor:
            used.append(name)
            out: Tensor = tiny.bound().run(*tensors, scale=scale)
            return out

        setattr(block, name, BoundAttention(name=name, run=noted))
    cos, sin = model.rope(tiny.latents())
    for low in (False, True):
        block(h, None, None, rows, *block.text_keys(text), cos, sin, 16, low)
    assert used == ["attention", "quantized_attention"]


def test_attention_in_e4m3_gets_what_its_scales_stand_for() -> None:
    """An attention that only dequantizes what it is given: scales, layout and order must fit."""
    model = tiny.transformer()
    given = inputs(2)
    exact = library(model, *given)
    block, seen = fast_block(model.blocks[1]), []

    def dequantize(x: Tensor, scale: Tensor) -> Tensor:
        assert x.dtype == torch.float8_e4m3fn and scale.shape == x.shape[:2] and scale.dtype == torch.float32
        return x.float() * scale[:, :, None, None]

    def quantized(*tensors: Tensor, scale: float) -> Tensor:
        seen.append(tensors[0].shape)
        wide = [dequantize(x, x_scale) for x, x_scale in zip(tensors[:3], tensors[3:], strict=True)]
        out: Tensor = tiny.bound().run(*wide, scale=scale)
        return out

    block.attention = BoundAttention(name="e4m3", run=tiny.bound().run, quantized=quantized)
    ours = run(block, model, *given)
    assert seen == [(2, 2, TOKENS, 12)]
    assert 1e-4 < tiny.relative(ours, exact) < 0.05


def test_text_keys_are_what_the_library_attends_to() -> None:
    model = tiny.transformer()
    attention = model.blocks[1].attn2
    text = inputs(2)[1]
    keys, values = fast_block(model.blocks[1]).text_keys(text)
    expected = attention.norm_k(attention.to_k(text)), attention.to_v(text)
    for ours, theirs in zip((keys, values), expected, strict=True):
        assert ours.shape == (2, 2, tiny.TEXT_TOKENS, 12) and ours.is_contiguous()
        assert torch.equal(ours.transpose(1, 2).flatten(2), theirs)  # one GEMM each, of the same shapes


# --- merging ------------------------------------------------------------------------------------------------


def test_merged_weights_are_not_held_twice_and_the_library_computes_the_same_bits() -> None:
    model = tiny.transformer()
    given = inputs(2)
    before = library(model, *given)
    attention = model.blocks[1].attn1
    merged = fast_block(model.blocks[1]).qkv
    assert torch.equal(library(model, *given), before)
    assert_views([attention.to_q, attention.to_k, attention.to_v], merged, ("weight", "bias"))


@pytest.mark.parametrize("format", ["fp8", "int8"])
def test_merged_8_bit_weights_are_not_held_twice(format: str) -> None:
    model = tiny.transformer()
    given = inputs(2)
    quantize(model.blocks[1], format, INNER)
    before = library(model, *given)
    attention = model.blocks[1].attn1
    merged = fast_block(model.blocks[1]).qkv
    assert isinstance(merged, QuantizedLinear) and merged.format == format
    assert torch.equal(library(model, *given), before)
    assert_views([attention.to_q, attention.to_k, attention.to_v], merged, ("weight", "scale", "bias"))


def assert_views(layers: list[nn.Module], merged: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        whole = getattr(merged, name)
        parts = [getattr(layer, name) for layer in layers]
        storages = {part.untyped_storage().data_ptr() for part in parts}
        assert storages == {whole.untyped_storage().data_ptr()}, name
        starts = [part.data_ptr() - whole.data_ptr() for part in parts]
        assert starts == [0, parts[0].nbytes, 2 * parts[0].nbytes], name


@pytest.mark.parametrize("format", [None, "fp8", "int8"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_merged_layer_is_its_parts_side_by_side(format: str | None, bias: bool) -> None:
    torch.manual_seed(0)
    layers: list[nn.Linear | QuantizedLinear] = [nn.Linear(16, 8 * n, bias=bias) for n in (1, 2, 3)]
    widest = max(float(layer.weight.detach().norm(dim=1).max()) for layer in layers)
    if format is not None:
        layers = [QuantizedLinear.from_linear(x, format) for x in layers if isinstance(x, nn.Linear)]
    x = tiny.random(5, 16)
    with torch.no_grad():
        apart = torch.cat([layer(x) for layer in layers], dim=-1)
        merged = merge_linears(layers)
        # A GEMM of 48 columns beside three of 8 to 24; |x|.|w| is at most the product of the Euclidean norms.
        bound = gemm_bound(torch.float32, 16, float(x.norm(dim=1).max() * widest))
        torch.testing.assert_close(merged(x), apart, atol=bound, rtol=0)
        # The same calls as before, over views of the merged weight: these bits do not change.
        assert torch.equal(torch.cat([layer(x) for layer in layers], dim=-1), apart)
    assert merged.out_features == 48 and (merged.bias is not None) == bias


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formats", [("fp8", None, None), ("fp8", "int8", "fp8"), (None, None, "int8")])
def test_mixed_formats_of_queries_keys_and_values_are_refused(formats: tuple[str | None, ...]) -> None:
    model = tiny.transformer()
    for name, format in zip(INNER[:3], formats, strict=True):
        if format is not None:
            quantize(model.blocks[1], format, (name,))
    with pytest.raises(SurgeryError, match="different formats") as caught:
        fast_block(model.blocks[1])
    assert "same format" in caught.value.fix


def test_image_keys_are_refused_with_the_way_out() -> None:
    with pytest.raises(SurgeryError, match="add_k_proj") as caught:
        fast_block(tiny.transformer(image=True).blocks[0])
    assert "--preset exact" in caught.value.fix
