"""The sections of exports: errors by layer, what builds take with gates and extrapolations, native packages.

Measures nothing and holds no number: every figure comes from the file. Invariant: a row that was not measured
stands in a table of its own, with its formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.results_page import markdown as md
from bench.results_page import speed_sections
from bench.results_page.result_files import ResultFile
from engine.words import counted

COST = ("wall s", "CPU s", "peak RSS GiB", "GiB on disk")


def export_build(file: ResultFile) -> md.Section:
    """Exports and builds by model and recipe."""
    rows = file.document["rows"]
    measured = [row for row in rows if row["measured"]]
    estimated = [row for row in rows if not row["measured"]]
    return md.Section(
        title="What do an export and an engine build take?",
        headline="; ".join(_headline(row) for row in measured) or "nothing was measured",
        body=md.paragraphs(
            _costs(measured),
            _engines(measured),
            md.bullets([_gates(row) for row in measured]) if measured else None,
            _extrapolated(estimated),
        ),
    )


def product_layout(file: ResultFile) -> md.Section:
    """Kernels of the planner's tables: a product for each linear, and one for those that read one tensor."""
    settings, rows = file.document["settings"], file.document["rows"]
    header = ["8-bit recipe and card", "kernels, a product each", "kernels, one product"]
    header += ["8-bit products, each", "8-bit products, one", "activations MiB, each", "activations MiB, one"]
    cells = [
        [
            row["name"],
            *(str(row[what][side]) for what in ("kernels", "products") for side in ("each", "one")),
            *(md.ms(row["activation_bytes"][side] / 2**20) for side in ("each", "one")),
        ]
        for row in rows
    ]
    told = [f"{row['name']}: {row['kernels']['one']} kernels, not {row['kernels']['each']}" for row in rows]
    return md.Section(
        title="What does one product for q, k and v bring in 8 bits?",
        headline="; ".join(told),
        body=md.paragraphs(
            f"By the planner of {settings['library']}, for {settings['model']} at {settings['shape']}. One "
            "product stands for q, k and v of an attention, another for the keys and values that all blocks "
            "make of the text; weights, scales and biases are the same. No engine was executed.",
            md.table(header, cells),
        ),
    )


def export_errors(file: ResultFile) -> md.Section:
    """What each recipe does to single layers and to the whole module, with the plots beside the file."""
    document = file.document
    rows = document["rows"]
    header = ["recipe", "largest error of the velocity", "smallest cosine", "error of the worst layer"]
    cells = [
        [
            row["name"],
            md.small(row["largest_output_error"]),
            md.near_one(row["smallest_output_cosine"]),
            md.small(row["worst_layer_error"]),
            f"`{row['worst_layer']}`",
        ]
        for row in rows
    ]
    plots = [
        f"![{row['name']}: error by layer and timestep]"
        f"({speed_sections.PLOTS}/export-errors-{md.slug(row['name'])}.svg)"
        for row in rows
    ]
    steps, scenes = len(document["tables"][0]["timesteps"]), document["num_scenarios"]
    return md.Section(
        title="How exact is an export recipe, layer by layer?",
        headline="; ".join(f"{row['name']}: {md.small(row['largest_output_error'])}" for row in rows)
        + " of the velocity at the worst timestep",
        body=md.paragraphs(
            f"{counted(scenes, 'held-out scene')}, {counted(steps, 'timestep')}, the bundled generator.",
            md.table([*header, "which"], cells),
            *plots,
        ),
    )


def aoti(file: ResultFile) -> md.Section:
    """Times of the forwards, what making a package takes, and the ways to a first forward."""
    document = file.document
    section = speed_sections.row_tables(file)
    failed = [f"{name}: {reason}" for name, reason in document["failed"].items()]
    return replace(
        section,
        headline="; ".join([section.headline, *_first_forwards(document["starts"])]),
        body=md.paragraphs(
            section.body,
            _equality(document["rows"]),
            _starts(document["starts"]),
            _packages(document["packages"]),
            md.paragraphs("Failed:", md.bullets(failed)) if failed else None,
        ),
    )


def _first_forwards(starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Seconds to the first forward, without what a start takes in any case."""
    return [
        f"{start['name']}: {md.ms(start.get('load_s', 0.0) + start['first_call_s'])} s to the first forward"
        for start in starts
    ]


def _equality(rows: Sequence[Mapping[str, Any]]) -> str:
    equal = [
        f"{row['name']} gives what {' and '.join(row['equal_to'])} gives"
        for row in rows
        if row.get("equal_to")
    ]
    return f"Bit for bit: {'; '.join(equal) or 'no two forms give the same'}."


def _starts(starts: Sequence[Mapping[str, Any]]) -> str:
    if not starts:
        return ""
    header = ["way to the first forward", "imports s", "load s", "first call s", "graphs from the cache"]
    header += ["graphs compiled"]
    cells = [
        [
            start["name"],
            md.ms(start.get("import_s")),
            md.ms(start.get("load_s")),
            md.ms(start["first_call_s"]),
            md.whole(start.get("cache_hits")),
            md.whole(start.get("cache_misses")),
        ]
        for start in starts
    ]
    return md.table(header, cells)


def _packages(packages: Sequence[Mapping[str, Any]]) -> str:
    if not packages:
        return ""
    header = ["package", "trace s", "compile s", "in all s", "GiB", "weights GiB", "peak RSS GiB"]
    cells = [
        [
            package["name"],
            *(md.ms(package[key]) for key in ("trace_s", "compile_s", "total_s")),
            *(md.gib(package[key]) for key in ("package_bytes", "weights_bytes", "peak_rss_bytes")),
        ]
        for package in packages
    ]
    return md.table(header, cells)


def _headline(row: Mapping[str, Any]) -> str:
    passed = sum(gate["passed"] for gate in row["gates"])
    export_s, build_s = md.ms(row["export"]["cpu_s"]), md.ms(row["build"]["cpu_s"])
    gates = f"{passed} of {counted(len(row['gates']), 'gate')} passed"
    return f"{row['name']}: export {export_s} CPU s, build {build_s} CPU s, {gates}"


def _costs(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["model and recipe", *(f"export: {name}" for name in COST), *(f"build: {name}" for name in COST)]
    cells = [[row["name"], *_cost(row["export"], "graph"), *_cost(row["build"], "plan")] for row in rows]
    return md.table(header, cells)


def _cost(part: Mapping[str, Any], what: str) -> list[str]:
    seconds = [md.ms(part.get("build_s", part.get("wall_s"))), md.ms(part.get("cpu_s"))]
    return [*seconds, md.gib(part.get("peak_rss_bytes")), md.gib(part.get(f"{what}_bytes"))]


def _engines(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["engine", "kernels", "fused attentions", "of inputs", "quantized linears", "FP8 GEMMs"]
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
