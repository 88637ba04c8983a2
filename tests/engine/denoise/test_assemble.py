"""From settings to a denoiser: what "auto" becomes, what is refused and with what reasons, what is noted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_denoise as tiny
import torch

from engine.denoise import assemble as module
from engine.denoise.assemble import FP8_RATE_IS_FULL, GRAPHED_TOKENS, Assembled, assemble
from engine.denoise.family import Shape
from engine.denoise.layers import BoundAttention, bind, quantized_range
from engine.errors import ConfigError, ModelError, RetakeError
from engine.generators.wan.denoiser import FastDenoiser
from engine.generators.wan.eager import EagerDenoiser
from engine.generators.wan.family import WanFamily
from engine.generators.wan.recipes import WAN
from engine.quant.attention_error import LAYOUTS
from engine.quant.calibration import FORMATS
from engine.quant.linears import KERNELS, QuantizedLinear
from engine.quant.precision_policy import FILE, Policy, PolicyEntry, checkpoint_digest
from engine.quant.recipes import SurgeryError, resolve
from engine.settings.presets import PRESETS, QUANTIZED_END, DenoiseSettings
from kernels import dispatch

torch.set_num_threads(1)

OURS, PLAIN = bind("run"), bind("plain")

SHAPE = Shape(batch=1, tokens=48, text_tokens=tiny.TEXT_TOKENS)
FAST = DenoiseSettings(forward="fast")


def made(settings: DenoiseSettings, **transformer: Any) -> Assembled:
    module = tiny.transformer(**{"num_layers": 4} | transformer)
    return assemble(WanFamily(module), settings, SHAPE)


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


@pytest.mark.parametrize("settings", [PRESETS["exact"], FAST, replace(FAST, cfg_gate=0.5, step_cache=0.5)])
def test_no_module_has_a_hook(settings: DenoiseSettings) -> None:
    """Caches of features hook into modules and outlive the job; ours are in the guidance of one job."""
    transformer = tiny.transformer(num_layers=4)
    assembled = assemble(WanFamily(transformer), settings, SHAPE)
    velocity(assembled)
    for module_ in transformer.modules():
        assert not module_._forward_hooks and not module_._forward_pre_hooks
        assert not hasattr(module_, "_diffusers_hook")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("attention", ("sdpa_math",)),
        ("quantized_attention", ("auto",)),
        ("quantized_first", 0.3),
        ("quantized_last", 0.3),
        ("linear", "fp8"),
        ("policy", "auto"),
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
        "policy",
        "linear",
        "attention",
        "quantized_attention",
        "cross_attention",
        "compile",
        "graphs",
    }
    assert (notes["forward"], notes["linear"]) == ("fast", "bf16")
    assert (notes["compile"], notes["graphs"]) == ("off", "off")
    assert notes["attention"].startswith("sdpa_") and notes["cross_attention"].startswith("sdpa_")
    assert notes["quantized_attention"].startswith("none: no 8-bit kernel is faster here than sdpa_flash")
    assert "triton_int8" in notes["quantized_attention"], "every reason is given"
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
    capability: tuple[int, int] | None, dtype: torch.dtype, expected: str
) -> None:
    assert module._linear_format("auto", capability, dtype) == expected
    assert module._linear_format("int8", capability, dtype) == "int8", "a named one is kept"
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
    assert fast(made(FAST)).wan.ops is OURS
    plain = made(replace(FAST, element_wise="compiler"))
    assert fast(plain).wan.ops is PLAIN and plain.notes["element_wise"] == "compiler"


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


@pytest.mark.parametrize("part", ["attention", "quantized_attention"])
def test_an_unknown_kernel_is_refused_with_the_list(part: str) -> None:
    with pytest.raises(ConfigError, match="'flash9' is not an attention kernel") as caught:
        made(replace(FAST, **{part: ("flash9",)}))  # type: ignore[arg-type]
    assert all(name in caught.value.problem for name in dispatch.names())
    assert "retake kernels" in caught.value.fix


@pytest.mark.parametrize("part", ["attention", "quantized_attention"])
def test_a_named_8_bit_kernel_that_cannot_run_is_an_error_with_its_reason(part: str) -> None:
    wanted = ("triton_int8", "fa3_fp8")
    with pytest.raises(ConfigError, match="no attention kernel does") as caught:
        made(replace(FAST, **{part: wanted}), head_dim=32)  # type: ignore[arg-type]
    for name in wanted:
        assert f"{name}: " in caught.value.problem
    assert "sdpa_math" not in caught.value.problem, "only what was named is asked"


def test_quantized_attention_runs_in_its_range_and_the_notes_say_which() -> None:
    low = replace(FAST, attention=("sdpa_flash", "sdpa_math"), quantized_attention=("sdpa_math",))
    assembled = made(replace(low, quantized_first=0.2, quantized_last=0.3))
    assert assembled.notes["quantized_attention"] == "sdpa_math, without 0.2 first and 0.3 last"
    assert fast(assembled)._quantized_ranges == (((300.0, 800.0),),) * 4
    calls: list[str] = []
    for block in fast(assembled).wan.blocks:
        run = block.quantized_attention.run
        block.quantized_attention = BoundAttention(
            name="noted", run=lambda *x, run=run, **options: calls.append("low") or run(*x, **options)
        )
    for value in (900.0, 500.0, 200.0):
        velocity(assembled, value)
    assert calls == ["low"] * 4
    assert (
        fast(made(FAST))._quantized_ranges == ((),) * 4 and made(FAST).notes["quantized_attention"] == "off"
    )


def test_sparse_attention_is_for_a_prefix_and_told_where_it_ends() -> None:
    sparse = replace(FAST, quantized_attention=("triton_prefix_sparse",), quantized_last=0.5)
    with pytest.raises(ConfigError, match="triton_prefix_sparse needs a prefix"):
        made(sparse)
    shape = replace(SHAPE, prefix_tokens=16)
    assembled = assemble(WanFamily(tiny.transformer(num_layers=4)), sparse, shape)
    assert assembled.notes["quantized_attention"] == "triton_prefix_sparse, without 0.1 first and 0.5 last"
    assert fast(assembled).wan.blocks[0].quantized_attention.takes_prefix
    exact = made(DenoiseSettings())
    for value in (800.0, 300.0):  # so few tokens are one block, and nothing is left out
        assert tiny.relative(velocity(assembled, value), velocity(exact, value)) < 1e-5
    everywhere = replace(FAST, attention=("triton_prefix_sparse",))
    with pytest.raises(ConfigError, match=r"for denoise\.quantized_attention"):
        assemble(WanFamily(tiny.transformer(num_layers=4)), everywhere, shape)


@pytest.mark.parametrize("format", ["fp8", "int8"])
def test_a_named_format_quantizes_the_inner_blocks_and_is_noted(format: str) -> None:
    exact = velocity(made(DenoiseSettings()))
    assembled = made(replace(FAST, linear=format))
    assert assembled.notes["linear"].startswith(f"{format}: 16 layers, ")
    kinds = [isinstance(block.up, QuantizedLinear) for block in fast(assembled).wan.blocks]
    assert kinds == [False, True, True, False]
    assert 1e-4 < tiny.relative(velocity(assembled), exact) < 0.1


# --- the policy of the weights ------------------------------------------------------------------------------

OPEN = replace(FAST, policy="auto", linear="auto", quantized_attention=("sdpa_math",))
"""As a preset leaves it open, with a kernel that runs here in the place of an 8-bit one."""


@pytest.fixture
def with_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A generator's folder with a policy of its weights, on a device that would take fp8."""
    monkeypatch.setattr(
        module, "_linear_format", lambda wanted, *given: "fp8" if wanted == "auto" else wanted
    )
    monkeypatch.setitem(module.MEASURED_AS, "sdpa_math", "fp8")
    transformer = tiny.transformer(num_layers=4)
    transformer.save_pretrained(tmp_path / "transformer")
    names = [name for name in resolve(WAN, transformer).quantized if name != "blocks.2.ffn.net.2"]
    entries = [
        PolicyEntry(layer=name, kind="linear", format="fp8", low=0.0, high=1000.0)
        for name in names
        if name != "blocks.1.attn1.to_v"
    ]
    entries += [
        PolicyEntry(layer="blocks.1.attn1", kind="attention", format="fp8", low=0.0, high=1000.0),
        PolicyEntry(layer="blocks.3.attn1", kind="attention", format="fp8", low=400.0, high=1000.0),
        PolicyEntry(layer="blocks.0.attn1", kind="attention", format="int8", low=0.0, high=1000.0),
    ]
    source = checkpoint_digest(tmp_path)
    Policy(source=source, producer="a test", entries=tuple(entries)).save(tmp_path / FILE)
    return tmp_path


