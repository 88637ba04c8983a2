"""Timed rows of a measurement: medians from the lists of times, ratios, and what did not help.

Knows no Markdown. Invariant: a median is computed from its times where the file has them, and a summary that
disagrees with them is an error; a row without times has its reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.results_page.result_files import ResultError
from kernels.timing import Summary, summary

STOCK_NAMES = ("diffusers", "library", "sdpa")
"""How the rows begin that are not ours, where a file does not say it of each row."""
TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A variant or kernel; `source` is its entry in the file."""

    name: str
    source: Mapping[str, Any]
    time: Summary | None
    stock: bool
    cumulative: bool

    @property
    def median_ms(self) -> float:
        assert self.time is not None, f"{self.name} was not timed"
        return self.time.median

    def get(self, key: str) -> Any:
        return self.source.get(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unhelpful:
    """A row that is not faster than `against`, the row that it changes."""

    row: Row
    against: Row


def read_rows(entries: Sequence[Mapping[str, Any]], where: str) -> list[Row]:
    """Every row of a file's list, in its order. ResultError, which names `where`, for one that contradicts
    itself or says neither times nor a reason."""
    return [_read(entry, where) for entry in entries]


def timed(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.time is not None]


def fastest(rows: Sequence[Row]) -> Row | None:
    return min(timed(rows), key=lambda row: row.median_ms, default=None)


def best_stock(rows: Sequence[Row]) -> Row | None:
    return fastest([row for row in rows if row.stock])


def ratio(base: Row | None, row: Row) -> float | None:
    """How many times faster `row` is than `base`."""
    if base is None or base.time is None or row.time is None:
        return None
    return base.median_ms / row.median_ms


def unhelpful_steps(rows: Sequence[Row]) -> list[Unhelpful]:
    """Of rows that build on one another: each against the row named in its `against`, else against the last
    bar of the waterfall before it."""
    by_name = {row.name: row for row in timed(rows)}
    found: list[Unhelpful] = []
    last = None
    for row in timed(rows):
        found += _unhelpful(row, by_name.get(str(row.get("against")), last))
        if row.cumulative:
            last = row
    return found


def unhelpful_choices(rows: Sequence[Row]) -> list[Unhelpful]:
    """Of rows that do the same work: each against the fastest stock row."""
    stock = best_stock(rows)
    return [found for row in timed(rows) for found in _unhelpful(row, stock)]


def _unhelpful(row: Row, against: Row | None) -> list[Unhelpful]:
    """By the file's `helped`, else where the median is not below the p10 of the other. Stock rows are what we
    compare with and are never listed."""
    if against is None or against is row or row.stock:
        return []
    assert against.time is not None, f"{against.name} was not timed"
    helped = row.get("helped")
    if helped is None:
        helped = row.median_ms < against.time.p10
    return [] if helped else [Unhelpful(row=row, against=against)]


def _read(entry: Mapping[str, Any], where: str) -> Row:
    name = entry.get("name")
    if not isinstance(name, str):
        raise ResultError(f"{where}: a row has no name", fix="measure again")
    time = _time(entry, f"{where}, {name}")
    if time is None and not entry.get("reason"):
        raise ResultError(f"{where}: {name} has neither times nor a reason", fix="measure again")
    return Row(
        name=name,
        source=entry,
        time=time,
        stock=bool(entry.get("stock", name.lower().startswith(STOCK_NAMES))),
        cumulative=bool(entry.get("cumulative", True)),
    )


def _time(entry: Mapping[str, Any], where: str) -> Summary | None:
    times_ms, stored = entry.get("ms"), entry.get("summary")
    if isinstance(times_ms, (int, float)):
        times_ms = [times_ms]
    if not times_ms:
        if not stored:
            return None
        return Summary(**{key: stored[key] for key in ("median", "p10", "p90", "n")})
    computed = summary(times_ms)
    if stored and not math.isclose(computed.median, stored["median"], rel_tol=TOLERANCE):
        raise ResultError(
            f"{where}: the median of its times is {computed.median}, its summary says {stored['median']}",
            fix="measure again: no number is written by hand",
        )
    return computed
