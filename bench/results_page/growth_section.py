"""The section on growth: each figure by the number of scenarios, with its exponent.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile


def growth(file: ResultFile) -> md.Section:
    rows, exponents, summary = (file.document[key] for key in ("rows", "exponents", "summary"))
    sizes = sorted({int(size) for by_size in rows.values() for size in by_size})
    cells = [
        [
            f"{name}: {figure}",
            *(f"{by_size[str(size)][figure]:.4g}" if str(size) in by_size else "" for size in sizes),
            f"{exponents[f'{name} {figure}']:.2f}" if f"{name} {figure}" in exponents else "",
        ]
        for name, by_size in rows.items()
        for figure in next(iter(by_size.values()), {})
    ]
    targets = file.document["targets"]
    reached = [[name, f"{value:.4g}", f"{targets.get(name, '')}"] for name, value in summary.items()]
    tables = (
        md.table(["summary", "measured", "to stay under"], reached),
        md.table(["figure", *map(str, sizes), "exponent"], cells),
    )
    return md.Section(
        title="How does a run's cost grow with its scenarios?",
        headline=", ".join(f"{name} {value:.4g}" for name, value in summary.items()),
        body=md.paragraphs(*tables),
    )