def followed(settings: DenoiseSettings, folder: Path | None, **options: Any) -> Assembled:
    return assemble(WanFamily(tiny.transformer(num_layers=4)), settings, SHAPE, folder=folder, **options)


def test_the_policy_decides_what_is_left_open(with_policy: Path) -> None:
    assembled = followed(OPEN, with_policy)
    every = ((0.0, 1000.0),)
    assert fast(assembled)._quantized_ranges == ((), every, (), ((400.0, 1000.0),))
    blocks = fast(assembled).wan.blocks
    kinds = {
        name: [isinstance(getattr(block, name), QuantizedLinear) for block in blocks]
        for name in ("qkv", "out", "up", "down")
    }
    assert kinds["qkv"] == [False, False, True, False], "one product, one format"
    assert kinds["down"] == [False, True, False, False]
    assert kinds["out"] == kinds["up"] == [False, True, True, False]
    assert assembled.notes["policy"] == "followed: a test"
    assert assembled.notes["linear"].startswith("fp8: 12 layers") and "4 kept by" in assembled.notes["linear"]
    assert assembled.notes["quantized_attention"].endswith("40 % of blocks and noise levels")
    assert tiny.relative(velocity(assembled), velocity(made(DenoiseSettings()))) < 0.1
    named = followed(replace(OPEN, policy=str(with_policy / FILE)), with_policy)
    assert fast(named)._quantized_ranges == fast(assembled)._quantized_ranges


