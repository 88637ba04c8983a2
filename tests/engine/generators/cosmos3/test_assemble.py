"""From settings to a denoiser of Cosmos3: what is chosen, noted and refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_cosmos3 as tiny
import torch
from tiny_denoise import relative

from engine.denoise.assemble import Assembled, assemble
from engine.denoise.family import Shape
from engine.denoise.layers import bind
from engine.errors import ConfigError
from engine.generators.cosmos3.family import Cosmos3Family
from engine.generators.cosmos3.forward import Cosmos3Denoiser
from engine.settings.presets import PRESETS, DenoiseSettings

torch.set_num_threads(1)

OURS, PLAIN = bind("run"), bind("plain")

SHAPE = Shape(batch=1, tokens=18, text_tokens=tiny.TEXT_TOKENS)
FAST = DenoiseSettings(forward="fast")


def made(settings: DenoiseSettings) -> Assembled:
    family = Cosmos3Family(tiny.transformer(num_layers=4), fps=tiny.FPS)
    return assemble(family, settings, SHAPE)


def error(assembled: Assembled) -> float:
    denoiser = assembled.denoiser
    with torch.no_grad():
        ours = denoiser(tiny.latents(), tiny.at(500.0), denoiser.prepare(tiny.token_ids()), branch="cond")
    expected = tiny.library(tiny.transformer(num_layers=4), tiny.latents(), tiny.token_ids(), tiny.at(500.0))
    return relative(ours, expected)


@pytest.mark.parametrize("preset", ["fast", "fastest"])
def test_on_a_cpu_auto_becomes_what_runs_there(preset: str) -> None:
    assembled = made(PRESETS[preset])
    notes = assembled.notes
    assert (notes["forward"], notes["linear"], notes["compile"], notes["graphs"]) == (
        "fast", "bf16", "off", "off",
    )  # fmt: skip
    assert notes["attention"].startswith("sdpa_") and notes["quantized_attention"].startswith(
        "none: no 8-bit"
    )
    assert error(assembled) < 1e-5


@pytest.mark.parametrize("format", ["fp8", "int8"])
def test_a_named_format_quantizes_the_inner_layers(format: str) -> None:
    assembled = made(replace(FAST, linear=format))
    assert assembled.notes["linear"].startswith(f"{format}: 14 layers")
    assert 1e-4 < error(assembled) < 0.1


def test_element_wise_passes_and_compilation_are_those_asked_for() -> None:
    for name, expected in (("ours", OURS), ("compiler", PLAIN)):
        denoiser = made(replace(FAST, element_wise=name, compile="on")).denoiser
        assert isinstance(denoiser, Cosmos3Denoiser)
        assert all(block.ops is expected for block in denoiser.model.blocks)
        assert all(block._compiled_call_impl is not None for block in denoiser.model.blocks)


def test_quantized_attention_has_its_range() -> None:
    low = replace(
        FAST,
        attention=("sdpa_math",),
        quantized_attention=("sdpa_math",),
        quantized_first=0.2,
        quantized_last=0.3,
    )
    assembled = made(low)
    assert isinstance(assembled.denoiser, Cosmos3Denoiser)
    assert assembled.denoiser._quantized_ranges == (((300.0, 800.0),),) * 4
    assert error(assembled) < 1e-5


def test_sparse_attention_keeps_text_and_prefix_exact() -> None:
    sparse = replace(FAST, quantized_attention=("triton_prefix_sparse",), quantized_first=0.0)
    with pytest.raises(ConfigError, match="triton_prefix_sparse needs a prefix"):
        made(sparse)
    family, shape = (
        Cosmos3Family(tiny.transformer(num_layers=4), fps=tiny.FPS),
        replace(SHAPE, prefix_tokens=6),
    )
    assembled = assemble(family, sparse, shape)
    assert assembled.notes["quantized_attention"] == "triton_prefix_sparse, without 0 first and 0.1 last"
    assert error(assembled) < 1e-5, "so few tokens are one block, and nothing is left out"


def test_refusals() -> None:
    model = tiny.transformer(num_layers=4)
    for settings, shape, text in (
        (DenoiseSettings(linear="int8"), SHAPE, "library's forward"),
        (replace(FAST, graphs="on"), SHAPE, "CUDA graph"),
        (FAST, replace(SHAPE, batch=2), "one branch of guidance at a time"),
        (replace(FAST, policy="table.json"), SHAPE, "no policy is measured for Cosmos3"),
        (replace(FAST, attention=("fa3",)), SHAPE, "no attention kernel does"),
    ):
        with pytest.raises(ConfigError, match=text):
            assemble(Cosmos3Family(model, fps=24.0), settings, shape)
