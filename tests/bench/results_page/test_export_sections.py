"""The section of export builds: measured and extrapolated rows apart, gates by name, failures shouted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bench.results_page.export_sections import export_build, export_errors, product_layout
from bench.results_page.page import SECTIONS
from bench.results_page.result_files import ResultFile


def row(**changes: Any) -> dict[str, Any]:
    made = {
        "name": "Model, fp8 for 8.9",
        "measured": True,
        "num_quantized_linears": 300,
        "num_fp8_products": 181,
        "export": {"wall_s": 208.4, "cpu_s": 301.0, "peak_rss_bytes": 2**32, "graph_bytes": 2**30},
        "build": {
            "build_s": 71.2,
            "wall_s": 73.0,
            "cpu_s": 72.0,
            "peak_rss_bytes": 3 * 2**31,
            "plan_bytes": 2**30,
            "weights_bytes": 2**29,
            "activation_bytes": [2**31],
        },
        "gates": [{"name": "merged QKV", "expected": "all", "found": "apart: none", "passed": True}],
        "summary": {"rows": 500, "fused_attention": 60, "fused_attention_inputs": ["fp16", "fp8"]},
    }
    return {**made, **changes}


def section(*rows: dict[str, Any]) -> Any:
    return export_build(ResultFile(name="export_build", kind="export_build", document={"rows": list(rows)}))


def test_measured_rows() -> None:
    made = section(row())
    assert made.headline == "Model, fp8 for 8.9: export 301 CPU s, build 72.0 CPU s, 1 of 1 gate passed"
    assert "| Model, fp8 for 8.9 | 208 | 301 | 4.00 | 1.00 | 71.2 | 72.0 | 6.00 | 1.00 |" in made.body
    assert "| Model, fp8 for 8.9 | 500 | 60 | fp16/fp8 | 300 | 181 | 0.50 | 2.00 |" in made.body
    assert "merged QKV (all): passed" in made.body and "extrapolated" not in made.body


def test_extrapolated_rows_are_not_among_the_measured() -> None:
    estimate = {
        "name": "Model of 40 layers",
        "measured": False,
        "formula": "value(N) = ...",
        "low": "4 layers",
        "high": "8 layers",
        "export": {"wall_s": 900.0, "peak_rss_bytes": 2**34},
        "build": {"build_s": 300.0, "peak_rss_bytes": 2**35},
    }
    made = section(row(), estimate)
    measured, extrapolated = made.body.split("Not measured but extrapolated")
    assert "40 layers" not in measured and "40 layers" not in made.headline
    assert "from 4 layers and 8 layers" in extrapolated
    assert "| Model of 40 layers | 900 | 16.00 | 300 | 32.00 |" in extrapolated


def test_a_failed_gate_is_seen() -> None:
    gate = {"name": "no S x S buffer", "expected": "none", "found": "softmax_1", "passed": False}
    made = section(row(gates=[gate]))
    assert "0 of 1 gate passed" in made.headline and "FAILED, softmax_1" in made.body


def test_products_of_both_layouts() -> None:
    found = {
        "name": "fp8 for 12.0",
        "kernels": {"each": 70, "one": 56},
        "products": {"each": 20, "one": 13},
        "activation_bytes": {"each": 2**25, "one": 2**23},
    }
    settings = {"library": "planner 1", "model": "Model", "shape": "480x832x81"}
    document = {"settings": settings, "rows": [found]}
    made = product_layout(ResultFile(name="product_layout", kind="product_layout", document=document))
    assert made.headline == "fp8 for 12.0: 56 kernels, not 70"
    assert "| fp8 for 12.0 | 70 | 56 | 20 | 13 | 32.0 | 8 |" in made.body
    assert "By the planner of planner 1, for Model at 480x832x81" in made.body


def test_errors_by_layer() -> None:
    row = {
        "name": "fp8-attention",
        "num_layers": 96,
        "largest_output_error": 0.0691,
        "smallest_output_cosine": 0.99763,
        "worst_layer": "transformer.blocks.3.attn1",
        "worst_layer_error": 0.0548,
    }
    document = {"rows": [row], "tables": [{"timesteps": [999.0, 216.0]}], "num_scenarios": 2}
    made = export_errors(ResultFile(name="export_errors", kind="export_errors", document=document))
    assert made.headline == "fp8-attention: 0.069 of the velocity at the worst timestep"
    assert "| fp8-attention | 0.069 | 0.99763 | 0.055 | `transformer.blocks.3.attn1` |" in made.body
    assert "(docs/export-errors-fp8-attention.svg)" in made.body
    assert "2 held-out scenes, 2 timesteps" in made.body


def test_every_plot_that_the_page_shows_is_there() -> None:
    root = Path(__file__).parents[3]
    shown = re.findall(r"\((docs/[^)]+)\)", (root / "RESULTS.md").read_text(encoding="utf-8"))
    assert [name for name in shown if not (root / name).is_file()] == []


def test_the_page_knows_the_kinds() -> None:
    assert SECTIONS["export_build"] is export_build and SECTIONS["export_errors"] is export_errors
    assert SECTIONS["product_layout"] is product_layout
