"""The policy as a file: bound to its weights, strict when named, and what it says of layers and timesteps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_denoise as tiny
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from engine.build.model_folders import MODELS
from engine.errors import ModelError
from engine.generators.cosmos3.recipes import COSMOS3
from engine.generators.wan.recipes import wan_recipe
from engine.quant.precision_policy import FILE, Policy, PolicyEntry, checkpoint_digest, find
from engine.quant.recipes import SurgeryError, resolve

GENERATOR = MODELS / "generator"


def entry(layer: str, format: str = "fp8", *, low: float = 0.0, high: float = 1000.0) -> PolicyEntry:
    kind = "attention" if layer.endswith("attn1") else "linear"
    return PolicyEntry(layer=layer, kind=kind, format=format, low=low, high=high)


def policy(*entries: PolicyEntry, source: str = "x") -> Policy:
    return Policy(source=source, producer="a test", entries=entries)


def model() -> WanTransformer3DModel:
    return tiny.transformer(num_layers=4, head_dim=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model().save_pretrained(tmp_path / "m" / "transformer")
    return tmp_path / "m"


# --- the file -----------------------------------------------------------------------------------------------


def test_round_trip_and_refusal(tmp_path: Path) -> None:
    made = policy(entry("a"), entry("blocks.1.attn1", low=20.5, high=700.0))
    path = tmp_path / FILE
    made.save(path)
    assert Policy.load(path) == made
    assert "changes" not in path.read_text()
    made = replace(made, changes={"spectrum": ((1000.0, 0.0), (500.5, 0.25)), "magnitude": ((900.0, 1.0),)})
    made.save(path)
    assert Policy.load(path) == made
    text = path.read_text()
    wrong = (
        text.replace("500.5", "1500.5"),  # timesteps fall
        text.replace("0.25", "-0.25"),  # and what has changed does not
        text.replace("0.25", "NaN"),
        text.replace("[[900.0, 1.0]]", "[]"),
        text.replace("[900.0, 1.0]", "[900.0]"),
        text.replace('"schema": 2', '"schema": 1'),  # without the sums of FP8
        text[:40],
        text.replace('"format"', '"fromat"', 1),
        text.replace('"linear"', '"conv"'),
        "[]",
    )
    for damaged in wrong:
        path.write_text(damaged)
        with pytest.raises(ModelError, match="not usable") as caught:
            Policy.load(path)
        assert "calibrate again" in caught.value.fix
    with pytest.raises(ModelError):
        Policy.load(tmp_path / "none.json")


def test_the_digest_is_of_values_and_not_of_the_file_layout(folder: Path) -> None:
    before = checkpoint_digest(folder)
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file(tensors, path, metadata={"format": "pt"})
    assert checkpoint_digest(folder) == before
    for name in ("proj_out.weight", "blocks.3.ffn.net.2.bias"):
        changed = tensors | {name: tensors[name] + 0.5}
        save_file(changed, path, metadata={"format": "pt"})
        assert checkpoint_digest(folder) != before, name
    with pytest.raises(ModelError, match="no transformer"):
        checkpoint_digest(folder / "transformer")


def test_off_nothing_and_other_weights(folder: Path) -> None:
    assert find(folder, "off") == (None, "off")
    assert find(folder, "auto") == (None, "none beside the model") == find(None, "auto")
    right = policy(entry("a"), source=checkpoint_digest(folder))
    right.save(folder / FILE)
    assert find(folder, "auto") == (right, "followed: a test")
    assert find(folder, str(folder / FILE))[0] == right
    replace(right, source="0" * 64).save(folder / FILE)
    found, note = find(folder, "auto")
    assert found is None and note.startswith("ignored: it was measured on weights 0000")
    for owner in (folder, None):
        with pytest.raises(ModelError, match="of another model"):
            find(owner, str(folder / FILE))
    (folder / FILE).write_text("{")
    with pytest.raises(ModelError, match="not usable"):
        find(folder, "auto")


def test_the_bundled_policy_is_of_the_bundled_weights() -> None:
    """When this fails the weights have changed: python -m bench.quality.policy_calibration"""
    found, note = find(GENERATOR, "auto")
    assert found is not None, note
    config = json.loads((GENERATOR / "transformer" / "config.json").read_text())
    with torch.device("meta"):
        module = WanTransformer3DModel.from_config(config)
    recipe = wan_recipe(module)
    known = set(resolve(recipe, module).quantized)
    attentions = [f"blocks.{index}.attn1" for index in range(config["num_layers"])]
    assert {e.layer for e in found.entries} <= known | set(attentions)
    for format in ("fp8", "int8"):
        assert list(found.other_linears(module, recipe, format).values()).count("bf16") < len(known)
        assert any(found.attention_ranges(attentions, format))


# --- what it says -------------------------------------------------------------------------------------------


def test_what_is_not_listed_stays_bf16_and_one_gemm_has_one_format() -> None:
    module = model()
    recipe = wan_recipe(module)
    names = resolve(recipe, module).quantized
    every = [entry(name) for name in names]
    assert policy(*every).other_linears(module, recipe, "fp8") == {}
    none = policy(*every).other_linears(module, recipe, "int8")
    assert none == dict.fromkeys(names, "bf16"), "another format was not admitted"

    def without(name: str) -> set[str]:
        rest = [e for e in every if e.layer != name]
        return set(policy(*rest).other_linears(module, recipe, "fp8"))

    assert without("blocks.1.ffn.net.2") == {"blocks.1.ffn.net.2"}
    assert without("blocks.1.attn2.to_q") == {"blocks.1.attn2.to_q"}, "of its own product"
    assert without("blocks.2.attn1.to_k") == {f"blocks.2.attn1.to_{x}" for x in "qkv"}


def test_full_accumulation_comes_before_bf16_and_is_of_a_whole_gemm() -> None:
    module = model()
    recipe = wan_recipe(module)
    slow = {"blocks.1.ffn.net.2", "blocks.2.attn1.to_k"}  # too much is lost in their sums
    every = [entry(name, "fp8_full_accum") for name in resolve(recipe, module).quantized]
    every += [entry(e.layer) for e in every if e.layer not in slow]
    expected = {"blocks.1.ffn.net.2", *(f"blocks.2.attn1.to_{x}" for x in "qkv")}
    assert policy(*every).other_linears(module, recipe, "fp8") == dict.fromkeys(expected, "fp8_full_accum")
    rest = [e for e in every if e.layer != "blocks.2.attn1.to_v" or e.format == "fp8"]
    others = policy(*rest).other_linears(module, recipe, "fp8")
    assert others["blocks.2.attn1.to_q"] == "bf16", "the three have no other format in common"


def test_merged_layers_of_every_recipe_are_quantized_layers() -> None:
    for recipe in (wan_recipe(model()), COSMOS3):
        assert {name for names in recipe.merged for name in names} <= set(recipe.quantized)


def test_ranges_by_layer_and_format() -> None:
    made = policy(
        entry("blocks.1.attn1", low=300.0, high=1000.0),
        entry("blocks.1.attn1", low=0.0, high=50.0),
        entry("blocks.0.attn1", "int8"),
    )
    blocks = [f"blocks.{index}.attn1" for index in range(3)]
    assert made.attention_ranges(blocks, "fp8") == ((), ((300.0, 1000.0), (0.0, 50.0)), ())
    assert made.attention_ranges(blocks, "int8") == (((0.0, 1000.0),), (), ())


def test_layers_of_another_model_are_an_error() -> None:
    module = model()
    with pytest.raises(SurgeryError, match=r"does not have: proj_out"):
        policy(entry("proj_out")).other_linears(module, wan_recipe(module), "fp8")
    with pytest.raises(SurgeryError, match=r"blocks\.9\.attn1"):
        policy(entry("blocks.9.attn1")).attention_ranges(["blocks.0.attn1"], "fp8")
