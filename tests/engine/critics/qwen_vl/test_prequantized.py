"""Critics as they are published quantized are read without packages of their formats, or refused by name."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_vlm import awq, compressed, fp8_blocks, fp8_rows, gptq, quantize_folder, words
from safetensors.torch import load_file, save_file
from tiny_vlm import save_tiny_vlm
from tiny_wan import build_scenario
from torch import Tensor

from engine.api.takes import finish
from engine.critics.qwen_vl import critic as qwen_vl
from engine.critics.qwen_vl import prequantized
from engine.errors import ModelError
from engine.quant.four_bit import FourBitLinear
from engine.types import VideoSpec
from engine.weights import packed_ints
from engine.weights.prequantized import read_layers, read_scheme

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [48, 48], "activation_scheme": "dynamic"}
PACKED_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, "symmetric": True}
PACKED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": PACKED_WEIGHTS, "targets": ["Linear"]}},
    "ignore": ["re:.*visual.*", "lm_head"],
}
FLOAT = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}}


def reordered(weight: Tensor) -> dict[str, Tensor]:
    """With desc_act: groups of inputs that are not neighbours."""
    order = torch.argsort(torch.arange(weight.shape[1]) * 37 % weight.shape[1])
    return gptq(weight, 64, symmetric=True, order=order)


def asymmetric(stated: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(stated).replace('"symmetric": true', '"symmetric": false')
    return dict(json.loads(text))


CASES: dict[str, tuple[Any, dict[str, Any], float]] = {
    "awq": (functools.partial(awq, group=64, symmetric=False), AWQ, 0.12),
    "gptq": (functools.partial(gptq, group=64, symmetric=True), GPTQ, 0.15),
    "gptq by activation": (reordered, {**GPTQ, "desc_act": True}, 0.15),
    "packed": (functools.partial(compressed, group=64, symmetric=True), PACKED, 0.15),
    "packed with zeros": (functools.partial(compressed, group=64, symmetric=False), asymmetric(PACKED), 0.12),
    "fp8 blocks": (functools.partial(fp8_blocks, block=48), FP8, 0.04),
    "fp8 rows": (fp8_rows, FLOAT, 0.04),
}
"""How layers are made -> what config.json says, and the error of a weight that the format brings at most."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("vlm") / "critic")


@pytest.fixture(scope="module")
def exact(folder: Path) -> dict[str, Tensor]:
    return dict(qwen_vl.load(folder, device="cpu", dtype="fp32").model.state_dict())


@pytest.mark.parametrize("case", CASES)
def test_weights_are_what_the_quantizer_meant(
    folder: Path, exact: dict[str, Tensor], tmp_path: Path, case: str
) -> None:
    layer, stated, most = CASES[case]
    target = quantize_folder(folder, tmp_path / "critic", layer, stated, older_names=case == "awq")
    critic = qwen_vl.load(target, device="cpu", dtype="fp32")
    found = critic.model.state_dict()
    assert found.keys() == exact.keys() and critic.eos_ids
    for name, wanted in exact.items():
        error = float((found[name] - wanted).norm() / wanted.norm().clamp(min=1e-9))
        quantized = "_proj.weight" in name and ".language_model." in name
        assert (0 < error < most) if quantized else error == 0, f"{name} is {error} off"
    assert not any(tensor.is_meta for tensor in (*critic.model.parameters(), *critic.model.buffers()))
    assert critic.notes["weights"].startswith(f"{stated['quant_method']}: dequantized when loaded")
    planned = qwen_vl.load(target, device="cpu", dtype="fp32", with_weights=False)
    spec = VideoSpec(width=32, height=32, fps=8.0, prefix_frames=6, num_frames=8)
    assert planned.footprint(spec).held["model"] == critic.footprint(spec).held["model"]


