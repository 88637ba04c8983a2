"""The generation tower over prefilled text equals the library's full forward, padded or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Cosmos3OmniTransformer
from tiny_export import relative
from torch import Tensor
from torch.nn import functional

from engine.generators.cosmos3 import text as cosmos3_text
from export.model_inputs import MASKED
from export.quantization.calibrate import observe
from export.quantization.quantize import quantize
from export.spec import ExportError, Profile
from export.subjects import cosmos3
from export.targets import onnx as target

SIZES = {"B": 1, "F": 3, "h": 4, "w": 6, "S": 18, "L": 9}
PROFILE = Profile(name="tiny", sizes=SIZES)
TEXT, CLEAN = 7, 1
SUPER = {"hidden_act": "silu"}
EDGE = {"hidden_act": "relu2", "qk_norm_for_text": False, "use_und_k_norm_for_gen": True}


def transformer(layout: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = Cosmos3OmniTransformer(
        head_dim=16,
        hidden_size=32,
        intermediate_size=48,
        latent_channel=4,
        patch_latent_dim=16,
        num_attention_heads=4,
        num_hidden_layers=2,
        num_key_value_heads=2,
        vocab_size=40,
        rope_axes_dim=(4, 2, 2),
        **layout,
    )
    for name, parameter in model.named_parameters():
        if "norm" in name:  # ones would hide a norm that is forgotten
            parameter.data = 1 + 0.3 * torch.randn_like(parameter)
    return model.eval()


def positions() -> Tensor:
    """[3, text + video]: words count up, the video starts far behind them."""
    words = torch.arange(TEXT).float().expand(3, -1)
    frames = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(2), torch.arange(3), indexing="ij"))
    video = frames.flatten(1).float()
    video[0] += 100
    return torch.cat([words, video], dim=1)


def library_velocity(model: Any, latents: Tensor, token_ids: Tensor, timestep: float) -> Tensor:
    noisy = torch.arange(CLEAN, 3)
    return model(  # type: ignore[no-any-return]
        input_ids=token_ids,
        text_indexes=torch.arange(TEXT),
        position_ids=positions(),
        und_len=TEXT,
        sequence_length=TEXT + 18,
        vision_tokens=[latents],
        vision_token_shapes=[(3, 2, 3)],
        vision_sequence_indexes=torch.arange(TEXT, TEXT + 18),
        vision_mse_loss_indexes=torch.arange(TEXT + 6 * CLEAN, TEXT + 18),
        vision_timesteps=torch.full((12,), timestep),
        vision_noisy_frame_indexes=[noisy],
        return_dict=False,
    )[0][0]


def inputs(layout: dict[str, Any], latents: Tensor, token_ids: Tensor, *, length: int) -> tuple[Tensor, ...]:
    model = transformer(layout)
    cos, sin = cosmos3_text.rotary_tables(model, positions()[:, TEXT:])
    keys, values = cosmos3.prefill(model, token_ids, positions()[:, :TEXT])
    noisy = torch.tensor([[0.0, 1.0, 1.0]])
    padding = (0, length - TEXT)
    mask = functional.pad(torch.zeros(1, TEXT), padding, value=MASKED)
    keys, values = (functional.pad(tensor, (0, 0, *padding)) for tensor in (keys, values))
    return latents, noisy * 600.0, noisy, cos[None], sin[None], keys, values, mask


@pytest.mark.parametrize("layout", [SUPER, EDGE], ids=["super", "edge"])
@pytest.mark.parametrize("length", [TEXT, 9])
def test_equals_the_library(layout: dict[str, Any], length: int) -> None:
    latents, token_ids = torch.randn(1, 4, 3, 4, 6), torch.randint(0, 40, (TEXT,))
    with torch.no_grad():
        wanted = library_velocity(transformer(layout), latents, token_ids, 600.0)
        profile = replace(PROFILE, sizes={**SIZES, "L": length})
        prepared = cosmos3.prepare(transformer(layout), profiles=(profile,))
        velocity = prepared.module(*inputs(layout, latents, token_ids, length=length))
    torch.testing.assert_close(velocity, wanted, rtol=1e-4, atol=1e-5)
    assert not velocity[:, :, :CLEAN].any() and velocity[:, :, CLEAN:].abs().min() > 0


def test_the_understanding_tower_is_gone() -> None:
    before = sum(parameter.numel() for parameter in transformer(SUPER).layers.parameters())
    module = cosmos3.prepare(transformer(SUPER), profiles=(PROFILE,)).module
    left = {name.split(".")[-2] for name, _ in module.named_parameters()}
    assert not left.intersection({"to_q", "to_out", "embed_tokens", "lm_head", "input_layernorm"})
    assert sum(parameter.numel() for parameter in module.transformer.layers.parameters()) == before / 2


@pytest.mark.parametrize(("layout", "linears"), [(SUPER, 14), (EDGE, 12)], ids=["super", "edge"])
def test_gates(layout: dict[str, Any], linears: int) -> None:
    prepared = cosmos3.prepare(transformer(layout), profiles=(PROFILE,))
    assert sum(len(group.linears) for group in prepared.groups) == linears
    assert {prepared.gate("fp8", capability).num_fp8_gemm for capability in (89, 120)} == {8}
    assert prepared.gate("fp8", 120).merged_qkv and prepared.gate("int8", 89).num_int8_gemm == 8
    assert prepared.gate("fp8-attention", 89).num_fused_attention == 2


def test_quantized_graph(tmp_path: Path) -> None:
    exact = cosmos3.prepare(transformer(SUPER), profiles=(PROFILE,))
    scales = observe(exact, [exact.inputs])
    quantized = quantize(cosmos3.prepare(transformer(SUPER), profiles=(PROFILE,)), "fp8", scales)
    target.build(
        cosmos3.prepare(transformer(SUPER), profiles=(PROFILE,)), "fp8", tmp_path / "o", scales=scales
    )
    named = dict(zip([tensor.name for tensor in exact.spec.inputs], exact.inputs, strict=True))
    with torch.no_grad():
        wanted, fake = exact.module(*exact.inputs), quantized.module(*exact.inputs)
    assert 0 < relative(fake, wanted) < 0.1
    assert relative(target.load_module(tmp_path / "o")(named)["velocity"], fake) < 1e-2


def test_refusals() -> None:
    with pytest.raises(ExportError, match="S=18"):
        cosmos3.prepare(transformer(SUPER), profiles=(Profile(name="p", sizes={**SIZES, "S": 17}),))
