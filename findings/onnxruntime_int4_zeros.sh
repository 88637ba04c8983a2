#!/usr/bin/env bash
# onnxruntime 1.32.0 on a CPU: a MatMul with INT4 weights behind DequantizeLinear and activations in float16 gives
# nothing but zeros at the optimization level ORT_ENABLE_EXTENDED, without a warning. The level below and the level
# above, the default, are right, so that a check at the default says nothing of the level between. From EXTENDED on
# the two nodes become one 4-bit product that sums in int8; asked by session.qdq_matmulnbits_accuracy_level=0 to sum
# in the type of the activations, every level is right, and thirty times as exact as the default.
#
# Seen on 2026-11-29, onnxruntime 1.32.0, Intel with avx512_vnni, 8 x 256 times 256 x 64 in blocks of 128, norm of
# the error over the norm:
#   DISABLE_ALL, ENABLE_BASIC    0.0003
#   ENABLE_EXTENDED              1      (all values are 0)
#   ENABLE_ALL (the default)     0.007
#   every level, accuracy 0      0.0003 or less
#   float32, every level         0.007 or less
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "onnxruntime==1.32.0" "onnx==1.23.2" "numpy==2.3.5"

cat > "$work/run.py" <<'P'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

IN, OUT, BLOCK = 256, 64, 128


def errors(kind, onnx_kind):
    source = np.random.default_rng(0)
    values = source.integers(-7, 8, (IN, OUT))
    scales = (0.005 + 0.02 * source.random((IN // BLOCK, OUT))).astype(kind)
    x = source.standard_normal((8, IN)).astype(kind)
    exact = x.astype(np.float64) @ (values * np.repeat(scales.astype(np.float64), BLOCK, axis=0))
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=BLOCK),
            helper.make_node("MatMul", ["x", "d"], ["y"]),
        ],
        "product",
        [helper.make_tensor_value_info("x", onnx_kind, ["n", IN])],
        [helper.make_tensor_value_info("y", onnx_kind, ["n", OUT])],
        [
            helper.make_tensor("w", TensorProto.INT4, [IN, OUT], values.reshape(-1).tolist()),
            numpy_helper.from_array(scales, "s"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    found = {}
    for level in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"):
        for accuracy in (None, "0"):
            options = ort.SessionOptions()
            options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
            if accuracy is not None:
                options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", accuracy)
            session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            (y,) = session.run(None, {"x": x})
            found[level, accuracy] = np.linalg.norm(y - exact) / np.linalg.norm(exact), bool(y.any())
    return found


half, single = errors(np.float16, TensorProto.FLOAT16), errors(np.float32, TensorProto.FLOAT)
for (level, accuracy), (error, _) in half.items():
    print(f"float16 {level:16} accuracy {accuracy or 'default':8} {error:.5f}")
print(f"float32 at most {max(error for error, _ in single.values()):.5f}")
error, has_values = half.pop(("ENABLE_EXTENDED", None))
assert not has_values, "changed: ENABLE_EXTENDED gives values"
assert max(error for error, _ in (*half.values(), *single.values())) < 0.02, "changed: another level is off"
assert max(error for (_, accuracy), (error, _) in half.items() if accuracy == "0") < 0.001, "changed: accuracy 0"
P
"$work/venv/bin/python" "$work/run.py"
echo "as described"