@pytest.mark.parametrize("case", ["gptq", "packed"])
def test_layers_of_their_layout_stay_in_the_four_bits_of_our_kernels(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """What a GPU gets, here in plain torch: the dequantized layers' result up to the order of sums."""
    layer, stated, _ = CASES[case]
    target = quantize_folder(folder, tmp_path / "critic", layer, stated)
    dequantized = qwen_vl.load(target, device="cpu", dtype="bf16")
    monkeypatch.setattr(prequantized, "_uses_kernels", lambda *_: True)
    critic = qwen_vl.load(target, device="cpu", dtype="bf16")
    packed = [name for name, one in critic.model.named_modules() if isinstance(one, FourBitLinear)]
    assert len(packed) == 2 * 7 and all("language_model" in name for name in packed)
    torch.manual_seed(0)
    for name in packed:
        own, wanted = critic.model.get_submodule(name), dequantized.model.get_submodule(name)
        x = torch.randn(3, wanted.in_features, dtype=torch.bfloat16)
        got, plain = own(x).float(), wanted(x).float()
        assert float((got - plain).norm() / plain.norm()) < 0.01
    attention = critic.model.model.language_model.layers[0].self_attn
    assert attention.q_proj.shared is attention.v_proj.shared
    outline = qwen_vl.load(target, device="cpu", dtype="bf16", with_weights=False)
    sizes = [
        sum(tensor.nbytes for tensor in (*one.model.parameters(), *one.model.buffers()))
        for one in (outline, critic)
    ]
    tables = len(packed) * 256 * 4
    assert sizes[0] <= sizes[1] <= sizes[0] + tables


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_all_is_there_and_it_answers(folder: Path, tmp_path: Path, case: str) -> None:
    """Layers equal those that a CPU dequantizes, and steps of a reply are captured over them."""
    layer, stated, _ = CASES[case]
    target = quantize_folder(folder, tmp_path / "critic", layer, stated)
    critic = qwen_vl.load(target, device="cuda", dtype="bf16")
    assert all(one.is_cuda for one in (*critic.model.parameters(), *critic.model.buffers()))
    modules = dict(critic.model.named_modules())
    assert any(isinstance(one, FourBitLinear) for one in modules.values()) == (case in ("gptq", "packed"))
    plain = qwen_vl.load(target, device="cpu", dtype="bf16").model
    torch.manual_seed(0)
    for name, wanted in plain.named_modules():
        if "language_model" in name and name.endswith("_proj"):
            x = torch.randn(3, wanted.in_features, dtype=torch.bfloat16)
            got, expected = modules[name](x.cuda()).cpu().float(), wanted(x).float()
            assert float((got - expected).norm() / expected.norm()) < 0.01, name
    assert finish(critic.plan(build_scenario(tmp_path, num_frames=24))).num_tokens > 0


def test_a_config_that_denies_zero_points_is_not_believed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = functools.partial(gptq, group=64, symmetric=False)
    target = quantize_folder(folder, tmp_path / "critic", layer, GPTQ)
    monkeypatch.setattr(prequantized, "_uses_kernels", lambda *_: True)
    with pytest.raises(ModelError, match=r"q_proj has zero points.*its config\.json denies"):
        qwen_vl.load(target, device="cpu", dtype="bf16")


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({**AWQ, "version": "gemv"}, "awq, version 'gemv' of 4 bits"),
        ({**GPTQ, "bits": 3}, "gptq, checkpoint_format 'gptq' of 3 bits"),
        ({**PACKED, "format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized'"),
        ({**PACKED, "format": "marlin-24"}, "format 'marlin-24'"),
        ({**PACKED, "config_groups": {}}, "0 kinds of layers"),
        ({**FP8, "fmt": "e5m2"}, "fp8, format 'e5m2'"),
    ],
)
def test_what_is_packed_otherwise_is_refused_by_name(
    folder: Path, tmp_path: Path, stated: dict[str, Any], told: str
) -> None:
    layer, _, _ = CASES["gptq"]
    target = quantize_folder(folder, tmp_path / "critic", layer, stated)
    with pytest.raises(ModelError, match=told) as error:
        qwen_vl.load(target, device="cpu", dtype="fp32", with_weights=False)
    assert "AWQ (gemm), GPTQ" in error.value.fix


