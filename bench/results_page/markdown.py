"""Pieces of Markdown: tables that drop empty columns, numbers with the digits that they deserve, sections.

Knows no measurement. A missing number is a dash and never a zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NONE = "–"
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page; `headline` is its line of the summary, `plots` are SVG texts by file name."""

    title: str
    headline: str
    body: str
    plots: Mapping[str, str] = field(default_factory=dict)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], num_text_columns: int = 1) -> str:
    """Columns after the first are left out when no row has a value; numbers are right-aligned."""
    assert all(len(row) == len(header) for row in rows), "a row has another number of cells than the header"
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] not in (NONE, "") for row in rows)]
    align = ["---" if i < num_text_columns else "--:" for i in kept]
    lines = [[header[i] for i in kept], align, *([_cell(row[i]) for i in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {' '.join(line.split())}" for line in lines)


def paragraphs(*parts: str | None) -> str:
    """The parts that say something, with an empty line between them."""
    return "\n\n".join(part for part in parts if part)


def ms(value: float | None) -> str:
    """Three significant digits, more only where they stand before the point."""
    if value is None:
        return NONE
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def two(value: float | None) -> str:
    """Two decimals."""
    return NONE if value is None else f"{value:.2f}"


def times(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}×"


def whole(value: float | None, unit: str = "") -> str:
    return NONE if value is None else f"{value:.0f}{unit}"


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.0f} %"


def share(found: Mapping[str, Any] | None) -> str:
    """The mean of a share in [0, 1] with its 95 % interval, in percent: "63 % (60 to 66)"."""
    if not found or found.get("mean") is None:
        return NONE
    low, high = (100 * bound for bound in found["ci95"])
    return f"{percent(found['mean'])} ({low:.0f} to {high:.0f})"


def small(value: float | None) -> str:
    """An error, two significant digits; exactly zero is said as such."""
    return NONE if value is None else "0" if value == 0 else f"{value:.2g}"


def near_one(value: float | None) -> str:
    return NONE if value is None else f"{value:.5f}"


def gib(value: float | None) -> str:
    return NONE if value is None else f"{value / GIB:.2f}"


def count(value: float) -> str:
    """Digits in groups of three with thin spaces, which no locale reads as a decimal point."""
    return f"{value:,.0f}".replace(",", "\u2009")


def interval(found: Mapping[str, object] | None, digits: int = 1, sign: str = "") -> str:
    """A mean with its 95 % interval: "63.2 (60.6 to 65.7)"."""
    if not found or not isinstance(found.get("mean"), (int, float)):
        return NONE
    text = f"{found['mean']:{sign}z.{digits}f}"
    bounds = found.get("ci95")
    if isinstance(bounds, Sequence) and len(bounds) == 2:
        text += f" ({bounds[0]:{sign}z.{digits}f} to {bounds[1]:{sign}z.{digits}f})"
    return text


def slug(text: str) -> str:
    """A file name of letters, digits, dots and dashes."""
    kept = "".join(char if char.isalnum() or char == "." else "-" for char in text.lower())
    return "-".join(part for part in kept.split("-") if part)


def anchor(heading: str) -> str:
    """What a link to a heading ends in, as GitHub makes it."""
    kept = "".join(char for char in heading.lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
