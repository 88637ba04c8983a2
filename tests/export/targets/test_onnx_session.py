"""Session options: stated in a record, read back, used, and all the others there are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from export.spec import ExportError, recipe_of
from export.targets.onnx_session import (
    LEVELS,
    MATMUL_4BIT_ACCURACY,
    SessionOptions,
    open_session,
    options_from_record,
    options_of,
    others,
    place,
)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    made = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [onnx.helper.make_opsetid("", 23)]
    onnx.save(onnx.helper.make_model(made, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("recipe", ["fp16", "fp8", "int4"])
def test_what_is_stated_is_read_back(recipe: str) -> None:
    options = options_of(recipe_of(recipe))
    assert options_from_record(options.record()) == options and options.level == "disable_all"
    assert (MATMUL_4BIT_ACCURACY in options.config) == (recipe == "int4")


@pytest.mark.parametrize("recipe", ["fp16", "int4"])
def test_the_others_are_all_but_its_own(recipe: str) -> None:
    own = options_of(recipe_of(recipe))
    found = others(own)
    assert own not in found and len({str(one) for one in (*found, own)}) == len(found) + 1
    assert len(found) + 1 == (2 if own.config else 1) * len(LEVELS)
    assert SessionOptions(level="enable_extended") in found


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {},
        {"level": "fast", "config": {}},
        {"level": "enable_all", "config": {"a": 1}},
        {"config": 3},
    ],
)
def test_options_that_are_none_are_refused(record: Any) -> None:
    with pytest.raises(ExportError, match="session options"):
        options_from_record(record)


@pytest.mark.parametrize("level", LEVELS)
def test_a_session_has_the_options_and_torchs_threads(level: str, graph: Path) -> None:
    options = SessionOptions(level=level, config={MATMUL_4BIT_ACCURACY: "0"})
    settings = open_session(graph, options).get_session_options()
    assert settings.graph_optimization_level.name == f"ORT_{level.upper()}"
    assert settings.get_session_config_entry(MATMUL_4BIT_ACCURACY) == "0"
    assert settings.intra_op_num_threads == torch.get_num_threads()


def test_a_graph_that_cannot_be_opened_is_an_error(graph: Path) -> None:
    graph.write_bytes(b"\xff" * graph.stat().st_size)
    with pytest.raises(ExportError, match=r"onnxruntime .* cannot open .*m\.onnx with disable_all"):
        open_session(graph, SessionOptions(level="disable_all"))


def test_the_place_says_runtime_provider_and_options() -> None:
    options = options_of(recipe_of("int4"))
    found = place(options)
    assert found["runtime"].startswith("onnxruntime 1.") and "CPUExecutionProvider" in found["device"]
    assert found["options"] == f"disable_all, {MATMUL_4BIT_ACCURACY}=0"
    assert found != place(dataclasses.replace(options, config={}))
