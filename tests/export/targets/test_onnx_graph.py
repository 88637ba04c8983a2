"""What the check of a graph lets through and what it refuses; how the runtime at hand computes the latter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export.spec import ExportError
from export.targets import onnx_graph
from export.targets.onnx_session import SessionOptions, open_session

FLOAT = onnx.TensorProto.FLOAT
PLAIN = SessionOptions(level="disable_all")


def saved(
    path: Path, operator: str, inputs: dict[str, list[int]], output: list[int], **attributes: Any
) -> Path:
    node = onnx.helper.make_node(operator, list(inputs), ["y"], name="n", **attributes)
    values = [onnx.helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()]
    graph = onnx.helper.make_graph(
        [node], "g", values, [onnx.helper.make_tensor_value_info("y", FLOAT, output)]
    )
    opsets = [onnx.helper.make_opsetid("", 23)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def attention(path: Path, **attributes: Any) -> Path:
    """One query, five keys."""
    shapes = {"q": [1, 1, 1, 8], "k": [1, 1, 5, 8], "v": [1, 1, 5, 8]}
    return saved(path, "Attention", shapes, [1, 1, 1, 8], **attributes)


def test_a_bad_graph_is_refused(tmp_path: Path) -> None:
    bad = saved(tmp_path / "m.onnx", "MatMul", {"x": [2, 3], "z": [2, 3]}, [2, 3])
    with pytest.raises(ExportError, match="checker refuses"):
        onnx_graph.check(bad)


def test_causal_attention_is_refused(tmp_path: Path) -> None:
    """Of one query behind cached keys ONNX Runtime attends to the first key alone, as the standard says."""
    causal = attention(tmp_path / "causal.onnx", is_causal=1)
    with pytest.raises(ExportError, match="Attention n: is_causal counts the keys from the first") as caught:
        onnx_graph.check(causal)
    assert "as an input" in caught.value.fix
    for name, attributes in (("plain", {}), ("off", {"is_causal": 0}), ("scaled", {"scale": 0.5})):
        onnx_graph.check(attention(tmp_path / f"{name}.onnx", **attributes))
    source = np.random.default_rng(0)
    q, k, v = (source.standard_normal((1, 1, n, 8)).astype(np.float32) for n in (1, 5, 5))
    (found,) = open_session(causal, PLAIN).run(None, {"q": q, "k": k, "v": v})
    np.testing.assert_allclose(found[0, 0, 0], v[0, 0, 0])


def test_group_normalization_is_refused(tmp_path: Path) -> None:
    """torch writes the operator; findings/onnxruntime_group_norm.sh has what the runtime makes of it."""
    module, x = nn.GroupNorm(4, 32).eval(), torch.zeros(1, 32, 4, 4)
    program = torch.onnx.export(module, (x,), dynamo=True, opset_version=23, verbose=False)
    program.save(tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="variance as a difference of two squares") as caught:
        onnx_graph.check(tmp_path / "m.onnx")
    assert "InstanceNormalization" in caught.value.fix


def test_instance_normalization_is_right_far_from_zero(tmp_path: Path) -> None:
    """What the error names instead."""
    shapes = {"x": [1, 4, 128], "s": [4], "b": [4]}
    graph = saved(tmp_path / "m.onnx", "InstanceNormalization", shapes, [1, 4, 128])
    onnx_graph.check(graph)
    x = (np.random.default_rng(0).standard_normal((1, 4, 128)) + 1000).astype(np.float32)
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    (found,) = open_session(graph, PLAIN).run(None, {"x": x, "s": ones, "b": zeros})
    exact = nn.functional.instance_norm(torch.from_numpy(x).double()).numpy()
    assert np.linalg.norm(found - exact) < 1e-3 * np.linalg.norm(exact)


def test_missing_package() -> None:
    with pytest.raises(ExportError, match="retake-engine\\[export\\]"):
        onnx_graph.require("no_such_package_at_all")
