"""Small charts as inline SVG text: a line chart with intervals and horizontal bars.

Knows nothing of runs or scenarios. Colours are CSS classes that the page defines, so one chart serves the
light and the dark scheme; every label is escaped here, so the result may be placed in a page as it is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from engine.runs.pace import FEWEST, student_975

WIDTH_PX = 560


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean of `n` values; `low` and `high` bound its 95 % interval, None when n < 3."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or one bar per group. `css` is the class that colours it; a missing point is None."""

    name: str
    css: str
    points: tuple[Estimate | None, ...]


def estimate(values: Sequence[float], *, within: tuple[float, float] | None = None) -> Estimate | None:
    """Mean and 95 % interval by Student's t; None for no values, no interval for fewer than three.

    within: what no value can leave, and so no interval; Student's t does not know of it.
    """
    if not values:
        return None
    n, mean = len(values), statistics.fmean(values)
    if n < FEWEST:
        return Estimate(mean=mean, low=None, high=None, n=n)
    half = student_975(n - 1) * statistics.stdev(values) / math.sqrt(n)
    least, most = within or (-math.inf, math.inf)
    return Estimate(mean=mean, low=max(mean - half, least), high=min(mean + half, most), n=n)


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    span = max(high - low, 1e-9)
    magnitude = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude * wanted >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _text(x: float, y: float, label: object, css: str, anchor: str = "middle") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(label)}</text>'


def _svg(height: float, title: str, description: str, parts: Sequence[str]) -> Markup:
    body = "".join(parts)  # each part escapes the texts in it
    return Markup(  # nosec B704
        f'<svg class="chart" viewBox="0 0 {WIDTH_PX} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}: {escape(description)}">{body}</svg>'
    )


def _describe(labels: Sequence[str], series: Sequence[Series]) -> str:
    """The numbers in words, for readers who do not see the drawing."""
    sentences = []
    for line in series:
        known = [
            f"{label} {point.mean:.1f}"
            for label, point in zip(labels, line.points, strict=True)
            if point is not None
        ]
        sentences.append(f"{line.name}: {', '.join(known) or 'no values'}")
    return "; ".join(sentences)


def line_chart(labels: Sequence[str], series: Sequence[Series], *, title: str) -> Markup:
    """Means over `labels` with 95 % whiskers; under each label the number of values of the last series."""
    height, left, right, top, bottom = 300.0, 44.0, 124.0, 16.0, 46.0
    points = [point for line in series for point in line.points if point is not None]
    if not points:
        return Markup('<p class="empty">No values.</p>')
    ends = [p.mean if end is None else end for p in points for end in (p.low, p.high)]
    low, high = min(ends), max(ends)
    ticks = _ticks(low, high) if high > low else _ticks(low - 1, high + 1)  # one value, in the middle
    plot_width, plot_height = WIDTH_PX - left - right, height - top - bottom

    def x_of(index: int, shift: float) -> float:
        return left + 14 + (plot_width - 28) * index / max(len(labels) - 1, 1) + shift

    def y_of(value: float) -> float:
        return top + plot_height * (1 - (value - ticks[0]) / (ticks[-1] - ticks[0]))

    parts = []
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH_PX - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 8, y + 4, f"{tick:g}", "axis", "end"))
    for index, label in enumerate(labels):
        parts.append(_text(x_of(index, 0), height - bottom + 20, label, "axis"))
        counts = [point.n for line in series if (point := line.points[index]) is not None]
        count = f"n = {min(counts, default=0)}"  # the thinnest line's
        parts.append(_text(x_of(index, 0), height - bottom + 35, count, "axis faint"))
    names = []
    for order, line in enumerate(series):
        shift = (order - (len(series) - 1) / 2) * 7  # apart, so that whiskers do not hide each other
        parts += _line(line, shift, x_of, y_of)
        final = next((point for point in reversed(line.points) if point is not None), None)
        if final is not None:
            names.append((y_of(final.mean) + 4, line))
    lowest = -math.inf  # names at the right end, at least one line of text apart
    for y, line in sorted(names, key=lambda name: name[0]):
        lowest = max(y, lowest + 16)
        parts.append(_text(x_of(len(labels) - 1, 18), lowest, line.name, f"name {line.css}", "start"))
    return _svg(height, title, _describe(labels, series), parts)


