"""The section of what exports and engine builds take: measured rows, the gates, and what is extrapolated.

Measures nothing and holds no number: every figure comes from the file. Invariant: a row that was not measured
stands in a table of its own, with its formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile

COST = ("wall s", "CPU s", "peak RSS GiB", "GiB on disk")


def export_build(file: ResultFile) -> md.Section:
    """Exports and builds by model and recipe."""
    rows = file.document["rows"]
    measured = [row for row in rows if row["measured"]]
    estimated = [row for row in rows if not row["measured"]]
    return md.Section(
        title="Export and engine builds",
        headline="; ".join(_headline(row) for row in measured) or "nothing was measured",
        body=md.paragraphs(
            _costs(measured),
            _engines(measured),
            md.bullets([_gates(row) for row in measured]) if measured else None,
            _extrapolated(estimated),
        ),
    )


def _headline(row: Mapping[str, Any]) -> str:
    passed = sum(gate["passed"] for gate in row["gates"])
    export_s, build_s = md.ms(row["export"]["wall_s"]), md.ms(row["build"]["build_s"])
    gates = f"{passed} of {len(row['gates'])} gates passed"
    return f"{row['name']}: export {export_s} s, build {build_s} s, {gates}"


def _costs(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["model and recipe", *(f"export: {name}" for name in COST), *(f"build: {name}" for name in COST)]
    cells = [[row["name"], *_cost(row["export"], "graph"), *_cost(row["build"], "plan")] for row in rows]
    return md.table(header, cells)


def _cost(part: Mapping[str, Any], what: str) -> list[str]:
    seconds = [md.ms(part.get("build_s", part.get("wall_s"))), md.ms(part.get("cpu_s"))]
    return [*seconds, md.gib(part.get("peak_rss_bytes")), md.gib(part.get(f"{what}_bytes"))]


def _engines(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["engine", "kernels", "fused attentions", "of inputs", "quantized linears", "FP8 products"]
    header += ["weights GiB", "activations GiB"]
    cells = [
        [
            row["name"],
            str(row["summary"]["rows"]),
            str(row["summary"]["fused_attention"]),
            "/".join(row["summary"]["fused_attention_inputs"]),
            str(row["num_quantized_linears"] or md.NONE),
            str(row["num_fp8_products"] or md.NONE),
            md.gib(row["build"]["weights_bytes"]),
            md.gib(max(row["build"]["activation_bytes"])),
        ]
        for row in rows
    ]
    return md.table(header, cells)


def _gates(row: Mapping[str, Any]) -> str:
    told = [
        f"{gate['name']} ({gate['expected']}): {'passed' if gate['passed'] else 'FAILED, ' + gate['found']}"
        for gate in row["gates"]
    ]
    return f"**{row['name']}**: {'; '.join(told)}"


def _extrapolated(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    formulas = dict.fromkeys(f"`{row['formula']}`, from {row['low']} and {row['high']}" for row in rows)
    return md.paragraphs(
        f"Not measured but extrapolated, {'; '.join(formulas)}:",
        _costs(rows),
    )
