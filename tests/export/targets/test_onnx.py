"""Every recipe as an ONNX graph: checker, stored types, shared quantizers, parity with the quantized module.

Parity bound: ONNX Runtime and torch round the same values, but a value at the edge between two 8-bit steps
may fall on either side, and each that does is one step (6 % in FP8) off. A layer of random weights has few.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tiny_export import PROFILE, SIZES, forwards, relative, scales, subject, transformer, with_digest
from torch import Tensor, nn

from export.artifacts.weights import FolderWeights
from export.quantization.quantize import quantize
from export.quantization.scales import Scales
from export.spec import RECIPES, ExportError, ExportSpec, Profile, Subject, TensorSpec
from export.subjects import wan_dit
from export.targets import onnx as target
from export.targets.onnx_session import MATMUL_4BIT_ACCURACY, SessionOptions

PARITY = {"fp16": 2e-3, "fp8": 1e-2, "fp8-attention": 2e-2, "int8": 1e-2, "int4": 2e-3}
"""ONNX Runtime against the fake-quantized torch module, both fp16."""

GROUPS = 7
"""Of one layer: q k v, three more of attention, two of the feed-forward, and the text."""


@cache
def made() -> Scales:
    return scales(num_layers=1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """recipe -> folder; each is built once, when first asked for."""
    root = tmp_path_factory.mktemp("onnx")

    @cache
    def build(recipe: str) -> Path:
        target.build(subject("fp16", num_layers=1), recipe, root / recipe, scales=made())
        return root / recipe

    return build


class Plus(nn.Module):
    """What takes the exporter next to no time."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight.float()


def small(module: nn.Module) -> Subject:
    """A subject of fp32 3 x 3 -> fp32 3 or 3 x 3, without linears to quantize."""
    inputs = (torch.eye(3),)
    outputs = tuple(module.eval()(*inputs).shape)
    prepared = subject(num_layers=1)
    return Subject(
        module=module,
        spec=ExportSpec(
            subject="wan_dit",
            inputs=(TensorSpec(name="x", dims=(3, 3), dtype="fp32"),),
            outputs=(TensorSpec(name="y", dims=outputs, dtype="fp32"),),
            profiles=(Profile(name="p", sizes={}),),
            tolerance=prepared.spec.tolerance,
            weights_digest="sha256:x",
        ),
        inputs=inputs,
        gate=prepared.gate,
    )


def graph(folder: Path) -> Any:
    return onnx.load(folder / target.MODEL)


