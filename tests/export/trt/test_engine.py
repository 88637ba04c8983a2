"""The engine's calls against the installed library: nothing is executed, but every name it uses must exist.

Full TensorRT is checked the same way where it is installed. Running an engine is left to test_tensorrt.py.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from export.spec import ExportError, ExportSpec, Profile, TensorSpec
from export.trt import build_child, engine
from export.trt.engine import Engine, stream_weights
from export.trt.library import MODULES, is_installed

OBJECTS = {
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
}
IN_ENGINE = {
    **OBJECTS,
    "config": "IRuntimeConfig",
    "cache": "IRuntimeCache",
    "runtime_cache": "IRuntimeCache",
}
IN_CHILD = {
    **OBJECTS,
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "e": "ParserError",
    "tensor": "ITensor",
}
RTX_ONLY = {
    "IRuntimeCache",
    "CudaGraphStrategy",
    "ComputeCapability",
    "EngineInvalidityDiagnostics",
    "get_engine_validity",
    "create_runtime_config",
    "num_compute_capabilities",
    "set_compute_capability",
}


def used(path: str, objects: dict[str, str]) -> set[tuple[str, str]]:
    """(class, or "" for the module; attribute) of every access to an object of the library in a file."""
    found = set()
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", None)
        name = (name or "").lstrip("_")
        if name == "trt":
            found.add(("", node.attr))
        elif name in objects:
            found.add((objects[name], node.attr))
    return found


@pytest.mark.parametrize("target", MODULES)
@pytest.mark.parametrize(("module", "objects"), [(engine, IN_ENGINE), (build_child, IN_CHILD)])
def test_every_name_exists_in_the_library(target: str, module: Any, objects: dict[str, str]) -> None:
    if not is_installed(target):
        pytest.skip(f"the package of target {target} is not installed")
    trt = importlib.import_module(MODULES[target])
    names = used(module.__file__, objects)
    assert len(names) > 15, names
    full = {"IRuntimeConfig", "IRuntimeCache"} if target == "tensorrt" else set()
    missing = [
        f"{owner}.{name}"
        for owner, name in sorted(names)
        if owner not in full
        and not (target == "tensorrt" and name in RTX_ONLY)
        and not hasattr(getattr(trt, owner) if owner else trt, name)
    ]
    assert missing == []


@pytest.mark.parametrize("target", MODULES)
def test_every_element_type_is_one_of_the_library(target: str) -> None:
    if not is_installed(target):
        pytest.skip(f"the package of target {target} is not installed")
    trt = importlib.import_module(MODULES[target])
    assert set(engine._TORCH) <= set(trt.DataType.__members__)


def test_names_that_do_not_exist_would_be_found(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("self._context.run(1)\ntrt.Bilder(log)\nother.thing()\n", encoding="utf-8")
    assert used(str(source), IN_ENGINE) == {("IExecutionContext", "run"), ("", "Bilder")}


SPEC = ExportSpec(
    subject="thing",
    inputs=(TensorSpec(name="x", dims=("B",), dtype="fp32"),),
    outputs=(TensorSpec(name="y", dims=("B",), dtype="fp32"),),
    profiles=(Profile(name="p", sizes={"B": 1}),),
    tolerance={},
    weights_digest="d",
)


def test_a_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="runs on an NVIDIA GPU, not on cpu"):
        Engine(
            tmp_path / "p",
            SPEC,
            target="tensorrt-rtx",
            device=torch.device("cpu"),
            weight_streaming_bytes=None,
            runtime_cache=None,
            cuda_graph=False,
        )


@pytest.mark.skipif(not is_installed("tensorrt-rtx"), reason="the package tensorrt-rtx is not installed")
def test_a_plan_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    trt = importlib.import_module("tensorrt_rtx")
    plan = tmp_path / "engine.plan"
    plan.write_bytes(b"no engine" * 100)
    messages = engine._Messages(trt)
    with pytest.raises(ExportError, match=r"cannot be loaded by tensorrt_rtx .*: INVALID") as caught:
        engine._deserialize(trt, trt.Runtime(messages.logger), plan, messages)
    assert "of one kind of card" in caught.value.fix


@pytest.mark.skipif(not is_installed("tensorrt-rtx"), reason="the package tensorrt-rtx is not installed")
def test_the_reasons_of_the_library_are_named() -> None:
    trt = importlib.import_module("tensorrt_rtx")
    kinds = trt.EngineInvalidityDiagnostics
    bits = int(kinds.UNSUPPORTED_CC) | int(kinds.OLD_CUDA_DRIVER)
    runtime = SimpleNamespace(get_engine_validity=lambda data: (trt.EngineValidity.INVALID, bits))
    assert set(engine._validity(trt, runtime, b"").split()) == {
        "INVALID",
        "UNSUPPORTED_CC",
        "OLD_CUDA_DRIVER",
    }


def test_streaming_wants_an_engine_that_can() -> None:
    fixed = SimpleNamespace(streamable_weights_size=0, weight_streaming_budget_v2=None)
    with pytest.raises(ExportError, match="was built without weight streaming"):
        stream_weights(fixed, Path("engine.plan"), 10)
    streaming = SimpleNamespace(streamable_weights_size=100, weight_streaming_budget_v2=None)
    stream_weights(streaming, Path("engine.plan"), 30)
    assert streaming.weight_streaming_budget_v2 == 30
    stream_weights(streaming, Path("engine.plan"), 1000)
    assert streaming.weight_streaming_budget_v2 == 100


def test_foreign_inputs_never_reach_the_engine() -> None:
    """It is given addresses: what lies there it cannot ask."""
    made = Engine.__new__(Engine)
    made.spec, made._device = SPEC, torch.device("cuda", 0)
    for inputs, message in (
        ({"x": torch.zeros(1)}, "x is on cpu, built for cuda:0"),
        ({"x": torch.zeros(1).half()}, "x is torch.float16, built for torch.float32"),
        ({"x": torch.zeros(2)}, "thing was not built for"),
    ):
        with pytest.raises(ExportError, match=message):
            made(inputs)