def test_what_does_not_fit_together_is_refused_by_headers(folder: Path, tmp_path: Path) -> None:
    layer, stated, _ = CASES["gptq"]
    target = quantize_folder(folder, tmp_path / "critic", layer, stated)
    tensors = load_file(target / "model.safetensors")
    down = "model.language_model.layers.1.mlp.down_proj"
    q = "model.language_model.layers.0.self_attn.q_proj"

    def refused(changed: dict[str, Tensor | None]) -> str:
        merged: dict[str, Tensor | None] = {**tensors, **changed}
        kept = {name: tensor for name, tensor in merged.items() if tensor is not None}
        save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError) as error:
            qwen_vl.load(target, device="cpu", dtype="fp32", with_weights=False)
        return str(error.value)

    assert f"{down} lacks scales" in refused({f"{down}.scales": None})
    assert f"{down} has scales [1, 64], and not [2, 64]" in refused({f"{down}.scales": torch.ones(1, 64)})
    told = refused({f"{q}.extra": torch.ones(2), "model.visual.blocks.0.norm1.bias": None})
    assert "1 missing: model.visual.blocks.0.norm1.bias" in told and f"1 surplus: {q}.extra" in told
    quantized = {name: tensor for name, tensor in tensors.items() if ".qweight" in name}
    assert "says that it is quantized (gptq), but no layer is" in refused(dict.fromkeys(quantized))


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("g_idx", 7, "inputs of the groups 7 to 7, of 1"),
        ("g_idx", -1, "inputs of the groups -1 to -1, of 1"),
        ("scales", float("nan"), "scales that are no numbers"),
    ],
)
def test_values_that_no_kernel_checks_are_refused(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    value: float,
    told: str,
    kernels: bool,
) -> None:
    layer = functools.partial(gptq, group=64, symmetric=True)
    target = quantize_folder(folder, tmp_path / "critic", layer, GPTQ)
    tensors = load_file(target / "model.safetensors")
    name = "model.language_model.layers.0.self_attn.q_proj"
    tensors[f"{name}.{part}"] = torch.full_like(tensors[f"{name}.{part}"], value)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(prequantized, "_uses_kernels", lambda *_: kernels)
    with pytest.raises(ModelError, match=f"q_proj has {told}"):
        qwen_vl.load(target, device="cpu", dtype="bf16")


def test_words_are_packed_as_the_formats_say() -> None:
    """Numbers worked out by hand: eight codes a word."""
    codes = torch.arange(16).view(2, 8) % 16
    assert words(codes).tolist() == [[0x76543210], [0xFEDCBA98 - 2**32]]
    assert torch.equal(packed_ints.unpack(words(codes), 4), codes.to(torch.uint8))
    eight = torch.tensor([[0, 127, 128, 255]])
    assert packed_ints.unpack(words(eight, 8), 8).tolist() == [[0, 127, 128, 255]]
    # AWQ: the word 0x76543210 holds the features 0, 2, 4, 6, 1, 3, 5, 7 in this order
    word, no_zeros = torch.tensor([[0x76543210]], dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
    found = packed_ints.awq(word, no_zeros, torch.ones(1, 8), bits=4)
    assert found.codes[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_compressed_tensors_unpacks_the_same() -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = torch.randint(0, 16, (16, 64), generator=torch.Generator().manual_seed(0))
    packed = helpers.pack_to_int32((codes - 8).to(torch.int8), 4)
    assert torch.equal(packed, words(codes))
    zeros = torch.randint(0, 16, (16, 2), generator=torch.Generator().manual_seed(1))
    packed_zeros = helpers.pack_to_int32((zeros - 8).to(torch.int8), 4, packed_dim=0)
    found = packed_ints.compressed(packed, torch.ones(16, 2), packed_zeros, None, bits=4)
    assert torch.equal(found.codes.long(), codes) and torch.equal(found.zeros.long(), zeros)


def test_gptq_of_the_second_format_stores_zero_points_as_they_are() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    first = gptq(weight, 64, symmetric=True)
    second = {**first, "qzeros": words(torch.full((1, 8), 8))}
    for tensors, offset in ((first, 1), (second, 0)):
        found = packed_ints.gptq(**tensors, bits=4, zero_offset=offset)
        assert bool((found.zeros == 8).all())


def test_a_method_of_the_library_is_left_to_it(folder: Path) -> None:
    assert read_scheme(folder, {"quant_method": "bitsandbytes"}) is None
    scheme = read_scheme(folder, GPTQ)
    assert scheme is not None
    with pytest.raises(ModelError, match="no layer is"):
        read_layers(folder, scheme)