def test_single_layers_sum_in_full_where_the_policy_says_so(with_policy: Path) -> None:
    """The note in the manifest names them; their operands are rounded as those of the others."""
    policy = Policy.load(with_policy / FILE)
    slow = PolicyEntry(layer="blocks.2.ffn.net.2", kind="linear", format="fp8_full_accum", low=0, high=1000)
    replace(policy, entries=(*policy.entries, slow)).save(with_policy / FILE)
    assembled = followed(OPEN, with_policy)
    note = assembled.notes["linear"]
    assert note.startswith("fp8: 13 layers"), note
    assert note.endswith("3 kept by the policy; fp8_full_accum by the policy: blocks.2.ffn.net.2")
    down = fast(assembled).wan.blocks[2].down
    assert (down.format, down.input_format) == ("fp8_full_accum", "fp8")
    assert tiny.relative(velocity(assembled), velocity(made(DenoiseSettings()))) < 0.1


def test_what_was_given_wins_over_the_policy(with_policy: Path) -> None:
    for end in ("quantized_first", "quantized_last"):
        given = followed(replace(OPEN, **{end: 0.3}), with_policy)
        levels = quantized_range(
            *((0.3, QUANTIZED_END) if end == "quantized_first" else (QUANTIZED_END, 0.3))
        )
        assert fast(given)._quantized_ranges == ((levels,),) * 4
        assert given.notes["linear"].startswith("fp8: 12 layers"), "the rest is still the policy's"
    assert followed(replace(OPEN, linear="fp8"), with_policy).notes["linear"].startswith("fp8: 16 layers")
    bf16 = followed(replace(OPEN, linear="bf16"), with_policy)
    assert bf16.notes["linear"] == "bf16" and fast(bf16)._quantized_ranges[1]
    assert fast(followed(replace(OPEN, quantized_attention=()), with_policy))._quantized_ranges == ((),) * 4


