"""The bundled generator's trained weights as graphs and TensorRT for RTX engines: four recipes, two cards.

With the first two of its layers, and, slowly, with all eight. Each graph is exported once; its engines are
built in the background while the next tests run. Parity is measured on forwards of a real take, at its first
and its last step. Through eight trained layers a bound on ONNX Runtime against the fake-quantized module
cannot be tight: a value at the edge of two 8-bit steps that falls on the other side moves all that follow,
until the rounding errors of the two are as good as unrelated. So what must agree closely is how far each is
from the exact module; one layer agrees to 1 % in test_onnx.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from bench.quality.export_trajectories import bundled_profile, collect
from engine.build.model_folders import find_generator
from engine.generators.wan import generator as wan
from export.artifacts.store import Artifact, Store
from export.forms import DENSE, Form
from export.generator_inputs import form_of
from export.quantization.calibrate import Difference, Forward, observe
from export.quantization.quantize import quantize
from export.quantization.scales import Scales
from export.spec import ExportError, Profile, Subject
from export.subjects import wan_dit, wan_forms
from export.targets import onnx as graphs
from export.targets import tensorrt
from export.trt.library import is_installed

pytestmark = [
    pytest.mark.skipif(
        not is_installed("tensorrt-rtx") or importlib.util.find_spec("onnx") is None,
        reason="the packages tensorrt-rtx and onnx are not both installed",
    ),
    pytest.mark.timeout(1200),  # exports of trained weights, on a machine that may be busy
]
RTX = "tensorrt-rtx"
CAPABILITIES = (89, 120)
NUM_TOKENS = 17 * 8 * 8
NUM_STEPS = {2: 2, 8: 3}
"""Of the take, by the number of layers that are exported."""

PARITY = {"fp16": 4e-3, "fp8": 0.05, "int8": 0.03, "fp8-attention": 0.07}
"""ONNX Runtime against the fake-quantized module: norm(difference) / norm(module), at most."""
SAME_LOSS = 1.1
"""ONNX Runtime's distance to the exact fp32 module, over that of the fake-quantized module: at most."""