def _line(
    line: Series, shift: float, x_of: Callable[[int, float], float], y_of: Callable[[float], float]
) -> list[str]:
    parts, corners = [], []
    for index, point in enumerate(line.points):
        if point is None:
            continue
        x, y = x_of(index, shift), y_of(point.mean)
        corners.append(f"{x:.1f},{y:.1f}")
        interval = ""
        if point.low is not None and point.high is not None:
            interval = f", 95 % interval {point.low:.1f} to {point.high:.1f}"
            y_low, y_high = y_of(point.low), y_of(point.high)
            for y_from, y_to, half in ((y_low, y_high, 0), (y_low, y_low, 3), (y_high, y_high, 3)):
                parts.append(
                    f'<line class="whisker {line.css}" x1="{x - half:.1f}" x2="{x + half:.1f}" '
                    f'y1="{y_from:.1f}" y2="{y_to:.1f}"/>'
                )
        parts.append(
            f'<circle class="dot {line.css}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">'
            f"<title>{escape(line.name)}: {point.mean:.1f}{interval}, n = {point.n}</title></circle>"
        )
    return [f'<polyline class="line {line.css}" points="{" ".join(corners)}"/>', *parts]


def bar_chart(groups: Sequence[str], series: Sequence[Series], *, title: str, digits: int = 1) -> Markup:
    """Horizontal bars from zero, one per group and series, the value written at the end of each."""
    known = [point for bars in series for point in bars.points if point is not None]
    if not known:
        return Markup('<p class="empty">No values.</p>')
    left, right, bar, gap = _label_px(groups), 64.0, 15.0, 14.0
    legend = 26.0 if len(series) > 1 else 4.0
    highest = max(max(p.mean, p.high or 0.0) for p in known) or 1.0
    scale = (WIDTH_PX - left - right) / highest
    block = len(series) * (bar + 2) + gap
    height = legend + block * len(groups) + 4
    parts = []
    x = left
    for bars in series if len(series) > 1 else ():
        parts.append(f'<rect class="bar {bars.css}" x="{x}" y="4" width="12" height="12" rx="3"/>')
        parts.append(_text(x + 18, 14.5, bars.name, "axis", "start"))
        x += 40 + 7.2 * len(bars.name)
    for row, group in enumerate(groups):
        y = legend + row * block + gap / 2
        parts.append(_text(left - 12, y + (block - gap) / 2 + 4, group, "group", "end"))
        for order, bars in enumerate(series):
            point = bars.points[row]
            y_bar = y + order * (bar + 2)
            if point is None:
                parts.append(_text(left, y_bar + 12, "–", "none", "start"))
                continue
            width = max(point.mean, 0.0) * scale
            parts.append(
                f'<rect class="bar {bars.css}" x="{left}" y="{y_bar:.1f}" width="{width:.1f}" '
                f'height="{bar}" rx="3"><title>{escape(group)}, {escape(bars.name)}: '
                f"{point.mean:.{digits}f}, n = {point.n}</title></rect>"
            )
            end = width
            if point.low is not None and point.high is not None and point.high > point.low:
                low, end = max(point.low, 0.0) * scale, max(point.high * scale, width)
                parts.append(
                    f'<line class="whisker on-bar" x1="{left + low:.1f}" x2="{left + end:.1f}" '
                    f'y1="{y_bar + bar / 2:.1f}" y2="{y_bar + bar / 2:.1f}"/>'
                )
            parts.append(_text(left + end + 7, y_bar + 12, f"{point.mean:.{digits}f}", "value", "start"))
    return _svg(height, title, _describe(groups, series), parts)


def _label_px(labels: Sequence[str]) -> float:
    """Room for the longest label at the width of an average letter, within reason."""
    return min(max(150.0, 24.0 + 6.6 * max(map(len, labels), default=0)), 0.55 * WIDTH_PX)


def counts_chart(counts: Sequence[tuple[str, int]], *, title: str, css: str) -> Markup:
    """A histogram of named counts."""
    points = tuple(Estimate(mean=count, low=None, high=None, n=count) for _, count in counts)
    bars = Series(name="count", css=css, points=points)
    return bar_chart([name for name, _ in counts], [bars], title=title, digits=0)
