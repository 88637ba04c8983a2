"""The TensorRT target on tiny graphs: gated engines for 8.9 and 12.0, kept once, refused elsewhere."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_graphs import DIM, TOKENS, write_onnx

from export.artifacts.device_identity import Machine
from export.artifacts.store import Artifact, Store
from export.spec import ExportError, ExportSpec, Gate, Profile, TensorSpec
from export.targets import tensorrt
from export.trt.builder import BuildOptions
from export.trt.engine import Engine
from export.trt.library import Library, find, is_installed

pytestmark = pytest.mark.skipif(
    not is_installed("tensorrt-rtx") or importlib.util.find_spec("onnx") is None,
    reason="the packages tensorrt-rtx and onnx are not both installed",
)
RTX = "tensorrt-rtx"
SPEC = ExportSpec(
    subject="block",
    inputs=(TensorSpec(name="x", dims=("B", TOKENS, DIM), dtype="fp16"),),
    outputs=(TensorSpec(name="y", dims=("B", TOKENS, DIM), dtype="fp16"),),
    profiles=(Profile(name="one", sizes={"B": 1}), Profile(name="two", sizes={"B": 2})),
    tolerance={},
    weights_digest="sha256:block",
)
GPU = Machine(gpu="RTX 4090", compute_capability=89, driver="580.1", cpu="x86_64")


def gate(recipe: str, capability: int) -> Gate:
    """Merged, q, k and v are one product; the builder for 12.0 keeps FP8 ones apart."""
    merged = not (recipe == "fp8" and capability >= 120)
    number = 2 if merged else 4
    return Gate(
        num_fused_attention=1,
        fused_attention_dtype="fp16",
        num_fp8_gemm=number if recipe == "fp8" else 0,
        num_int8_gemm=number if recipe == "int8" else 0,
        merged_qkv=merged,
        max_activation_bytes=2**26,
    )


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    made = {name: write_onnx(folder / f"{name}.onnx", name) for name in ("fp16", "fp8", "int8")}
    return {**made, "unfused": write_onnx(folder / "unfused.onnx", fused_attention=False)}


def build(graphs: Mapping[str, Path], root: Path, recipe: str, **changes: Any) -> Artifact:
    arguments: dict[str, Any] = {
        "onnx": graphs[recipe],
        "spec": SPEC,
        "gate": gate(recipe, 89),
        "store": Store(root),
        "target": RTX,
        "recipe": recipe,
        "capability": 89,
        "scales": None,
    }
    return tensorrt.build(**{**arguments, **changes})


@pytest.mark.parametrize("capability", [89, 120])
@pytest.mark.parametrize("recipe", ["fp16", "fp8", "int8"])
def test_a_gated_engine_is_kept(
    recipe: str, capability: int, graphs: Mapping[str, Path], tmp_path: Path
) -> None:
    made = build(graphs, tmp_path, recipe, capability=capability, gate=gate(recipe, capability))
    assert set(made.files) == {"engine.plan", "layers.json", "gates.json", "fusions.json"}
    assert made.files["engine.plan"] == made.details["plan_sha256"]
    assert [one["fused_attention"] for one in made.details["summary"]] == [1, 1]
    assert made.key["capabilities"] == [capability] and made.key["machine"] is None
    checks = json.loads(made.file("gates.json").read_text(encoding="utf-8"))
    assert len(checks) == made.details["gates"] and all(check["passed"] for check in checks)
    fusions = json.loads(made.file("fusions.json").read_text(encoding="utf-8"))
    assert made.details["fusions"] == [
        line for line, one in zip(fusions["lines"], fusions["fusions"], strict=True) if one["profile"] == 0
    ]
    assert fusions["library"] == find(RTX).version and fusions["lines"][0].startswith("1 x attention in fp16")
    products = sum(one["count"] for one in fusions["fusions"] if one["part"] == f"product in {recipe}")
    wanted = gate(recipe, capability)
    assert products == 2 * ((wanted.num_fp8_gemm or 0) + (wanted.num_int8_gemm or 0))  # of two profiles
    layers = json.loads(made.file("layers.json").read_text(encoding="utf-8"))
    assert len(layers["rows"]) == sum(one["rows"] for one in made.details["summary"])


def test_weights_in_fp8_take_half(graphs: Mapping[str, Path], tmp_path: Path) -> None:
    sizes = [build(graphs, tmp_path, recipe).details["weights_bytes"] for recipe in ("fp16", "fp8")]
    assert sizes[1] < 0.6 * sizes[0]


def test_the_same_request_builds_once(
    graphs: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(graphs, tmp_path, "fp16")
    monkeypatch.setattr(tensorrt, "run_builder", lambda *args, **kwargs: pytest.fail("built again"))
    assert build(graphs, tmp_path, "fp16") == made


@pytest.fixture(scope="module")
def plain(graphs: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return build(graphs, tmp_path_factory.mktemp("plain"), "fp16")


@pytest.mark.parametrize(
    "change",
    [
        {"capability": 120},
        {"scales": "sha256:s"},
        {"loras": (("sha256:l", 1.0),)},
        {"options": BuildOptions(weight_streaming=True)},
        {"spec": dataclasses.replace(SPEC, weights_digest="sha256:other")},
        {"spec": dataclasses.replace(SPEC, profiles=SPEC.profiles[:1])},
    ],
)
def test_another_request_is_another_artifact(
    change: dict[str, Any], graphs: Mapping[str, Path], plain: Artifact, tmp_path: Path
) -> None:
    assert build(graphs, tmp_path, "fp16", **change).digest != plain.digest


def test_a_lost_fusion_fails_the_build_and_nothing_is_kept(
    graphs: Mapping[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError) as caught:
        build(graphs, tmp_path, "fp16", onnx=graphs["unfused"])
    assert "fused attention kernels (profile 0): expected 1, found 0" in caught.value.problem
    assert "no S x S buffer (profile 1): expected none, found" in caught.value.problem
    assert "what was fused:\n  neither attention nor 8 bits" in caught.value.problem
    assert Store(tmp_path).list() == [] and not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_graph_that_was_not_quantized_is_found_out(graphs: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"FP8 matrix products \(profile 0\): expected 2, found 0"):
        build(graphs, tmp_path, "fp8", onnx=graphs["fp16"])


def test_every_capability_is_checked_before_the_first_build(
    graphs: Mapping[str, Path], tmp_path: Path
) -> None:
    wanted = {89: gate("fp8", 89), 86: gate("fp8", 86)}
    with pytest.raises(ExportError, match=r"fp8 needs compute capability 8.9, not 8.6"):
        tensorrt.build_all(
            graphs["fp8"], SPEC, wanted, Store(tmp_path), target=RTX, recipe="fp8", scales=None
        )
    assert Store(tmp_path).list() == []


def test_one_plan_for_each_capability(graphs: Mapping[str, Path], tmp_path: Path) -> None:
    phases: list[str] = []
    wanted = {cc: gate("fp8", cc) for cc in (89, 120)}
    made = tensorrt.build_all(
        graphs["fp8"],
        SPEC,
        wanted,
        Store(tmp_path),
        target=RTX,
        recipe="fp8",
        scales=None,
        on_progress=lambda phase, peak: phases.append(phase),
    )
    assert [one.key["capabilities"] for one in made] == [[89], [120]] and phases.count("parsing") == 2


def test_a_disk_without_space_is_refused(
    graphs: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "FIXED_BYTES", 10**16)
    with pytest.raises(ExportError, match="of free disk space"):
        build(graphs, tmp_path, "fp16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capability": None}, "builds for stated compute capabilities"),
        ({"capability": 90}, "cannot build for compute capability 90"),
        ({"onnx": Path("nowhere.onnx")}, "nowhere.onnx is no ONNX file"),
        ({"target": "tensorflow"}, "is not a TensorRT target"),
        (
            {
                "spec": dataclasses.replace(
                    SPEC, profiles=tuple(Profile(name=n, sizes={"B": 1}) for n in "abcd")
                )
            },
            "4 profiles in one engine",
        ),
    ],
)
def test_bad_requests_are_refused(
    change: dict[str, Any], message: str, graphs: Mapping[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        build(graphs, tmp_path, "fp16", **change)


FULL = Library(target="tensorrt", module_name="tensorrt", version="10.13", needs_gpu=True, capabilities=())


def full_key(capability: int | None, machine: Machine) -> Any:
    return tensorrt.key_of(
        SPEC,
        FULL,
        recipe="fp16",
        capability=capability,
        machine=machine,
        scales=None,
        loras=(),
        options=BuildOptions(),
    )


def test_full_tensorrt_belongs_to_gpu_and_driver() -> None:
    key = full_key(None, GPU)
    assert key.machine == GPU and key.capabilities == ()
    assert key.digest != full_key(89, dataclasses.replace(GPU, driver="590")).digest


@pytest.mark.parametrize(
    ("capability", "machine", "message"),
    [
        (None, dataclasses.replace(GPU, gpu=None, compute_capability=None), "there is none here"),
        (120, GPU, r"builds for the GPU of this machine \(RTX 4090, 89\), not for 120"),
    ],
)
def test_full_tensorrt_builds_where_it_runs(capability: int | None, machine: Machine, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        full_key(capability, machine)


def test_an_engine_is_not_loaded_on_another_card(
    graphs: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(graphs, tmp_path, "fp16")
    monkeypatch.setattr(
        tensorrt, "present_machine", lambda index: dataclasses.replace(GPU, compute_capability=90)
    )
    with pytest.raises(ExportError, match=r"for compute capability 8.9, this machine has 9.0 \(RTX 4090\)"):
        tensorrt.load_module(made.folder)


def test_an_engine_of_another_checkpoint_is_not_loaded(
    graphs: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(graphs, tmp_path, "fp16")
    monkeypatch.setattr(tensorrt, "present_machine", lambda index: GPU)
    with pytest.raises(ExportError, match="of weights sha256:block, the given checkpoint has sha256:new"):
        tensorrt.load(made.folder, weights="sha256:new")


def test_without_a_gpu_the_engine_says_where_to_run(
    graphs: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(graphs, tmp_path, "fp16")
    monkeypatch.setattr(tensorrt, "present_machine", lambda index: GPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ExportError, match="runs on an NVIDIA GPU"):
        tensorrt.load_module(made.folder)


def test_caches_belong_to_engine_or_library_gpu_and_driver(
    graphs: Mapping[str, Path], tmp_path: Path
) -> None:
    made = build(graphs, tmp_path, "fp16")
    machines = (GPU, dataclasses.replace(GPU, driver="590"), dataclasses.replace(GPU, gpu="RTX 5090"))
    paths = {tensorrt.runtime_cache_path(tmp_path / "caches", made, machine) for machine in machines}
    paths |= {tensorrt.timing_cache_path(tmp_path / "caches", "10.13", machine) for machine in machines}
    assert len(paths) == 6 and all(path.parent.is_dir() for path in paths)


@pytest.mark.gpu
def test_an_engine_computes_what_the_block_computes(graphs: Mapping[str, Path], tmp_path: Path) -> None:
    """Never yet executed: it needs a card that TensorRT for RTX runs on (8.0, 8.6, 8.9, 12.x)."""
    from tiny_graphs import Block

    capability = int("".join(map(str, torch.cuda.get_device_capability())))
    if capability not in find(RTX).capabilities:
        pytest.skip(f"TensorRT for RTX does not run on compute capability {capability}")
    made = build(graphs, tmp_path, "fp16", capability=capability, gate=gate("fp16", capability))
    block = Block().cuda().eval()
    for cuda_graph in (False, True):
        engine: Engine = tensorrt.load_module(
            made.folder, "cuda", caches=tmp_path / "caches", cuda_graph=cuda_graph
        )
        for batch in (1, 2, 1):
            x = torch.randn(batch, TOKENS, DIM, device="cuda", dtype=torch.float16)
            with torch.inference_mode():
                expected = block(x)
            found = engine({"x": x})["y"]
            assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.999
        with pytest.raises(ExportError, match="was not built for"):
            engine({"x": torch.zeros(3, TOKENS, DIM, device="cuda", dtype=torch.float16)})
        engine.close()
    assert list((tmp_path / "caches").iterdir())