def named(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return dict(zip(["latents", "timestep", "text", "text_mask"], inputs, strict=True))


@pytest.mark.parametrize("recipe", PARITY)
def test_parity_with_the_quantized_module(recipe: str, built: Any) -> None:
    module = target.load_module(built(recipe))
    quantized = quantize(subject("fp16", num_layers=1), recipe, made()).module
    for inputs in forwards():
        with torch.no_grad():
            wanted = quantized(*inputs)
        error = relative(module(named(inputs))["velocity"], wanted)
        assert error <= PARITY[recipe], error


def test_what_onnxruntime_cannot_run_is_refused(built: Any, tmp_path: Path) -> None:
    target.build(small(Plus(torch.bfloat16)), "bf16", tmp_path / "bf16")
    for recipe, folder in (("bf16", tmp_path / "bf16"), ("nvfp4", built("nvfp4"))):
        with pytest.raises(ExportError, match=f"recipe {recipe} .* does not run in ONNX Runtime"):
            target.load(folder)


@pytest.mark.parametrize(
    ("recipe", "kind", "merged"),
    [
        ("fp8", onnx.TensorProto.FLOAT8E4M3FN, True),
        ("int8", onnx.TensorProto.INT8, True),
        ("int4", onnx.TensorProto.INT4, False),
        ("nvfp4", onnx.TensorProto.FLOAT4E2M1, False),
    ],
)
def test_weights_are_stored_quantized(recipe: str, kind: int, merged: bool, built: Any) -> None:
    stored = [t for t in graph(built(recipe)).graph.initializer if t.data_type == kind and len(t.dims) == 2]
    others = [(32, 32)] * 3 + [(32, 64), (64, 32)]  # [in, out]
    read_one = [(32, 96), (32, 64)] if merged else [(32, 32)] * 5  # q k v, and the text's k and v
    assert sorted(tuple(t.dims) for t in stored) == sorted([*others, *read_one])


@pytest.mark.parametrize(("recipe", "operator"), [("fp8", "QuantizeLinear"), ("int8", "QuantizeLinear")])
def test_one_quantizer_and_one_product_for_each_group(recipe: str, operator: str, built: Any) -> None:
    nodes = graph(built(recipe)).graph.node
    quantizers = [node for node in nodes if node.op_type == operator]
    assert len(quantizers) == GROUPS
    readers = Counter(name for node in nodes for name in node.input if node.op_type == "MatMul")
    behind = {node.input[0]: node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    assert [readers[behind[node.output[0]]] for node in quantizers] == [1] * GROUPS


def test_a_graph_of_the_old_layout_is_read(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three products give what one gives."""
    new = built("fp8")
    monkeypatch.setitem(RECIPES, "fp8", replace(RECIPES["fp8"], layout=1))
    target.build(subject("fp16", num_layers=1), "fp8", tmp_path / "old", scales=made())
    assert sum(n.op_type == "MatMul" for n in graph(tmp_path / "old").graph.node) == 3 + sum(
        n.op_type == "MatMul" for n in graph(new).graph.node
    )
    old, one = (target.load_module(f)(named(forwards(1)[0]))["velocity"] for f in (tmp_path / "old", new))
    assert relative(one, old) < 2e-3


def test_nvfp4_has_dynamic_activations(built: Any) -> None:
    nodes = [n for n in graph(built("nvfp4")).graph.node if n.op_type == "TRT_FP4DynamicQuantize"]
    assert len(nodes) == GROUPS and {node.domain for node in nodes} == {"trt"}


def test_attention_is_one_operator_unless_fp8(built: Any) -> None:
    count = {r: Counter(n.op_type for n in graph(built(r)).graph.node) for r in ("fp8", "fp8-attention")}
    assert count["fp8"]["Attention"] == 2 and not count["fp8"]["Softmax"]
    assert count["fp8-attention"]["Softmax"] == 2 and not count["fp8-attention"]["Attention"]
    assert count["fp8-attention"]["QuantizeLinear"] == GROUPS + 2 * 4
    for kinds in count.values():
        assert not kinds["ScatterND"]  # the library's rotary embedding would leave some


def test_record_and_files(built: Any) -> None:
    folder = built("fp8")
    record = target.read_record(folder)
    assert (record["recipe"], record["dtype"], record["opset"]) == ("fp8", "fp16", 23)
    assert set(record["bytes"]) == {target.MODEL, target.WEIGHTS}
    assert set(record["seconds"]) == {"quantize", "export", "optimize", "save", "check"}
    assert {path.name for path in folder.iterdir()} == {target.MODEL, target.WEIGHTS, target.RECORD}


def test_a_graph_states_the_options_it_is_run_with(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SessionOptions] = []
    monkeypatch.setattr(target, "open_session", lambda model, options: seen.append(options))
    folder = Path(shutil.copytree(built("int4"), tmp_path / "c"))
    record = json.loads((folder / target.RECORD).read_text())
    assert record["session"]["config"] == {MATMUL_4BIT_ACCURACY: "0"}
    stated = SessionOptions(level="enable_basic", config={"a": "b"})
    (folder / target.RECORD).write_text(json.dumps(record | {"session": stated.record()}))
    given = SessionOptions(level="enable_all")
    target.load_module(folder)
    target.load_module(folder, session=given)
    assert seen == [stated, given] and target.stated_options(folder) == stated
    assert target.place_of(folder)["options"] == "enable_basic, a=b"


@pytest.mark.parametrize("recipe", ["fp16", "fp8-attention"])
def test_no_operator_that_a_runtime_computes_wrong(recipe: str, built: Any) -> None:
    for node in graph(built(recipe)).graph.node:
        assert node.op_type != "GroupNormalization"
        assert not any(attribute.name == "is_causal" and attribute.i for attribute in node.attribute)


def test_denoiser_over_the_graph(built: Any) -> None:
    denoise = target.load(built("fp16"))
    latents, timestep, text, _ = forwards(1)[0]
    short = text[:, :8]
    velocity = denoise(latents, timestep, denoise.prepare(short), branch="cond")
    with torch.no_grad():
        exact = transformer(num_layers=1)(
            latents, timestep.repeat_interleave(6, dim=1), short, return_dict=False
        )[0]
    assert relative(velocity, exact) < 5e-3
    both = denoise(latents, timestep, torch.cat([short, -short]), branch="both")
    assert torch.equal(both[:1], velocity) and not torch.equal(both[1:], velocity)


@pytest.mark.slow
def test_profiles_that_differ_leave_dimensions_open(tmp_path: Path) -> None:
    other = Profile(name="other", sizes={"B": 2, "F": 2, "h": 6, "w": 6, "L": 12})
    prepared = subject("fp32", num_layers=1, profiles=(Profile(name="a", sizes={**SIZES, "B": 2}), other))
    exact = subject(num_layers=1).module
    target.build(prepared, "fp16", tmp_path / "o")
    module = target.load_module(tmp_path / "o")
    for frames, height in ((3, 4), (2, 6)):
        inputs = (
            torch.randn(2, 4, frames, height, 6),
            torch.full((2, frames), 500.0),
            torch.randn(2, 12, 16),
            torch.zeros(2, 12),
        )
        with torch.no_grad():
            assert relative(module(named(inputs))["velocity"], exact(*inputs)) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.zeros(1, 4, 3, 4, 8)}, "wan_dit was not built for"),
        ({"text": torch.zeros(1, 12, 16, dtype=torch.float16)}, "text is torch.float16, built for torch.fl"),
    ],
)
def test_foreign_inputs_are_refused(change: dict[str, Tensor], message: str, built: Any) -> None:
    module = target.load_module(built("fp16"))
    with pytest.raises(ExportError, match=message):
        module(named(forwards(1)[0]) | change)


def low_memory(recipe: str, folder: Path, *, with_weights: bool) -> Path:
    """The checkpoint beside `folder` exported with weights first, or streamed into a graph without them."""
    source = folder.parent / "t"
    if not source.is_dir():
        transformer(num_layers=1).save_pretrained(source)
    prepared = wan_dit.prepare(source, profiles=(PROFILE,), dtype="fp32", with_weights=with_weights)
    weights = None if with_weights else FolderWeights(source)
    target.build(with_digest(prepared, "sha256:tiny"), recipe, folder, scales=made(), weights=weights)
    return folder


@pytest.mark.parametrize(
    "recipe",
    ["fp8-attention", *(pytest.param(name, marks=pytest.mark.slow) for name in ("int8", "int4", "nvfp4"))],
)
def test_low_memory_export_equals_the_plain_one(recipe: str, tmp_path: Path) -> None:
    folders = [low_memory(recipe, tmp_path / f"o{full}", with_weights=full) for full in (True, False)]
    operators = [Counter(node.op_type for node in graph(folder).graph.node) for folder in folders]
    for kind in ("QuantizeLinear", "DequantizeLinear", "TRT_FP4DynamicQuantize", "MatMul", "Cast"):
        assert operators[0][kind] == operators[1][kind], kind
    if recipe != "nvfp4":
        inputs = named(forwards(1)[0])
        assert torch.equal(*(target.load_module(folder)(inputs)["velocity"] for folder in folders))


def test_low_memory_export_needs_the_weights(tmp_path: Path) -> None:
    transformer(num_layers=1).save_pretrained(tmp_path / "t")
    empty = wan_dit.prepare(tmp_path / "t", profiles=(PROFILE,), with_weights=False)
    with pytest.raises(ExportError, match="are not loaded"):
        target.build(empty, "fp16", tmp_path / "x")


def test_a_graph_without_its_quantizers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the exporter makes when its first capture fails: right numbers, no operator to fuse."""
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: False)
    with pytest.raises(ExportError, match="has 0 DequantizeLinear for 14 quantized parts"):
        target.build(subject("fp16", num_layers=1), "fp8", tmp_path / "o", scales=made())
    assert not list(tmp_path.iterdir())


def test_no_half_written_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(target, "check", full)
    with pytest.raises(ExportError, match="is full: No space left"):
        target.build(small(Plus(torch.float16)), "fp16", tmp_path / "o")
    assert list(tmp_path.iterdir()) == []


def test_a_small_disk_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(target.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ExportError, match=r"GiB of weights, 0\.0 GiB free"):
        target.build(small(Plus(torch.float16)), "fp16", tmp_path / "o")
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_refused_before_exporting(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nearest: fp8"):
        target.build(subject(num_layers=1), "fp88", tmp_path / "o")
    with pytest.raises(ExportError, match="needs the magnitudes"):
        target.build(subject(num_layers=1), "int8", tmp_path / "o")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(ExportError, match="is not empty"):
        target.build(subject(num_layers=1), "fp16", tmp_path / "used")


class Sorting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).real


def test_unsupported_operator(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no ONNX form"):
        target.build(small(Sorting()), "fp16", tmp_path / "o")


def test_damaged_folders_are_refused(built: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read"):
        target.load(tmp_path)
    copy = Path(shutil.copytree(built("fp8"), tmp_path / "c"))
    with pytest.raises(ExportError, match="on the CPU, not on cuda"):
        target.load(copy, "cuda")
    with (copy / target.WEIGHTS).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ExportError, match="incomplete"):
        target.load(copy)
    (copy / target.RECORD).write_text(json.dumps({"schema": 99}))
    with pytest.raises(ExportError, match="schema 99"):
        target.load(copy)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    target.build(
        small(Plus(torch.float16)),
        "fp16",
        tmp_path / "o",
        progress=lambda name, seconds: told.append(name),
    )
    assert told == ["quantize", "export", "optimize", "save", "check"]
    assert np.all([seconds >= 0 for seconds in target.read_record(tmp_path / "o")["seconds"].values()])
