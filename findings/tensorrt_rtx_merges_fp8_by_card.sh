#!/usr/bin/env bash
# TensorRT for RTX 1.7.1: three 8-bit products (Q/DQ) that read one tensor, as q, k and v of an attention do, become
# one kernel in INT8 for either card, and in FP8 for compute capability 8.9; in FP8 for 12.0 they stay three. Where
# the graph has one product of the same weights side by side, with their scales per output channel, there is one for
# both cards. Engines are built and their layer tables read; none is executed, so no GPU is needed.
#
# Seen on 2026-11-30, tensorrt-rtx 1.7.1.116, products in the table of the engine:
#   int8   8.9   three products in the graph   1
#   int8   12.0  three products in the graph   1
#   fp8    8.9   three products in the graph   1
#   fp8    12.0  three products in the graph   3
#   fp8    12.0  one product in the graph      1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  "tensorrt-rtx==1.7.1.116" "onnx==1.23.2" "numpy==2.4.6" "ml_dtypes==0.6.0"

cat > "$work/products.py" <<'P'
import sys

import ml_dtypes
import numpy as np
import onnx
import tensorrt_rtx as trt
from onnx import TensorProto, helper, numpy_helper

TOKENS, DIM = 64, 128
TYPES = {"fp8": (ml_dtypes.float8_e4m3fn, 448.0), "int8": (np.int8, 127.0)}


def graph(kind: str, merged: bool) -> bytes:
    """x -> one quantizer -> q, k and v; y = (q + k) * v, so that all three are needed."""
    dtype, largest = TYPES[kind]
    source = np.random.default_rng(0)
    weights = [source.standard_normal((DIM, DIM)) for _ in range(3)]
    stored = [np.concatenate(weights, axis=1)] if merged else weights
    constants = {"s": np.array(4 / largest, np.float16), "z": np.zeros((), dtype)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s"], ["xd"]),
    ]
    for index, weight in enumerate(stored):
        scale = np.abs(weight).max(axis=0) / largest
        scaled = weight / scale
        constants[f"w{index}"] = (np.round(scaled) if kind == "int8" else scaled).astype(dtype)
        constants[f"ws{index}"] = scale.astype(np.float16)
        nodes.append(helper.make_node("DequantizeLinear", [f"w{index}", f"ws{index}"], [f"wd{index}"], axis=1))
        nodes.append(helper.make_node("MatMul", ["xd", f"wd{index}"], ["all" if merged else f"y{index}"]))
    if merged:
        nodes.append(helper.make_node("Split", ["all"], ["y0", "y1", "y2"], axis=2, num_outputs=3))
    nodes.append(helper.make_node("Add", ["y0", "y1"], ["sum"]))
    nodes.append(helper.make_node("Mul", ["sum", "y2"], ["y"]))
    made = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, (1, TOKENS, DIM))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, (1, TOKENS, DIM))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)])
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class Table(trt.ILogger):
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        self.lines += message.splitlines()


def products(kind: str, capability: int, merged: bool) -> int:
    table = Table()
    builder = trt.Builder(table)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, table)
    assert parser.parse(graph(kind, merged)), parser.get_error(0)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    assert config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), 0)
    assert builder.build_serialized_network(network, config) is not None, table.lines[-5:]
    return sum(", LayerType: gemm" in line for line in table.lines)


expected = {
    ("int8", 89, False): 1,
    ("int8", 120, False): 1,
    ("fp8", 89, False): 1,
    ("fp8", 120, False): 3,
    ("fp8", 120, True): 1,
}
wrong = 0
for (kind, capability, merged), count in expected.items():
    found = products(kind, capability, merged)
    wrong += found != count
    words = "one product in the graph" if merged else "three products in the graph"
    print(f"{kind:6s} {capability / 10:<5} {words:29s} {found}{'' if found == count else f', not {count}'}")
sys.exit(bool(wrong))
P
"$work/venv/bin/python" "$work/products.py"
