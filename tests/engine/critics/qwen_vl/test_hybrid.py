"""A Qwen3.5 as a critic, most of whose layers keep a state (Gated DeltaNet) instead of keys and values."""

from __future__ import annotations

import functools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantized_vlm import gptq, is_quantized, quantize_folder
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_vlm import save_tiny_vlm, tiny_hybrid, tiny_tokenizer
from tiny_wan import build_scenario
from transformers import AutoModelForImageTextToText, DynamicCache, Qwen3_5Config

from engine.api.takes import finish
from engine.build.model_folders import find_critic
from engine.critics.qwen_vl import critic as qwen_vl
from engine.critics.qwen_vl import prefill, prequantized
from engine.critics.qwen_vl.critic import QwenVLCritic
from engine.critics.qwen_vl.decode import Decoding
from engine.critics.qwen_vl.footprint import kept_bytes, prefill_bytes
from engine.critics.qwen_vl.instructions import plan_segments
from engine.critics.qwen_vl.preprocess import VideoSegment, build_inputs
from engine.critics.qwen_vl.slots import Slots, slot_length
from engine.critics.qwen_vl.text_step import Prefilled, TextStep
from engine.errors import ModelError
from engine.machine.counted import peak_bytes
from engine.quant.four_bit import FourBitLinear
from engine.types import Critique, PlanReply, Prompt, Verdict, Video, VideoSpec
from kernels.decode import attention, gated_delta

torch.set_num_threads(1)

