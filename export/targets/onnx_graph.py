"""What is asked of every ONNX graph before it is kept: that it is valid, and that runtimes compute it right.

Knows no subject. Invariant: a graph that passes holds no operator that a runtime is known to compute wrong.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final

from export.spec import ExportError

_INSTALL: Final = "pip install 'retake-engine[export]'"
UNRELIABLE: Final = {
    "Attention": (
        "is_causal counts the keys from the first one: a query behind cached keys is given the first alone",
        "give the causal mask as an input, and no is_causal",
    ),
    "GroupNormalization": (
        "ONNX Runtime 1.32 takes the variance as a difference of two squares: no digit is right where the "
        "mean is a thousand times the deviation",
        "write it as InstanceNormalization of the groups, or as mean and variance",
    ),
}
"""Operator -> (what is wrong, what to write instead). `Attention` only with is_causal."""


def check(model: Path) -> None:
    """The ONNX checker on the file, with shape inference; TensorRT's own operators are let through.

    ExportError for a graph that the checker refuses, and for an operator of `UNRELIABLE`.
    """
    onnx = require("onnx")
    graph = onnx.load(str(model), load_external_data=False)
    foreign = {node.domain for node in graph.graph.node} - {"", "ai.onnx"}
    try:
        onnx.checker.check_model(str(model), full_check=not foreign)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the ONNX checker refuses the graph: {error}", fix="report this export") from error
    for node in graph.graph.node:
        if node.op_type in UNRELIABLE and not _is_harmless(node):
            why, fix = UNRELIABLE[node.op_type]
            raise ExportError(f"the graph has {node.op_type} {node.name}: {why}", fix=fix)


def require(package: str) -> Any:
    """The module of an optional package; ExportError says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExportError(f"the package {package} is not installed", fix=_INSTALL) from error


def _is_harmless(node: Any) -> bool:
    causal = any(attribute.name == "is_causal" and attribute.i for attribute in node.attribute)
    return node.op_type == "Attention" and not causal