def test_a_kernel_that_was_not_measured_keeps_its_one_range(
    with_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(module.MEASURED_AS, "sdpa_math")
    assembled = followed(OPEN, with_policy)
    assert fast(assembled)._quantized_ranges == ((quantized_range(QUANTIZED_END, QUANTIZED_END),),) * 4
    assert assembled.notes["quantized_attention"] == "sdpa_math, without 0.1 first and 0.1 last"


def test_a_policy_that_admits_no_layer_leaves_bf16(with_policy: Path) -> None:
    policy = Policy.load(with_policy / FILE)
    replace(policy, entries=()).save(with_policy / FILE)
    assembled = followed(OPEN, with_policy)
    assert assembled.notes["linear"] == "bf16: the policy admits no layer to fp8"
    assert fast(assembled)._quantized_ranges == ((),) * 4


def test_a_policy_of_other_weights_is_passed_over_with_a_warning_or_refused_by_name(
    with_policy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy.load(with_policy / FILE)
    replace(policy, source="0" * 64).save(with_policy / FILE)
    with caplog.at_level("WARNING"):
        assembled = followed(OPEN, with_policy)
    assert assembled.notes["policy"].startswith("ignored: it was measured on weights 000")
    warned = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert len(warned) == 1 and "ignored" in warned[0]
    off = followed(replace(OPEN, policy="off"), with_policy)
    assert "policy" not in off.notes and fast(off)._quantized_ranges == fast(assembled)._quantized_ranges
    assert torch.equal(velocity(assembled), velocity(off))
    with pytest.raises(ModelError, match="of another model"):
        followed(replace(OPEN, policy=str(with_policy / FILE)), with_policy)


def test_without_a_policy_everything_is_as_if_there_were_none(with_policy: Path) -> None:
    (with_policy / FILE).unlink()
    none, off = followed(OPEN, with_policy), followed(replace(OPEN, policy="off"), None)
    assert none.notes == off.notes | {"policy": "none beside the model"}
    assert fast(none)._quantized_ranges == ((quantized_range(QUANTIZED_END, QUANTIZED_END),),) * 4
    assert torch.equal(velocity(none), velocity(off))


def test_8_bit_kernels_stand_for_a_measured_format() -> None:
    rough = {name for name in dispatch.names() if dispatch.load(name).ACCURACY != "exact"}
    without = {"triton_skip_softmax", "fa3_fp8_prefix_sparse"}  # a bounded loss; two losses at once
    assert set(module.MEASURED_AS) == rough - without
    assert set(module.MEASURED_AS.values()) == {KERNELS[f].FORMAT for f in FORMATS} | set(LAYOUTS)


# --- graphs and other refusals ------------------------------------------------------------------------------


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
        assert assemble(WanFamily(half), settings, shape).notes["graphs"] == expected


@pytest.mark.gpu
@pytest.mark.parametrize("preset", ["fast", "fastest"])
def test_on_a_gpu_the_presets_assemble_and_stay_close_to_the_library(preset: str, tmp_path: Path) -> None:
    exact = tiny.transformer(num_layers=4, head_dim=64, ffn_dim=256)
    half = tiny.to_half(tiny.transformer(num_layers=4, head_dim=64, ffn_dim=256), "cuda")
    assembled = assemble(WanFamily(half), replace(PRESETS[preset], compile="off"), SHAPE, cache=tmp_path)
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
