"""Names of the publisher are those that diffusers' own conversion takes back to ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from diffusers.loaders.single_file_utils import (
    convert_wan_transformer_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from tiny_wan import build_autoencoder, build_transformer
from tiny_wan_variants import control

from engine.generators.wan.published_names import (
    published_name,
    published_vae_name,
    text_encoder_namings,
)
from engine.weights.fill import naming_of


@pytest.mark.parametrize("build", [build_transformer, control])
def test_every_name_of_the_transformer_comes_back(build: Callable[[], Any]) -> None:
    names = {published_name(name): name for name in build().state_dict()}
    assert convert_wan_transformer_to_diffusers(dict(names)) == {name: name for name in names.values()}


def test_every_name_of_the_autoencoder_of_wan21_comes_back() -> None:
    renamed = functools.partial(published_vae_name, residual=False, num_res_blocks=2)
    names = {renamed(name): name for name in build_autoencoder(blocks_per_level=2).state_dict()}
    assert convert_wan_vae_to_diffusers(dict(names)) == {name: name for name in names.values()}


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("encoder.conv_in.weight", "encoder.conv1.weight"),
        (
            "encoder.down_blocks.0.resnets.1.norm1.gamma",
            "encoder.downsamples.0.downsamples.1.residual.0.gamma",
        ),
        (
            "encoder.down_blocks.1.resnets.0.conv_shortcut.bias",
            "encoder.downsamples.1.downsamples.0.shortcut.bias",
        ),
        (
            "encoder.down_blocks.2.downsampler.resample.1.weight",
            "encoder.downsamples.2.downsamples.2.resample.1.weight",
        ),
        (
            "encoder.down_blocks.1.downsampler.time_conv.bias",
            "encoder.downsamples.1.downsamples.2.time_conv.bias",
        ),
        ("encoder.mid_block.attentions.0.to_qkv.weight", "encoder.middle.1.to_qkv.weight"),
        ("decoder.mid_block.resnets.1.conv2.weight", "decoder.middle.2.residual.6.weight"),
        ("decoder.up_blocks.3.resnets.2.conv1.bias", "decoder.upsamples.3.upsamples.2.residual.2.bias"),
        (
            "decoder.up_blocks.0.upsampler.resample.1.bias",
            "decoder.upsamples.0.upsamples.3.resample.1.bias",
        ),
        ("decoder.norm_out.gamma", "decoder.head.0.gamma"),
        ("decoder.conv_out.weight", "decoder.head.2.weight"),
        ("quant_conv.weight", "conv1.weight"),
        ("post_quant_conv.bias", "conv2.bias"),
    ],
)
def test_the_autoencoder_of_wan22(name: str, published: str) -> None:
    """As diffusers' convert_wan_to_diffusers.py has them, which the library itself does not."""
    assert published_vae_name(name, residual=True, num_res_blocks=2) == published


ATTENTION = "encoder.block.3.layer.0.SelfAttention"


@pytest.mark.parametrize(
    ("name", "published", "llama"),
    [
        ("shared.weight", "token_embedding.weight", "token_embd.weight"),
        (f"{ATTENTION}.q.weight", "blocks.3.attn.q.weight", "enc.blk.3.attn_q.weight"),
        (
            f"{ATTENTION}.relative_attention_bias.weight",
            "blocks.3.pos_embedding.embedding.weight",
            "enc.blk.3.attn_rel_b.weight",
        ),
        (
            "encoder.block.3.layer.1.DenseReluDense.wi_0.weight",
            "blocks.3.ffn.gate.0.weight",
            "enc.blk.3.ffn_gate.weight",
        ),
        (
            "encoder.block.3.layer.1.DenseReluDense.wo.weight",
            "blocks.3.ffn.fc2.weight",
            "enc.blk.3.ffn_down.weight",
        ),
        ("encoder.block.3.layer.1.layer_norm.weight", "blocks.3.norm2.weight", "enc.blk.3.ffn_norm.weight"),
        ("encoder.final_layer_norm.weight", "norm.weight", "enc.output_norm.weight"),
    ],
)
def test_the_text_encoder(name: str, published: str, llama: str) -> None:
    namings = text_encoder_namings()
    assert namings["publisher"](name) == published and namings["llama.cpp"](name) == llama
    assert naming_of([name], [llama], namings) == "llama.cpp"
