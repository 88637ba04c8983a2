"""The parser of builder logs, on lines that TensorRT for RTX 1.7.1 printed, and on other spellings."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.spec import ExportError
from export.trt.layer_table import LayerTable, parse, summary

DATA = Path(__file__).parents[2] / "data" / "trt"


def table_of(name: str) -> LayerTable:
    with (DATA / f"{name}.log").open(encoding="utf-8") as lines:
        return parse(lines)


def test_a_log_gives_every_kernel_and_the_memory() -> None:
    table = table_of("fp8_sm120")
    assert table.num_profiles == 1
    assert table.activation_bytes == (24633344,) and table.weights_bytes > 60_000
    assert summary(table, 0) == {
        "rows": 11,
        "fused_attention": 1,
        "fused_attention_inputs": ["fp16"],
        "fused_attention_outputs": ["fp16"],
        "matrix_products": {"gemm fp8": 4},
        "largest_output": [[1, 64, 128], "fp8"],
        "activation_bytes": 24633344,
    }


def test_rows_that_only_order_streams_are_dropped() -> None:
    text = (DATA / "fp8_sm120.log").read_text(encoding="utf-8")
    assert "LayerType: signal" in text and "LayerType: wait" in text
    assert {row.type for row in table_of("fp8_sm120").rows} == {"kgen", "gemm"}


def test_a_row_has_its_tensors() -> None:
    gemm = next(row for row in table_of("fp8_sm120").rows if row.is_gemm)
    assert [(t.dims, t.dtype) for t in gemm.inputs] == [((1, 64, 128), "fp8")]
    assert (gemm.constants[0].dims, gemm.constants[0].dtype) == ((1, 128, 128), "fp8")
    assert gemm.has_weight and not any(t.num_matrix_dims for t in gemm.constants[1:])
    assert gemm.outputs[0].dtype == "fp16" and gemm.tactic == "__myelin_CASK_STUB"


def test_each_profile_has_its_own_rows() -> None:
    table = table_of("fp8_three_profiles")
    assert table.activation_bytes == (8249344, 8339456, 8486912)
    assert [len(table.of_profile(index)) for index in range(3)] == [9, 9, 9]
    assert [summary(table, index)["fused_attention"] for index in range(3)] == [1, 1, 1]
    # the rows of a profile are those with its batch: 1, 2 and 4 times two heads
    batches = [
        next(r for r in table.of_profile(i) if r.is_fused_attention).inputs[0].dims[0] for i in range(3)
    ]
    assert batches == [2, 4, 8]


@pytest.mark.parametrize(
    ("spelling", "dtype"),
    [
        ("Datatype: BFloat16", "bf16"),
        ("Format/Datatype: Half", "fp16"),
        ("Datatype: Int8", "int8"),
        ("Datatype: FP4E2M1", "fp4"),
        ("Datatype: UInt8", "uint8"),
    ],
)
def test_types_of_either_spelling(spelling: str, dtype: str) -> None:
    inputs = f"Inputs: [ {{ Name: x, Dimensions: [1,2], {spelling} }}]"
    row = f"Name: a_myl0_0, LayerType: gemm, {inputs}, Outputs: []"
    lines = [row, "[INFO] Total Activation Memory: 5 bytes", "[INFO] Total Weights Memory: 6 bytes"]
    assert parse(lines).rows[0].inputs[0].dtype == dtype


@pytest.mark.parametrize("without", ["LayerType: ", "Total Activation", "Total Weights"])
def test_a_log_without_a_part_is_an_error(without: str) -> None:
    lines = (DATA / "fp8_sm120.log").read_text(encoding="utf-8").splitlines()
    with pytest.raises(ExportError, match="the build log has"):
        parse(line for line in lines if without not in line)


def test_the_record_is_json_of_everything() -> None:
    record = table_of("fp8_three_profiles").record()
    assert len(record["rows"]) == 27 and len(record["summary"]) == 3
    assert {"name", "type", "inputs", "constants", "outputs", "tactic", "profile"} <= record["rows"][0].keys()
