"""What a form costs in kernels and why, on layer tables of engines that TensorRT for RTX 1.7.1 built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export.spec import ExportError, Gate
from export.trt import gates
from export.trt.fusion_costs import (
    ATTENTION,
    BIAS,
    BOOL_MASK,
    ESTABLISHED_WITH,
    GROUPED,
    MASK,
    NORM,
    PRODUCT,
    QDQ,
    Cost,
)
from export.trt.fusion_report import Fusion, record, report
from export.trt.layer_table import LayerTable, Row, TableTensor, parse

DATA = Path(__file__).parents[2] / "data" / "trt"


def table_of(name: str) -> LayerTable:
    with (DATA / name).open(encoding="utf-8") as lines:
        return parse(lines)


def only(name: str) -> Fusion:
    (found,) = report(table_of(name))
    return found


def test_the_plainest_attention_has_no_cause() -> None:
    found = only("plain_sm89.log")
    assert (found.part, found.found, found.expected, found.causes) == ("attention in fp16", 3, ATTENTION, ())
    assert str(found) == "1 x attention in fp16: 3 kernels, the least there is"
    assert any("mha" in name for name in found.kernels)


@pytest.mark.parametrize("cost", [BOOL_MASK, MASK, NORM, QDQ, BIAS, GROUPED], ids=lambda cost: cost.source)
def test_each_form_is_told_and_costs_what_was_established(cost: Cost) -> None:
    found = only(cost.source)
    assert found.found == cost.kernels > ATTENTION
    assert found.causes == (f"{cost.form} ({cost.kernels} kernels in 16 bits; {cost.instead})",)
    assert f"{cost.kernels} kernels where 3 would do: {cost.form}" in str(found)


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_eight_bit_products_have_no_epilogue(kind: str) -> None:
    found = only(f"ffn_{kind}_sm89.log")
    assert (found.part, found.count, found.expected, found.found) == (f"product in {kind}", 2, PRODUCT, 3)
    assert "no epilogue in 8 bits" in str(found)
    # in fp16 the bias and the activation are in the kernel of the first product
    assert report(table_of("ffn_fp16_sm89.log")) == ()
    names = [row.name for row in table_of("ffn_fp16_sm89.log").rows]
    assert len(names) == 3 and names[0].startswith("__myl_FcAddMul") and "Tanh" in names[0]


def row(name: str, inputs: str, output: str, *, kind: str = "kgen", weight: bool = False) -> Row:
    """inputs: names with their types, as q:fp8; the heads of all are two."""
    tensors = [
        TableTensor(name=n, dims=(2, 8, 8), dtype=t) for n, t in (i.split(":") for i in inputs.split())
    ]
    weights = (TableTensor(name="w", dims=(8, 8), dtype="fp8"),) if weight else ()
    made = (TableTensor(name=output, dims=(2, 8, 8), dtype="fp8"),)
    return Row(
        name=name, type=kind, inputs=tuple(tensors), constants=weights, outputs=made, tactic="", profile=0
    )


def test_an_fp8_attention_with_a_mask_and_a_norm_in_two_kernels() -> None:
    """As of the transformer: the norm of all heads is two kernels, and the mask stays in 16 bits."""
    rows = (
        row("gemm", "x:fp8", "a", kind="gemm", weight=True),
        row("__myl_MulAddCastMulMean_myl0_1", "a:fp16", "b"),
        row("__myl_AddSqrtDivMulCastMul_myl0_2", "b:fp16", "q"),
        row("_gemm_mha_v2_myl0_3", "m:fp16 q:fp8 k:fp8 v:fp8", "y"),
        row("__myl_MeanAddSqrtDivMul_myl0_4", "y:fp8", "z"),
    )
    table = LayerTable(rows=rows, activation_bytes=(1,), weights_bytes=1)
    attention, product = report(table)
    assert (attention.part, attention.found) == ("attention in fp8", 5)
    assert [cause.partition(" (")[0] for cause in attention.causes] == [NORM.form, BIAS.form, MASK.form]
    assert product.found == 2  # its bias and half of a norm
    plain = LayerTable(rows=rows[3:], activation_bytes=(1,), weights_bytes=1)
    assert [cause.partition(" (")[0] for cause in report(plain)[0].causes] == [MASK.form]


def test_every_attention_and_product_of_every_profile_is_in_one_line() -> None:
    found = report(table_of("fp8_three_profiles.log"))
    for profile in range(3):
        counts: dict[str, int] = {}
        for one in found:
            if one.profile == profile:
                counts[one.part] = counts.get(one.part, 0) + one.count
        assert counts == {"attention in fp16": 1, "product in fp8": 2}
    (apart,) = [one for one in report(table_of("fp8_sm120.log")) if one.part == "product in fp8"]
    assert apart.count == 4


def test_the_record_says_with_which_library_it_was_established() -> None:
    made: dict[str, Any] = json.loads(json.dumps(record(report(table_of("norm_sm89.log")), "1.8")))
    assert (made["library"], made["established_with"]) == ("1.8", ESTABLISHED_WITH)
    assert made["fusions"][0]["found"] == NORM.kernels and NORM.form in made["lines"][0]


def test_a_failed_gate_names_the_likely_cause() -> None:
    table = table_of(QDQ.source)
    gate = Gate(
        num_fused_attention=1,
        fused_attention_dtype="fp8",
        num_fp8_gemm=None,
        num_int8_gemm=None,
        merged_qkv=False,
        max_activation_bytes=None,
    )
    with pytest.raises(ExportError, match="fused attention inputs") as caught:
        gates.require(gates.check(table, gate, max_weights_bytes=10**9), table)
    assert f"what was fused:\n  1 x attention in fp16: 6 kernels where 3 would do: {QDQ.form}" in str(
        caught.value
    )
