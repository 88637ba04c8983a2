"""The section of what leaves dense attention behind: a table a group, each row against its dense neighbour.

Measures nothing and holds no number: every figure comes from the file or is a ratio of two in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from bench.results_page.timed_rows import Row, best_stock, fastest, read_rows, timed

KEPT = ", kept"
TAKE = "all "
"""How it is said what is timed of a take."""
PART = "part of "
"""How it is said of what is no attention by itself."""


def past_dense(file: ResultFile) -> md.Section:
    groups = {
        name: read_rows(group["rows"], f"{file.path}, {name}")
        for name, group in file.document["groups"].items()
    }
    return md.Section(
        title="What does leaving dense attention behind gain?",
        headline="; ".join(filter(None, (_headline(name, rows) for name, rows in groups.items()))),
        body=md.paragraphs(*(_group(name, rows) for name, rows in groups.items())),
    )


def neighbour(row: Row, rows: Sequence[Row]) -> Row | None:
    """What a row is compared with: the whole forward of one that keeps its prefix, the take of the preset
    alone, that of a preset with the library's fastest, else the fastest dense one, else the first of the
    group. A part of others has none."""
    if str(row.get("of")).startswith(PART):
        return None
    if row.name.endswith(KEPT):
        whole = row.name.removesuffix(KEPT)
        return next((other for other in timed(rows) if other.name == whole), None)
    if any(other.name.endswith(KEPT) for other in rows):
        return None
    if str(row.get("of")).startswith(TAKE):
        preset, _, part = row.name.partition(", ")
        if not part and not row.stock:
            return best_stock(rows)
        return next((other for other in timed(rows) if part and other.name == preset), None)
    dense = [other for other in timed(rows) if str(other.get("of")).startswith("dense")]
    return fastest(dense) or next(iter(timed(rows)), None)


def _headline(name: str, rows: Sequence[Row]) -> str | None:
    """The largest gain of a group, over its neighbour; None where nothing has one."""
    gains = {row.name: gain for row in timed(rows) if (gain := _gain(row, rows)) is not None}
    best = max(gains, key=lambda row: gains[row], default=None)
    return None if best is None else f"{name}: {best} {md.times(gains[best])}"


def _gain(row: Row, rows: Sequence[Row]) -> float | None:
    other = neighbour(row, rows)
    return None if other is None else other.median_ms / row.median_ms


def _what(row: Row) -> str:
    skipped, forwards = row.get("skipped_forwards"), row.get("forwards")
    told = "" if skipped is None else f"; {skipped:.0f} of {forwards:.0f} forwards skipped"
    return f"{row.get('of')}{told}"


def _group(name: str, rows: Sequence[Row]) -> str:
    header = ["name", "what", "ms", "p10 to p90", "n", "gain", "against", "error to its formula"]
    lines = []
    for row in timed(rows):
        assert row.time is not None
        other = neighbour(row, rows)
        lines.append(
            [
                row.name,
                _what(row),
                md.ms(row.time.median),
                f"{md.ms(row.time.p10)} to {md.ms(row.time.p90)}",
                str(row.time.n),
                md.times(_gain(row, rows)),
                md.NONE if other is None else other.name,
                md.small(row.get("relative_error")),
            ]
        )
    left = [f"{row.name}: {row.get('reason')}" for row in rows if row.time is None]
    return md.paragraphs(
        f"### {name}",
        md.table(header, lines, num_text_columns=2) if lines else None,
        md.paragraphs("Not timed:", md.bullets(left)) if left else None,
    )
