"""What the spans of a run come to: seconds by lane, how much of them overlapped, and a picture of the lanes.

Spans are taken one at a time: of a run of thousands of scenarios, which has millions, only sixteen bytes a
span and the bars of the picture stay in memory. Knows neither recorder nor file.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.runs.trace import AROUND, LANES, Span
from engine.words import counted

PALETTE = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f")
LABEL_PX, ROW_PX, BAR_PX, AXIS_PX, MARGIN_PX = 70, 30, 22, 24, 10
MOST_BARS = 4000
"""Of a lane. Above, bars that meet in one pixel are drawn as one: a browser holds each, nobody sees them."""
_OPACITY = {"plan": 0.5, "read": 0.5}

Intervals = NDArray[np.float64]
"""[n, 2]: start and end in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """`overlap_share` is the part of the busy time in which at least two lanes worked at once; what the host
    does around them counts for neither."""

    wall_s: float
    busy_s: dict[str, float]  # by lane
    overlap_share: float


class Bar(NamedTuple):
    """Steps of one job, or of several where they meet in a pixel."""

    start_s: float
    end_s: float
    scenario_id: str
    attempt: int
    name: str
    num_jobs: int = 1


_Job = tuple[str, str, int, str]
"""Lane, scenario, attempt, name."""
_Open = list[float]
"""Start and end of a bar that may go on."""


class Timeline:
    """Of spans in any order, but for each job's own, which come as they began. More can be added later."""

    def __init__(self, spans: Iterable[Span], width_px: int) -> None:
        self._plot_px = width_px - LABEL_PX - MARGIN_PX
        self._width_px = width_px
        self._times: dict[str, array[float]] = {}  # start, end, start, end ... by lane
        self._bars: dict[str, list[Bar]] = {}
        self._scenarios: dict[str, None] = {}
        self._start_s, self._end_s = float("inf"), float("-inf")
        self._open: dict[_Job, _Open] = {}
        self.add(spans)

    def add(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self._add(span)

    def __bool__(self) -> bool:
        return bool(self._times)

    @property
    def lanes(self) -> list[str]:
        return [*(lane for lane in LANES if lane in self._times), *sorted(self._times.keys() - set(LANES))]

    def totals(self) -> Totals:
        """Wall time from the first start to the last end, busy time per lane, and the overlap share."""
        if not self:
            return Totals(wall_s=0.0, busy_s={}, overlap_share=0.0)
        by_lane = {lane: _union(_intervals(self._times[lane])) for lane in self.lanes}
        any_s, two_s = _at_once([found for lane, found in by_lane.items() if lane not in AROUND])
        return Totals(
            wall_s=self._end_s - self._start_s,
            busy_s={lane: float((found[:, 1] - found[:, 0]).sum()) for lane, found in by_lane.items()},
            overlap_share=two_s / any_s if any_s else 0.0,
        )

    def svg(self) -> str:
        """The lanes as rows of coloured bars, one colour per scenario, in a self-contained SVG."""
        lanes, start_s = self.lanes, self._start_s if self else 0.0
        seconds = max(self._end_s - start_s, 1e-9) if self else 1e-9
        scale = self._plot_px / seconds  # px per second
        height_px = ROW_PX * len(lanes) + AXIS_PX
        bars = self._all_bars()
        colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(self._scenarios)}
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="timeline of the lanes" '
            f'width="{self._width_px}" height="{height_px}" viewBox="0 0 {self._width_px} {height_px}" '
            f'font-family="sans-serif" font-size="11" fill="currentColor">'
        ]
        for row, lane in enumerate(lanes):
            parts.append(f'<text x="0" y="{row * ROW_PX + 18}">{escape(lane)}</text>')
            parts += [
                f'<rect x="{LABEL_PX + (bar.start_s - start_s) * scale:.1f}" y="{row * ROW_PX + 4}" '
                f'width="{max((bar.end_s - bar.start_s) * scale, 0.5):.1f}" height="{BAR_PX}" '
                f'fill="{colours[bar.scenario_id]}" fill-opacity="{_OPACITY.get(bar.name, 1.0)}">'
                f"<title>{escape(_words(bar))}</title></rect>"
                for bar in _few(bars[lane], 1 / scale)
            ]
        for tick_s in _ticks(seconds):
            x = LABEL_PX + tick_s * scale
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{ROW_PX * len(lanes)}" stroke="currentColor" '
                f'stroke-opacity="0.2"/><text x="{x:.1f}" y="{height_px - 8}" text-anchor="middle">'
                f"{tick_s:g} s</text>"
            )
        return "".join([*parts, "</svg>"])

    def _add(self, span: Span) -> None:
        """Called for each of millions of spans."""
        start_s, end_s = span.start_s, span.end_s
        if span.lane not in self._times:
            self._times[span.lane], self._bars[span.lane] = array("d"), []
        self._times[span.lane].extend((start_s, end_s))
        self._scenarios.setdefault(span.scenario_id)
        if start_s < self._start_s:
            self._start_s = start_s
        if end_s > self._end_s:
            self._end_s = end_s
        job = (span.lane, span.scenario_id, span.attempt, span.name)
        bar = self._open.get(job)
        # Steps closer than a pixel are one bar. A pixel of the whole run is no shorter than one of its part.
        if bar is not None and start_s - bar[1] < (self._end_s - self._start_s) / self._plot_px:
            bar[:] = min(bar[0], start_s), max(bar[1], end_s)
            return
        if bar is not None:
            self._close(job, bar)
        self._open[job] = [start_s, end_s]

    def _all_bars(self) -> dict[str, list[Bar]]:
        """Those too that may go on."""
        bars = {lane: list(found) for lane, found in self._bars.items()}
        for (lane, scenario_id, attempt, name), (start_s, end_s) in self._open.items():
            bars[lane].append(Bar(start_s, end_s, scenario_id, attempt, name))
        return bars

    def _close(self, job: _Job, bar: _Open) -> None:
        lane, scenario_id, attempt, name = job
        start_s, end_s = bar
        self._bars[lane].append(Bar(start_s, end_s, scenario_id, attempt, name))