SIDECAR: dict[str, Any] = {
    "plan_instruction": "Plan.",
    "critique_instruction": "Judge.",
    "num_prefix_frames": 2,
    "num_take_frames": 4,
    "frame_px": 32,
    "max_new_tokens": 40,
}
LAYER = "model.language_model.layers.0.linear_attn"
PARTS = (
    *(f"{name}.weight" for name in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")),
    *("conv1d.weight", "norm.weight", "A_log", "dt_bias"),
)
"""Of such a layer, as Qwen/Qwen3.5-9B names them."""
SPEC = VideoSpec(width=64, height=64, fps=8.0, prefix_frames=24, num_frames=40)
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With layers that draft, as every published Qwen3.5 has them: the library leaves them out."""
    made = save_tiny_vlm(tmp_path_factory.mktemp("hybrid"), json.dumps(SIDECAR), make=tiny_hybrid)
    tensors = {**load_file(made / "model.safetensors"), "mtp.fc.weight": torch.ones(64, 128)}
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    return made


@pytest.fixture(scope="module")
def critic(folder: Path) -> QwenVLCritic:
    return qwen_vl.load(folder, device="cpu", dtype="fp32")


def inputs_of(critic: QwenVLCritic) -> dict[str, torch.Tensor]:
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    prefix = VideoSegment(frames=frames, times_s=(0.0, 0.125, 2.75, 2.875))
    segments = plan_segments(critic.tokenizer, "Plan.", prefix, "A ball.")
    return build_inputs(critic.tokenizer, critic.model.config, segments, geometry=critic.geometry)


def decode(critic: QwenVLCritic, **options: Any) -> list[int]:
    step, device = TextStep(critic.model), critic.model.device
    slots = Slots(step, device=device, eos_ids=critic.eos_ids, max_new_tokens=NUM_TOKENS, **options)
    decoding = Decoding(
        critic.model, slots, inputs_of(critic), max_new_tokens=NUM_TOKENS, chunk_tokens=5, lookup=[3, 4, 5]
    )
    decoding.prefill().wait()
    while not decoding.finished:
        decoding.extend().wait()
    return decoding.tokens()


def test_a_folder_of_published_names_is_read_and_told(folder: Path, critic: QwenVLCritic) -> None:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert {f"{LAYER}.{part}" for part in PARTS} <= set(file.keys())
    assert critic.geometry.text_timestamps and critic.geometry.mean == (0.5, 0.5, 0.5)
    assert critic.notes["unused_weights"] == "1 that decoding has no use for: mtp.fc.weight"
    told = critic.notes["linear_attention"]
    assert "prompts by" in told and told.endswith("replies by kernels/decode/gated_delta.py")


def test_greedy_tokens_are_those_of_generate(critic: QwenVLCritic) -> None:
    """Behind a clip, whose positions are the library's."""
    inputs = inputs_of(critic)
    whole = critic.model.generate(
        **inputs, max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=critic.eos_ids[0]
    )
    expected = whole[0, inputs["input_ids"].shape[1] :].tolist()
    assert len(set(expected)) > NUM_TOKENS // 2, "a reply that repeats itself proves little"
    assert decode(critic) == expected and decode(critic, drafts=7) == expected


@torch.inference_mode()
def test_a_prompt_is_read_in_pieces(critic: QwenVLCritic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a single token too, whose states the library computes in another way."""
    inputs = inputs_of(critic)
    whole = prefill.read_prompt(critic.model, inputs)
    library = critic.model(**inputs, logits_to_keep=1).logits[:, -1]
    torch.testing.assert_close(whole.logits, library)
    for piece in (20, whole.length - 1):
        monkeypatch.setattr(prefill, "PIECE", piece)
        pieces = prefill.read_prompt(critic.model, inputs)
        torch.testing.assert_close(pieces.logits, library, rtol=1e-4, atol=1e-4)
        for mine, expected in zip(kept_of(pieces), kept_of(whole), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
        assert pieces.next_rotary == whole.next_rotary


def kept_of(prompt: Prefilled) -> list[torch.Tensor]:
    return [*prompt.keys, *prompt.values, *(part for pair in prompt.states for part in pair)]


def replies(critic: QwenVLCritic, folder: Path) -> tuple[PlanReply, Critique]:
    """About a prefix, and about a take."""
    scenario = build_scenario(folder, num_frames=24)
    frames = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    prompt = Prompt(text="The ball rolls.", negative="", seed=3, revision=0)
    job = critic.start(scenario, prompt, Video(frames=frames, fps=8.0), None)
    return finish(critic.plan(scenario)), finish(job)


def test_it_plans_and_judges(folder: Path, critic: QwenVLCritic, tmp_path: Path) -> None:
    assert find_critic(str(folder)).family == "qwen_vl"
    plan, critique = replies(replace(critic, grammars=None), tmp_path)
    assert all(40 < one.num_tokens <= 80 for one in (plan, critique)), "two tries of random words"
    assert plan.plan is None and plan.raw.startswith("{") and critique.verdict is Verdict.UNREADABLE


@pytest.mark.gpu
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_on_a_gpu_it_answers(folder: Path, tmp_path: Path, quantization: str) -> None:
    """Steps are captured, rows of drafts and all."""
    if quantization != "none":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    loaded = qwen_vl.load(folder, device="cuda", dtype="bf16", quantization=quantization, takes=SPEC)
    first, second = (replies(loaded, tmp_path / name) for name in ("a", "b"))
    assert first[0].raw == second[0].raw and first[1].raw == second[1].raw
    assert loaded.slots is not None and loaded.slots._graphs


def test_a_constrained_reply_keeps_to_the_schema(critic: QwenVLCritic, tmp_path: Path) -> None:
    pytest.importorskip("llguidance", reason="optional dependency: retake-engine[constrained]")
    job = critic.plan(build_scenario(tmp_path, num_frames=24))
    job._num_tries = 1  # straight to the constrained try
    assert re.match(r'\{\s*"objects"\s*:\s*\[', finish(job).raw)


def test_a_step_reads_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device meta, where there is nothing to read: a CUDA graph can hold it."""
    monkeypatch.setattr(attention, "run", lambda q, *_: torch.empty_like(q))
    monkeypatch.setattr(
        gated_delta, "run", lambda qkv, decay, beta, state, **_: qkv.new_empty(len(qkv), *state.shape[1::2])
    )
    tokenizer = tiny_tokenizer()
    model = tiny_hybrid(tokenizer).to("meta")
    step = TextStep(model)
    rows = torch.empty(6, dtype=torch.int64, device="meta")
    assert step(rows, rows, rows, rows, step.empty_cache(2, 64), 3).shape == (6, len(tokenizer))


def test_the_plan_counts_states_as_slots_have_them(folder: Path, critic: QwenVLCritic) -> None:
    text = critic.model.config.get_text_config()
    assert critic.slots is not None
    length = slot_length(300, 40)
    token, memories = kept_bytes(text, 4)
    kept = critic.slots.step.empty_cache(2, length).parts()[:-1]
    assert sum(part.nbytes for part in kept) == 2 * (length * token + memories) and memories > 0
    outline = qwen_vl.load(folder, device="cpu", dtype="fp32", with_weights=False)
    assert outline.footprint(SPEC) == critic.footprint(SPEC)


def test_reading_a_prompt_is_planned_as_it_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers as wide as Qwen3.5-9B's, without values."""
    sizes = {"vocab_size": 4096, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 4}
    config = Qwen3_5Config(text_config=sizes)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).eval()
    tokens, text = 4000, config.get_text_config()
    words = torch.empty(1, tokens, 4096, device="meta", dtype=torch.bfloat16)
    positions = torch.empty(3, 1, tokens, device="meta", dtype=torch.long)
    monkeypatch.setattr(model.model, "get_input_embeddings", lambda: lambda ids: words)

    def read() -> Any:
        cache = DynamicCache(config=text)
        prefill._in_pieces(model, {"input_ids": positions[0]}, positions, cache)
        return cache

    token, _ = kept_bytes(text, 2)
    states = 3 * (32 * 128 * 128 * 4 + 8192 * 4 * 2)
    planned = prefill_bytes(text, tokens, 2) + states + tokens * token
    assert peak_bytes(read) + words.nbytes == pytest.approx(planned, rel=0.07)  # its versions differ


def test_four_bits_are_where_publishers_have_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU has them, here in plain torch: a reply like that of the same weights dequantized."""
    stated = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False}
    layer = functools.partial(gptq, group=64, symmetric=True)
    target = quantize_folder(folder, tmp_path / "critic", layer, stated)
    wide = qwen_vl.load(target, device="cpu", dtype="bf16")
    monkeypatch.setattr(prequantized, "_uses_kernels", lambda *_: True)
    packed = qwen_vl.load(target, device="cpu", dtype="bf16")
    modules = dict(packed.model.named_modules())
    found = {name for name, module in modules.items() if isinstance(module, FourBitLinear)}
    names = {name for name in wide.model.state_dict() if is_quantized(name)}
    assert found == {name.removesuffix(".weight") for name in names}
    assert modules[f"{LAYER}.in_proj_qkv"].shared is modules[f"{LAYER}.in_proj_z"].shared
    assert packed.notes["unused_weights"].startswith("1 that")
    assert decode(packed)[:4] == decode(wide)[:4]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_what_decides_how_long_a_state_lasts_is_not_rounded(folder: Path, quantization: str) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    outline = qwen_vl.load(folder, device="cuda", dtype="bf16", quantization=quantization, with_weights=False)
    rounded = {name for name, one in outline.model.named_parameters() if one.dtype == torch.uint8}
    assert rounded == {name for name in outline.model.state_dict() if is_quantized(name)}
    if quantization == "nf4":
        model = qwen_vl.load(folder, device="cpu", dtype="bf16", quantization=quantization).model
        four = {n for n, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
        assert {f"{name}.weight" for name in four} == rounded


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"layer_types": ["linear_attention"] * 3}, "no layer of the critic has full attention"),
        ({"layer_types": ["sliding_attention"] * 3}, "3 layers of sliding_attention"),
        ({"hidden_act": "gelu"}, "activation is 'gelu', not silu"),
    ],
)
def test_what_is_not_decoded_is_refused_before_weights_are_read(
    folder: Path, tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["text_config"] |= changed
    (other / "config.json").write_text(json.dumps(config))
    (other / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=told):
        qwen_vl.load(other, device="cpu", dtype="fp32")
