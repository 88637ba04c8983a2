"""Every gate passes on an engine as it should be and fails on one that lost the property."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from export.spec import ExportError, Gate
from export.trt import gates
from export.trt.layer_table import LayerTable, Row, TableTensor, parse

DATA = Path(__file__).parents[2] / "data" / "trt"
GOOD = Gate(
    num_fused_attention=1,
    fused_attention_dtype="fp16",
    num_fp8_gemm=2,
    num_int8_gemm=0,
    merged_qkv=True,
    max_activation_bytes=8_486_912,
)


def table_of(name: str) -> LayerTable:
    with (DATA / f"{name}.log").open(encoding="utf-8") as lines:
        return parse(lines)


def failed(table: LayerTable, gate: Gate, *, max_weights_bytes: int = 10**6) -> set[str]:
    checks = gates.check(table, gate, max_weights_bytes=max_weights_bytes)
    return {one.name for one in checks if not one.passed}


def test_a_good_engine_passes_on_every_profile() -> None:
    checks = gates.check(table_of("fp8_three_profiles"), GOOD, max_weights_bytes=10**6)
    assert len(checks) == 1 + 3 * 7 and all(one.passed for one in checks)
    gates.require(checks, table_of("fp8_three_profiles"))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"num_fused_attention": 2}, "fused attention kernels"),
        ({"fused_attention_dtype": "fp8"}, "fused attention inputs"),
        ({"num_fp8_gemm": 4}, "FP8 matrix products"),
        ({"num_int8_gemm": 2}, "INT8 matrix products"),
        ({"max_activation_bytes": 8_486_911}, "activation memory"),
    ],
)
def test_each_number_is_checked(change: dict[str, Any], name: str) -> None:
    assert failed(table_of("fp8_three_profiles"), dataclasses.replace(GOOD, **change)) == {name}


def test_weights_that_were_widened_are_seen() -> None:
    table = table_of("fp8_three_profiles")
    assert failed(table, GOOD, max_weights_bytes=table.weights_bytes - 1) == {"weight memory"}


def test_a_free_number_is_not_checked() -> None:
    free = dataclasses.replace(GOOD, num_fp8_gemm=None, num_int8_gemm=None, max_activation_bytes=None)
    assert len(gates.check(table_of("fp8_sm120"), free, max_weights_bytes=10**6)) == 1 + 4


def test_projections_that_were_not_merged_are_seen() -> None:
    """The builder for 12.0 keeps the three FP8 projections apart; the gate names them."""
    table = table_of("fp8_sm120")
    gate = dataclasses.replace(GOOD, num_fp8_gemm=4, max_activation_bytes=None)
    assert failed(table, gate) == {"merged QKV"}
    assert gates.unmerged(table.rows) == [
        "node_matmul_2_myl0_2",
        "node_matmul_1_myl0_5",
        "node_matmul_myl0_9",
    ]
    assert failed(table, dataclasses.replace(gate, merged_qkv=False)) == set()


def test_unfused_attention_is_seen() -> None:
    table = table_of("unfused_sm89")
    gate = dataclasses.replace(GOOD, num_fp8_gemm=0)
    assert failed(table, gate) == {"fused attention kernels", "no S x S buffer"}
    # a subject of which no attention is fused has its scores in memory, and says so with its 0
    assert failed(table, dataclasses.replace(gate, num_fused_attention=0)) == set()
    names = gates.score_buffers(table.rows)
    assert any("MaxrSubExpSum" in name for name in names) and len(names) == 3


def tensor(name: str) -> TableTensor:
    return TableTensor(name=name, dims=(1, 8, 8), dtype="fp16")


def row(name: str, inputs: list[str], output: str, *, weight: bool = False, kind: str = "gemm") -> Row:
    return Row(
        name=name,
        type=kind,
        inputs=tuple(map(tensor, inputs)),
        constants=(tensor("w"),) if weight else (),
        outputs=(tensor(output),),
        tactic="",
        profile=0,
    )


def test_merging_is_judged_by_what_the_products_read() -> None:
    """Cross attention: the query reads the video, key and value read the text and are to be one GEMM."""
    query = row("q", ["video"], "a", weight=True)
    key, value = row("k", ["text"], "b", weight=True), row("v", ["text"], "c", weight=True)
    attention = row("_gemm_mha_v2_myl0_1", ["a", "b", "c"], "d", kind="kgen")
    assert gates.unmerged([query, key, value, attention]) == ["v", "k"]
    both = row("k+v", ["text"], "b", weight=True)
    assert gates.unmerged([query, both, row("_gemm_mha_v2_myl0_1", ["a", "b", "b"], "d", kind="kgen")]) == []


def test_the_error_lists_what_failed_and_shows_the_engine() -> None:
    table = table_of("fp8_three_profiles")
    checks = gates.check(table, dataclasses.replace(GOOD, num_fp8_gemm=20), max_weights_bytes=10**6)
    with pytest.raises(ExportError) as caught:
        gates.require(checks, table)
    assert "3 of 22 gates failed" in str(caught.value)
    assert "FP8 matrix products (profile 2): expected 20, found 2" in str(caught.value)
    assert "'gemm fp8': 2" in str(caught.value)