def totals(spans: Iterable[Span]) -> Totals:
    """Those of `Timeline`, for whoever draws none."""
    return Timeline(spans, width_px=LABEL_PX + MARGIN_PX + 1).totals()


def covered_s(times: array[float]) -> float:
    """Seconds in which any of the spans lasted: start, end, start, end ... in any order."""
    found = _union(_intervals(times)) if times else np.zeros((0, 2))
    return float((found[:, 1] - found[:, 0]).sum())


def _few(bars: Sequence[Bar], pixel_s: float) -> list[Bar]:
    """By their starts: steps of one job that are closer than a pixel as one, and, where there are more than
    MOST_BARS, whatever meets in a pixel."""
    jobs: dict[tuple[str, int, str], Bar] = {}
    found = []
    for bar in sorted(bars):
        job = (bar.scenario_id, bar.attempt, bar.name)
        before = jobs.get(job)
        if before is not None and bar.start_s - before.end_s < pixel_s:
            jobs[job] = before._replace(end_s=max(before.end_s, bar.end_s))
            continue
        if before is not None:
            found.append(before)
        jobs[job] = bar
    found = sorted([*found, *jobs.values()])
    return found if len(found) <= MOST_BARS else list(_by_pixel(found, pixel_s))


def _by_pixel(bars: Sequence[Bar], pixel_s: float) -> Iterator[Bar]:
    one = bars[0]
    for bar in bars[1:]:
        if bar.start_s < one.end_s + pixel_s and bar.end_s - one.start_s < 2 * pixel_s:
            num_jobs = one.num_jobs + bar.num_jobs
            one = one._replace(end_s=max(one.end_s, bar.end_s), num_jobs=num_jobs)
        else:
            yield one
            one = bar
    yield one


def _words(bar: Bar) -> str:
    more = f" and {counted(bar.num_jobs - 1, 'more job')}" if bar.num_jobs > 1 else ""
    return f"{bar.scenario_id} take {bar.attempt} {bar.name}{more}: {bar.end_s - bar.start_s:.2f} s"


def _intervals(times: array[float]) -> Intervals:
    return np.frombuffer(times, np.float64).reshape(-1, 2)


def _union(intervals: Intervals) -> Intervals:
    """Disjoint, in order; the encode lane's threads may run at once."""
    ordered = intervals[np.argsort(intervals[:, 0], kind="stable")]
    ends = np.maximum.accumulate(ordered[:, 1])
    first = np.concatenate(([True], ordered[1:, 0] > ends[:-1]))
    last = np.concatenate((first[1:], [True]))
    return np.stack((ordered[first, 0], ends[last]), axis=1)


def _at_once(lanes: Sequence[Intervals]) -> tuple[float, float]:
    """Seconds in which at least one, and at least two of them were busy."""
    if not lanes:
        return 0.0, 0.0
    times = np.concatenate([found.ravel() for found in lanes])
    changes = np.tile(np.array([1, -1], np.int8), len(times) // 2)
    order = np.lexsort((changes, times))
    lengths, num_busy = np.diff(times[order]), np.cumsum(changes[order], dtype=np.int64)[:-1]
    return float(lengths[num_busy >= 1].sum()), float(lengths[num_busy >= 2].sum())


def _ticks(seconds: float) -> list[float]:
    """At most ten round times from 0 to `seconds`."""
    magnitudes = (base * 10.0**power for power in itertools.count(-4) for base in (1, 2, 5))
    step = next(size for size in magnitudes if seconds / size <= 9)
    return [round(i * step, 6) for i in range(int(seconds / step) + 1)]
