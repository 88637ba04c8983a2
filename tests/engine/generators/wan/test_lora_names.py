"""LoRA files of other tools on a tiny Wan: names as diffusers converts them, merged against run beside."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers
from safetensors.torch import save_file
from tiny_wan import build_folder, build_transformer, edit
from torch import Tensor, nn

from engine.denoise.lora import Lora, lora_of, merged, read_loras
from engine.errors import ConfigError, ModelError
from engine.generators.wan import generator as wan
from engine.generators.wan.lora_names import lora_aliases
from engine.generators.wan.published_names import published_name
from engine.settings.presets import DenoiseSettings

RANK, ALPHA, STRENGTH = 2, 3.0, 0.7


@pytest.fixture(scope="module")
def transformer() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return build_transformer().eval().requires_grad_(False)


def linears(transformer: WanTransformer3DModel) -> dict[str, nn.Linear]:
    return {name: m for name, m in transformer.named_modules() if isinstance(m, nn.Linear)}


def pairs(transformer: WanTransformer3DModel) -> dict[str, tuple[Tensor, Tensor]]:
    """down and up of every linear, large enough to show."""
    draw = torch.Generator().manual_seed(1)
    return {
        name: (
            torch.randn(RANK, linear.in_features, generator=draw) / linear.in_features**0.5,
            torch.randn(linear.out_features, RANK, generator=draw) / 2,
        )
        for name, linear in linears(transformer).items()
    }


def diffusers_style(name: str) -> tuple[str, str, str]:
    return (
        f"transformer.{name}.lora_A.weight",
        f"transformer.{name}.lora_B.weight",
        f"transformer.{name}.alpha",
    )


def peft_style(name: str) -> tuple[str, str, str]:
    start = f"base_model.model.{name}"
    return f"{start}.lora_A.default.weight", f"{start}.lora_B.default.weight", f"{start}.alpha"


def publishers_style(name: str) -> tuple[str, str, str]:
    start = f"diffusion_model.{published_name(name)}"
    return f"{start}.lora_down.weight", f"{start}.lora_up.weight", f"{start}.alpha"


def kohyas_style(name: str) -> tuple[str, str, str]:
    start = f"lora_unet_{published_name(name).replace('.', '_')}"
    return f"{start}.lora_down.weight", f"{start}.lora_up.weight", f"{start}.alpha"


STYLES = (diffusers_style, peft_style, publishers_style, kohyas_style)


def file_of(
    transformer: WanTransformer3DModel, style: Callable[[str], tuple[str, str, str]]
) -> dict[str, Tensor]:
    return {
        key: tensor
        for name, (down, up) in pairs(transformer).items()
        for key, tensor in zip(style(name), (down, up, torch.tensor(ALPHA)), strict=True)
    }


def run(transformer: WanTransformer3DModel) -> Tensor:
    config, draw = transformer.config, torch.Generator().manual_seed(2)
    latents = torch.randn(1, config.in_channels, 3, 4, 6, generator=draw)
    text = torch.randn(1, 5, config.text_dim, generator=draw)
    made: Tensor = transformer(latents, torch.tensor([500.0]), text, return_dict=False)[0]
    return made


def beside(transformer: WanTransformer3DModel) -> Tensor:
    """The forward with every branch run beside its linear, nothing merged."""
    updates, hooks = pairs(transformer), []
    for name, linear in linears(transformer).items():
        down, up = updates[name]

        def add(module: Any, given: Any, out: Tensor, down: Tensor = down, up: Tensor = up) -> Tensor:
            return out + given[0] @ down.T @ up.T * (STRENGTH * ALPHA / RANK)

        hooks.append(linear.register_forward_hook(add))
    try:
        return run(transformer)
    finally:
        for hook in hooks:
            hook.remove()


def read(tensors: Mapping[str, Tensor]) -> Lora:
    return lora_of(tensors, "a.safetensors", strength=STRENGTH)


@pytest.mark.parametrize("style", STYLES)
def test_merged_is_as_run_beside_in_every_style(
    transformer: WanTransformer3DModel, style: Callable[[str], tuple[str, str, str]]
) -> None:
    found = merged(transformer, [read(file_of(transformer, style))], lora_aliases(transformer))
    expected, plain = beside(transformer), run(transformer)
    assert (expected - plain).abs().max() > 0.05, "the LoRA changes the forward"
    torch.testing.assert_close(run(found), expected, atol=1e-3, rtol=0)


def test_the_publishers_names_are_those_that_diffusers_converts(transformer: WanTransformer3DModel) -> None:
    """Of the linears that it converts by fixed names; each comes back under the name it has here."""
    names = [name for name in linears(transformer) if "image_embedder" not in name]
    given = {}
    for name in names:
        start = f"diffusion_model.{published_name(name)}"
        given[f"{start}.lora_A.weight"] = torch.zeros(RANK, 1)
        given[f"{start}.lora_B.weight"] = torch.zeros(1, RANK)
    back = {key.removeprefix("transformer.") for key in _convert_non_diffusers_wan_lora_to_diffusers(given)}
    assert back == {f"{name}.lora_{part}.weight" for name in names for part in "AB"}


def test_changes_of_norms_biases_and_modulation(transformer: WanTransformer3DModel) -> None:
    parameters = dict(transformer.named_parameters())
    places = {
        "diffusion_model.blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "diffusion_model.blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
        "diffusion_model.blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "diffusion_model.blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
        "diffusion_model.blocks.0.modulation.diff": "blocks.0.scale_shift_table",
        "diffusion_model.head.modulation.diff": "scale_shift_table",
        "diffusion_model.head.head.diff_b": "proj_out.bias",
        "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
    }
    deltas = {key: torch.randn_like(parameters[name]) for key, name in places.items()}
    found = merged(transformer, [read(deltas)], lora_aliases(transformer))
    for name, after in found.named_parameters():
        keys = [key for key, place in places.items() if place == name]
        expected = parameters[name] + (STRENGTH * deltas[keys[0]] if keys else 0.0)
        torch.testing.assert_close(after, expected)


def test_a_text_encoders_part_is_refused_by_name(transformer: WanTransformer3DModel) -> None:
    given = {
        **file_of(transformer, kohyas_style),
        "lora_te_encoder_block_0_q.lora_down.weight": torch.zeros(RANK, 4),
        "lora_te_encoder_block_0_q.lora_up.weight": torch.zeros(4, RANK),
    }
    with pytest.raises(ModelError, match="1 part of a text encoder, among them lora_te_encoder_block_0_q"):
        read(given)


def test_a_folder_is_loaded_with_it_and_refuses_another_models_first(tmp_path: Path) -> None:
    from tiny_wan import build_folder

    from engine.denoise.lora import read_loras
    from engine.generators.wan import generator as wan

    folder = build_folder(tmp_path / "model")
    plain = wan.load(folder, device="cpu", dtype="fp32").parts.transformer
    path = tmp_path / "a.safetensors"
    save_file(file_of(plain, publishers_style), path)
    loras = read_loras([f"{path}:{STRENGTH}"])
    loaded = wan.load(folder, device="cpu", dtype="fp32", loras=loras).parts.transformer
    torch.testing.assert_close(run(loaded), beside(plain), atol=1e-3, rtol=0)
    save_file({"blocks.77.attn1.to_q.diff_b": torch.zeros(4)}, path)
    with pytest.raises(ModelError, match=r"does not have, among them blocks\.77\.attn1\.to_q"):
        wan.load(folder, device="cpu", dtype="fp32", loras=read_loras([str(path)]), with_weights=False)


def test_a_step_distillation_brings_its_steps(tmp_path: Path) -> None:
    """Of the list before the flow shift, which the scheduler of the folder still has to be applied to."""
    folder = build_folder(tmp_path / "wan")
    name = "blocks.0.self_attn.q"
    pair = {f"{name}.lora_down.weight": torch.ones(2, 24), f"{name}.lora_up.weight": torch.ones(24, 2)}
    save_file(pair, tmp_path / "wan_2steps.safetensors")
    grid = {"timesteps": [1000, 500], "timesteps_are": "before shift"}
    (tmp_path / "wan_2steps.retake.json").write_text(json.dumps(grid))
    loras = read_loras([str(tmp_path / "wan_2steps.safetensors")])
    generator = wan.load(folder, device="cpu", dtype="fp32", loras=loras, with_weights=False)
    assert generator.schedule.timesteps == pytest.approx([1000.0, 1000 * 5 * 0.5 / 3])
    assert (
        generator.guidance_scales == (1.0,)
        and wan.load(folder, device="cpu", dtype="fp32", with_weights=False).schedule.num_steps == 3
    )
    with pytest.raises(ConfigError, match="3 steps are asked of a model that was distilled for 2"):
        wan.load(folder, device="cpu", dtype="fp32", loras=loras, num_inference_steps=3, with_weights=False)
    edit(folder, "retake.json", timesteps=[1000, 250], timesteps_are="after shift")
    with pytest.raises(ModelError, match="was distilled for its own steps, and a LoRA brings others"):
        wan.load(folder, device="cpu", dtype="fp32", loras=loras, with_weights=False)


def test_layers_are_rounded_to_8_bits_after_the_merge(tmp_path: Path) -> None:
    folder = build_folder(tmp_path / "wan")
    config = {**build_transformer().config, "num_layers": 3}  # the first and the last block stay as they are
    WanTransformer3DModel.from_config(config).save_pretrained(folder / "transformer")
    name = "blocks.1.ffn.net.2"
    save_file(
        {f"{name}.lora_A.weight": torch.ones(2, 32), f"{name}.lora_B.weight": torch.ones(24, 2)},
        tmp_path / "a.safetensors",
    )
    settings = DenoiseSettings(forward="fast", linear="int8", element_wise="compiler")
    weights = {}
    for loras in ((), read_loras([str(tmp_path / "a.safetensors")])):
        generator = wan.load(folder, device="cpu", dtype="fp32", loras=loras, denoise=settings)
        layer = generator.parts.transformer.get_submodule(name)
        weights[len(loras)] = layer.weight.float() * layer.scale[:, None]
    plain = wan.load(folder, device="cpu", dtype="fp32").parts.transformer.get_submodule(name).weight
    merged_weight = plain + 2.0
    step = merged_weight.abs().amax(dim=1, keepdim=True) / 127
    assert float(((weights[1] - merged_weight).abs() / step).max()) <= 0.51
    assert not torch.allclose(weights[1], weights[0], atol=0.5)
