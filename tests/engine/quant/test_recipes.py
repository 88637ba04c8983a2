"""The recipes of layers against real modules of the library, and each way in which they can disagree."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from engine.generators.cosmos3.recipes import COSMOS3, COSMOS3_EDGE
from engine.generators.wan.recipes import WAN, WAN_IMAGE, wan_recipe
from engine.quant.recipes import Kept, SurgeryError, resolve


def transformer(num_layers: int = 4, **options: int) -> WanTransformer3DModel:
    with torch.device("meta"):
        return WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4,
            out_channels=4, text_dim=20, freq_dim=16, ffn_dim=48, num_layers=num_layers, **options,
        )  # fmt: skip


def test_inner_blocks_are_quantized_and_nothing_else() -> None:
    model = transformer()
    resolved = resolve(WAN, model)
    assert len(resolved.quantized) == 2 * 8
    assert {name.split(".")[1] for name in resolved.quantized} == {"1", "2"}
    assert {name.split(".", 2)[2] for name in resolved.quantized} == set(WAN.quantized)
    linears = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    assert sorted([*resolved.quantized, *resolved.kept]) == sorted(linears)
    for name in ("proj_out", "condition_embedder.time_proj", "blocks.1.attn2.to_k", "blocks.3.ffn.net.2"):
        assert name in resolved.kept


def test_image_models_have_their_own_recipe() -> None:
    model = transformer(image_dim=16, added_kv_proj_dim=24)
    assert wan_recipe(model) is WAN_IMAGE and wan_recipe(transformer()) is WAN
    assert "blocks.1.attn2.add_k_proj" in resolve(WAN_IMAGE, model).kept
    with pytest.raises(SurgeryError, match=r"add_k_proj is named nowhere"):
        resolve(WAN, model)
    with pytest.raises(SurgeryError, match=r"'attn2.add_\?_proj' matches nothing in blocks 0, 1, 2, 3"):
        resolve(WAN_IMAGE, transformer())


def test_a_layer_that_no_pattern_names_is_an_error() -> None:
    model = transformer()
    model.blocks[1].extra = nn.Linear(2, 2)
    with pytest.raises(SurgeryError, match=r"blocks\.1\.extra is named nowhere"):
        resolve(WAN, model)


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    recipe = dataclasses.replace(WAN, kept=(*WAN.kept, Kept(pattern="guidance_embedder.*", why="test")))
    with pytest.raises(SurgeryError, match=r"'guidance_embedder\.\*' matches nothing"):
        resolve(recipe, transformer())
    recipe = dataclasses.replace(WAN, quantized=(*WAN.quantized, "attn3.to_q"))
    with pytest.raises(SurgeryError, match=r"'attn3\.to_q' matches nothing in blocks 0, 1, 2, 3"):
        resolve(recipe, transformer())


def test_a_layer_that_is_named_twice_is_an_error() -> None:
    recipe = dataclasses.replace(
        WAN, kept_in_block=(*WAN.kept_in_block, Kept(pattern="ffn.net.2", why="test"))
    )
    with pytest.raises(SurgeryError, match=r"ffn\.net\.2 is named twice"):
        resolve(recipe, transformer())


def test_another_model_is_an_error_that_names_the_file() -> None:
    with pytest.raises(SurgeryError, match="there are no 'blocks'") as caught:
        resolve(WAN, nn.Sequential(nn.Linear(2, 2)))
    assert "engine/generators/*/recipes.py" in caught.value.fix


def test_a_short_model_has_no_inner_block() -> None:
    assert resolve(WAN, transformer(num_layers=2)).quantized == ()


def test_every_rule_says_why() -> None:
    rules = [
        rule
        for recipe in (WAN, WAN_IMAGE, COSMOS3, COSMOS3_EDGE)
        for rule in (*recipe.kept, *recipe.kept_in_block)
    ]
    assert all(len(rule.why) > 10 for rule in rules)
