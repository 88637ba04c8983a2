"""From settings to a denoiser: what "auto" becomes, what is refused and with what reasons, what is noted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_denoise as tiny
import torch

from engine.denoise import assemble as module
from engine.denoise.assemble import FP8_RATE_IS_FULL, GRAPHED_TOKENS, Assembled, Shape, assemble
from engine.denoise.guidance import EagerDenoiser
from engine.denoise.wan_block import OURS, PLAIN, BoundAttention
from engine.denoise.wan_forward import FastDenoiser
from engine.errors import ConfigError, RetakeError
from engine.presets import PRESETS, DenoiseSettings
from engine.quant.linears import QuantizedLinear
from engine.quant.tables import SurgeryError
from kernels import dispatch
from kernels.problem import Target

torch.set_num_threads(1)

SHAPE = Shape(batch=1, tokens=48, text_tokens=tiny.TEXT_TOKENS)
FAST = DenoiseSettings(forward="fast")


def made(settings: DenoiseSettings, *, weights: Path | None = None, **transformer: Any) -> Assembled:
    return assemble(tiny.transformer(**{"num_layers": 4} | transformer), settings, SHAPE, weights=weights)


def fast(assembled: Assembled) -> FastDenoiser:
    assert isinstance(assembled.denoiser, FastDenoiser)
    return assembled.denoiser


def velocity(assembled: Assembled, value: float = 500.0) -> torch.Tensor:
    denoiser = assembled.denoiser
    with torch.no_grad():
        out = denoiser(tiny.latents(), tiny.at(value), denoiser.prepare(tiny.text()), branch="cond")
    assert isinstance(out, torch.Tensor)
    return out


# --- the library's forward ----------------------------------------------------------------------------------


def test_the_exact_preset_is_the_oracle() -> None:
    exact = made(PRESETS["exact"])
    assert isinstance(exact.denoiser, EagerDenoiser) and exact.notes == {"forward": "library"}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("attention", ("sdpa_math",)),
        ("low_attention", ("auto",)),
        ("low_first", 0.3),
        ("low_last", 0.3),
        ("linear", "fp8"),
        ("element_wise", "compiler"),
        ("compile", "auto"),
        ("graphs", "on"),
    ],
)
def test_parts_of_the_fast_forward_are_refused_without_it(part: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{part} cannot be had") as caught:
        made(replace(DenoiseSettings(), **{part: value}))
    assert "--preset fast" in caught.value.fix


@pytest.mark.parametrize("part", [{"cfg_gate": 0.5}, {"step_cache": 0.2}, {"early_stop": 0.1}])
def test_what_works_with_any_forward_is_not_refused(part: dict[str, float]) -> None:
    assert isinstance(made(replace(DenoiseSettings(), **part)).denoiser, EagerDenoiser)  # type: ignore[arg-type]


# --- what was left to us ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["fast", "fastest"])
def test_on_a_cpu_auto_becomes_what_runs_there_and_the_notes_say_so(preset: str) -> None:
    assembled = made(PRESETS[preset])
    notes = assembled.notes
    assert set(notes) == {
        "forward",
        "element_wise",
        "linear",
        "attention",
        "low_attention",
        "cross_attention",
        "compile",
        "graphs",
    }
    assert (notes["forward"], notes["linear"]) == ("fast", "bf16")
    assert (notes["compile"], notes["graphs"]) == ("off", "off")
    assert notes["attention"].startswith("sdpa_") and notes["cross_attention"].startswith("sdpa_")
    assert notes["low_attention"].startswith("none: no 8-bit kernel is faster here than sdpa_flash")
    assert "triton_int8" in notes["low_attention"], "every reason is given"
    exact = tiny.relative(velocity(assembled), velocity(made(DenoiseSettings())))
    assert exact < 1e-5


@pytest.mark.parametrize(
    ("capability", "dtype", "expected"),
    [
        (None, torch.bfloat16, "bf16"),
        ((7, 5), torch.float16, "bf16"),
        ((8, 0), torch.bfloat16, "int8"),
        ((8, 6), torch.float16, "int8"),
        ((8, 9), torch.bfloat16, "int8"),
        ((9, 0), torch.bfloat16, "fp8"),
        ((9, 0), torch.float32, "bf16"),
        ((10, 0), torch.bfloat16, "fp8"),
        ((12, 0), torch.bfloat16, "int8"),
    ],
)
def test_the_automatic_format_follows_the_device_and_never_fp32(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, dtype: torch.dtype, expected: str
) -> None:
    target = Target(kind="cpu" if capability is None else "cuda", capability=capability)
    monkeypatch.setattr(module.Target, "of", lambda device: target)
    assert module._linear_format("auto", torch.device("cuda"), dtype) == expected
    assert module._linear_format("int8", torch.device("cuda"), dtype) == "int8", "a named one is kept"
    assert (expected == "fp8") == (capability in FP8_RATE_IS_FULL and dtype != torch.float32)


def test_an_automatic_format_that_the_model_cannot_have_is_bf16_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_linear_format", lambda *given: "fp8")
    kept = made(replace(FAST, linear="auto"), num_layers=2)  # the first and the last block are never 8-bit
    assert kept.notes["linear"].startswith("bf16: ") and "nothing to quantize" in kept.notes["linear"]
    with pytest.raises(SurgeryError, match="nothing to quantize"):
        made(replace(FAST, linear="fp8"), num_layers=2)


def test_the_element_wise_passes_are_the_ones_asked_for() -> None:
    assert fast(made(FAST)).wan.do is OURS
    plain = made(replace(FAST, element_wise="compiler"))
    assert fast(plain).wan.do is PLAIN and plain.notes["element_wise"] == "compiler"


def test_compile_is_off_on_a_cpu_until_it_is_asked_for() -> None:
    for wanted, expected in (("off", False), ("auto", False), ("on", True)):
        assembled = made(replace(FAST, compile=wanted))
        blocks = fast(assembled).wan.blocks
        assert [block._compiled_call_impl is not None for block in blocks] == [expected] * 4
        assert assembled.notes["compile"] == ("on" if expected else "off")


# --- what was named -----------------------------------------------------------------------------------------


def test_a_named_kernel_is_used_and_those_passed_over_are_noted() -> None:
    assembled = made(replace(FAST, attention=("sdpa_math",)))
    assert assembled.notes["attention"] == "sdpa_math"
    assert [block.attention.name for block in fast(assembled).wan.blocks] == ["sdpa_math"] * 4
    second = made(replace(FAST, attention=("fa3", "sdpa_math")))
    assert second.notes["attention"].startswith("sdpa_math (fa3: ")


@pytest.mark.parametrize("part", ["attention", "low_attention"])
def test_an_unknown_kernel_is_refused_with_the_list(part: str) -> None:
    with pytest.raises(ConfigError, match="'flash9' is not an attention kernel") as caught:
        made(replace(FAST, **{part: ("flash9",)}))  # type: ignore[arg-type]
    assert all(name in caught.value.problem for name in dispatch.names())
    assert "retake kernels" in caught.value.fix


@pytest.mark.parametrize("part", ["attention", "low_attention"])
def test_a_named_8_bit_kernel_that_cannot_run_is_an_error_with_its_reason(part: str) -> None:
    wanted = ("triton_int8", "fa3_fp8")
    with pytest.raises(ConfigError, match="no attention kernel does") as caught:
        made(replace(FAST, **{part: wanted}), head_dim=32)  # type: ignore[arg-type]
    for name in wanted:
        assert f"{name}: " in caught.value.problem
    assert "sdpa_math" not in caught.value.problem, "only what was named is asked"


def test_low_attention_runs_in_its_range_and_the_notes_say_which() -> None:
    low = replace(FAST, attention=("sdpa_flash", "sdpa_math"), low_attention=("sdpa_math",))
    assembled = made(replace(low, low_first=0.2, low_last=0.3))
    assert assembled.notes["low_attention"] == "sdpa_math, without 0.2 first and 0.3 last"
    assert fast(assembled)._low_range == (300.0, 800.0)
    calls: list[str] = []
    for block in fast(assembled).wan.blocks:
        run = block.low_attention.run
        block.low_attention = BoundAttention(
            name="noted", run=lambda *x, run=run, **options: calls.append("low") or run(*x, **options)
        )
    for value in (900.0, 500.0, 200.0):
        velocity(assembled, value)
    assert calls == ["low"] * 4
    assert fast(made(FAST))._low_range is None and made(FAST).notes["low_attention"] == "off"


@pytest.mark.parametrize("format", ["fp8", "int8"])
def test_a_named_format_quantizes_the_inner_blocks_and_is_noted(format: str) -> None:
    exact = velocity(made(DenoiseSettings()))
    assembled = made(replace(FAST, linear=format))
    assert assembled.notes["linear"].startswith(f"{format}: 16 layers, ")
    kinds = [isinstance(block.up, QuantizedLinear) for block in fast(assembled).wan.blocks]
    assert kinds == [False, True, True, False]
    assert 1e-4 < tiny.relative(velocity(assembled), exact) < 0.1


def test_quantized_weights_are_kept_and_loaded_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(FAST, linear="int8")
    fresh = velocity(made(settings))
    assert torch.equal(velocity(made(settings, weights=tmp_path)), fresh)
    (file,) = tmp_path.glob("*.safetensors")
    monkeypatch.setattr(QuantizedLinear, "from_linear", lambda *given: pytest.fail("quantized again"))
    assert torch.equal(velocity(made(settings, weights=tmp_path)), fresh)
    assert list(tmp_path.iterdir()) == [file]


def test_graphs_on_a_cpu_are_refused() -> None:
    with pytest.raises(ConfigError, match="on the CPU") as caught:
        made(replace(FAST, graphs="on"))
    assert "auto" in caught.value.fix
    assert made(replace(FAST, graphs="auto")).notes["graphs"] == "off"


def test_an_image_conditioned_model_is_refused_with_the_way_out() -> None:
    with pytest.raises(RetakeError, match="add_k_proj") as caught:
        made(FAST, image=True)
    assert "--preset exact" in caught.value.fix


@pytest.mark.gpu
def test_graphs_are_automatic_for_short_sequences_only() -> None:
    for tokens, expected in ((48, "on"), (GRAPHED_TOKENS + 1, "off")):
        shape = Shape(batch=1, tokens=tokens, text_tokens=tiny.TEXT_TOKENS)
        half = tiny.to_half(tiny.transformer(head_dim=64), "cuda")
        settings = replace(FAST, graphs="auto", attention=("sdpa_math",))
        assert assemble(half, settings, shape).notes["graphs"] == expected


@pytest.mark.gpu
@pytest.mark.parametrize("preset", ["fast", "fastest"])
def test_on_a_gpu_the_presets_assemble_and_stay_close_to_the_library(preset: str, tmp_path: Path) -> None:
    exact = tiny.transformer(num_layers=4, head_dim=64, ffn_dim=256)
    half = tiny.to_half(tiny.transformer(num_layers=4, head_dim=64, ffn_dim=256), "cuda")
    assembled = assemble(half, replace(PRESETS[preset], compile="off"), SHAPE, cache=tmp_path)
    notes, denoiser = assembled.notes, assembled.denoiser
    capability = torch.cuda.get_device_capability()
    assert notes["linear"].startswith("fp8: 16" if capability in FP8_RATE_IS_FULL else "int8: 16")
    text = denoiser.prepare(tiny.text().cuda())
    oracle = EagerDenoiser(exact)
    for value in (990.0, 500.0):
        with torch.no_grad():
            expected = oracle(tiny.latents(), tiny.at(value), tiny.text(), branch="cond")
            ours = denoiser(tiny.latents().cuda(), tiny.at(value), text, branch="cond").cpu()
        assert 0 < tiny.relative(ours, expected) < 0.1, notes