GEMMS = {"fp16": None, "fp8": "gemm fp8", "int8": "gemm int8", "fp8-attention": "gemm fp8"}
"""The kind of kernel of 8-bit GEMMs. Each is a group's, on either card: a builder for 12.0 merges none of FP8
itself, so the graph has one product of linears that read one tensor."""
RECIPES = tuple(PARITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """Forwards of a real take, and what the exact module makes of those that parity is measured on."""

    transformer: Path
    num_layers: int
    form: Form
    profile: Profile
    scales: Scales
    forwards: Sequence[Forward]
    exact: Sequence[Tensor]

    @property
    def num_gemms(self) -> int:
        """Linears that read one tensor are one group: q k v, three more of attention, two of the
        feed-forward, and the keys and values of the text of all layers."""
        return 6 * self.num_layers + 1

    @property
    def num_attentions(self) -> int:
        """A prefix that looks at itself alone has a self-attention of its own."""
        return (3 if self.form.own_prefix else 2) * self.num_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A recipe's graph and, by compute capability, its engines."""

    subject: Subject
    folder: Path
    engines: dict[int, Future[Artifact]]


def prepared(transformer: Path, profile: Profile, dtype: str, form: Form) -> Subject:
    return wan_forms.prepare(transformer, profiles=(profile,), dtype=dtype, form=form)


def first_layers(num_layers: int, folder: Path) -> Path:
    """The bundled transformer cut behind so many of its layers, with what is said of its prefix."""
    whole = WanTransformer3DModel.from_pretrained(find_generator("demo").path / "transformer")
    whole.blocks = whole.blocks[:num_layers]
    whole.register_to_config(num_layers=num_layers)
    whole.save_pretrained(folder)
    shutil.copy(find_generator("demo").path / "retake.json", folder)
    return folder


@pytest.fixture(scope="module", params=[2, pytest.param(8, marks=pytest.mark.slow)])
def take(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Take:
    """Steps of the whole generator on a held-out scene, two forwards each; parity uses the first and last."""
    steps = NUM_STEPS[request.param]
    generator = wan.load(find_generator("demo").path, device="cpu", dtype="fp32", num_inference_steps=steps)
    profile = bundled_profile(generator)
    transformer = first_layers(request.param, tmp_path_factory.mktemp("transformer"))
    form = form_of(find_generator("demo").path, generator, DENSE, wan_dit.SUBJECT, RTX)
    subject = prepared(transformer, profile, "fp32", form)
    forwards = list(collect(subject.spec, generator, 1, held_out=True))
    chosen = [forwards[0], forwards[-2]]
    with torch.inference_mode():
        exact = [subject.module(*forward) for forward in chosen]
    return Take(
        transformer=transformer,
        num_layers=request.param,
        form=form,
        profile=profile,
        scales=observe(subject, forwards),
        forwards=chosen,
        exact=exact,
    )


@pytest.fixture(scope="module")
def export(take: Take, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """recipe -> Export; made when first asked for."""
    root = tmp_path_factory.mktemp("bundled")
    with ThreadPoolExecutor(max_workers=1) as builds:

        @cache
        def make(recipe: str) -> Export:
            subject = prepared(take.transformer, take.profile, "fp16", take.form)
            graphs.build(subject, recipe, root / recipe, scales=take.scales)
            engines = {
                capability: builds.submit(
                    engine, root / recipe, root / "engines", subject, recipe, capability
                )
                for capability in CAPABILITIES
            }
            return Export(subject=subject, folder=root / recipe, engines=engines)

        yield make
        builds.shutdown(cancel_futures=True)


def engine(
    graph: Path, out: Path, subject: Subject, recipe: str, capability: int, **changes: Any
) -> Artifact:
    return tensorrt.build(
        graph / graphs.MODEL,
        subject.spec,
        replace(subject.gate(recipe, capability), **changes),
        Store(out),
        target=RTX,
        recipe=recipe,
        capability=capability,
        scales=None,
    )


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Difference:
    total = Difference()
    for one, other in zip(found, wanted, strict=True):
        total.add(other, one)
    return total


@pytest.mark.parametrize("recipe", RECIPES)
def test_onnxruntime_computes_what_the_quantized_module_computes(
    recipe: str, take: Take, export: Any
) -> None:
    run = graphs.load_module(export(recipe).folder)
    names = [tensor.name for tensor in run.spec.inputs]
    found = [run(dict(zip(names, forward, strict=True)))["velocity"] for forward in take.forwards]
    module = quantize(prepared(take.transformer, take.profile, "fp16", take.form), recipe, take.scales).module
    with torch.inference_mode():
        quantized = [module(*forward) for forward in take.forwards]
    parity, loss, own_loss = (
        difference(*pair) for pair in ((found, quantized), (found, take.exact), (quantized, take.exact))
    )
    assert parity.relative <= PARITY[recipe]
    assert loss.relative <= SAME_LOSS * own_loss.relative
    allowed = run.spec.tolerance_of(recipe)
    assert loss.relative <= allowed.relative and loss.cosine >= allowed.cosine


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_checker_accepts_the_graph(recipe: str, take: Take, export: Any) -> None:
    import onnx

    path = export(recipe).folder / graphs.MODEL
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path), load_external_data=False)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 23
    operators = Counter(node.op_type for node in model.graph.node)
    attention = "Softmax" if recipe == "fp8-attention" else "Attention"
    assert operators[attention] == take.num_attentions
    stored = Counter(tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2)
    kind = {"fp16": "FLOAT16", "int8": "INT8"}.get(recipe, "FLOAT8E4M3FN")
    wanted = 10 * take.num_layers if recipe == "fp16" else take.num_gemms
    assert stored[onnx.TensorProto.DataType.Value(kind)] >= wanted


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_engine_passes_every_gate(recipe: str, capability: int, take: Take, export: Any) -> None:
    made: Artifact = export(recipe).engines[capability].result()
    (summary,) = made.details["summary"]
    kind, gemms = GEMMS[recipe], summary["matrix_products"]
    found = {kind: number for kind, number in gemms.items() if kind.endswith(("fp8", "int8"))}
    assert found == ({} if kind is None else {kind: take.num_gemms})
    assert summary["fused_attention"] == take.num_attentions
    assert ("fp8" in summary["fused_attention_inputs"]) == (recipe == "fp8-attention")
    dims, _ = summary["largest_output"]
    assert math.prod(dims) < NUM_TOKENS**2  # less than the scores of one head
    checks = json.loads(made.file(tensorrt.GATES).read_text(encoding="utf-8"))
    names = [
        "weight memory",
        "fused attention kernels",
        "fused attention inputs",
        "no S x S buffer",
        "FP8 matrix products",
        "INT8 matrix products",
        "activation memory",
        "merged QKV",
    ]
    assert sorted(check["name"] for check in checks) == sorted(names)
    assert all(check["passed"] for check in checks)


@pytest.mark.parametrize("recipe", ["fp8", "int8", "fp8-attention"])
def test_8_bit_weights_of_linears_take_half(recipe: str, take: Take, export: Any) -> None:
    half, eighths = (export(name).engines[89].result().details["weights_bytes"] for name in ("fp16", recipe))
    in_linears = take.num_layers * (8 * 256 * 256 + 2 * 256 * 1024)  # attentions, feed-forward
    assert 0.98 * in_linears < half - eighths <= in_linears


def test_an_attention_that_no_longer_fuses_fails_the_build(take: Take, export: Any, tmp_path: Path) -> None:
    """As an output of the graph, the probabilities of one attention have to be in memory."""
    import onnx

    source = export("fp8-attention")
    model = onnx.load(str(source.folder / graphs.MODEL), load_external_data=False)
    scores = next(node.output[0] for node in model.graph.node if node.op_type == "Softmax")
    model.graph.output.append(onnx.helper.make_tensor_value_info(scores, onnx.TensorProto.FLOAT16, None))
    graph, out = tmp_path / "graph", tmp_path / "engines"
    graph.mkdir()
    onnx.save(model, str(graph / graphs.MODEL))
    shutil.copy(source.folder / graphs.WEIGHTS, graph)
    with pytest.raises(ExportError) as caught:
        engine(graph, out, source.subject, "fp8-attention", 89)
    wanted = take.num_attentions
    problem = f"fused attention kernels (profile 0): expected {wanted}, found {wanted - 1}"
    assert problem in caught.value.problem
    assert "no S x S buffer (profile 0): expected none, found" in caught.value.problem
    assert not any(path.is_dir() for path in out.iterdir())


def test_another_number_of_products_than_expected_fails_the_build(
    take: Take, export: Any, tmp_path: Path
) -> None:
    source, found = export("fp8"), take.num_gemms
    problem = rf"FP8 matrix products \(profile 0\): expected {found + 1}, found {found}"
    with pytest.raises(ExportError, match=problem):
        engine(source.folder, tmp_path, source.subject, "fp8", 89, num_fp8_gemm=found + 1)
    assert not any(path.is_dir() for path in tmp_path.iterdir())
