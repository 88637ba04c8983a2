"""What the spans of a run say of its speed: latencies by stage, the device's seconds, how well lanes overlap.

Measures nothing. A step counts as long as the device worked on it; that includes pauses between its kernels,
so that the time of a lane whose steps are short is an upper bound of the work.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.runs.idle import idle
from engine.runs.timeline import covered_s, totals
from engine.runs.trace import HOST_LANES, LANES, Span

DEVICE_LANES = tuple(lane for lane in LANES if lane not in HOST_LANES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of the steps of one stage; `share` is of all seconds that its lane worked."""

    lane: str
    stage: str
    num: int
    p50_s: float
    p95_s: float
    total_s: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Of all processes of a run; the clock of the trace goes on from one to the next.

    `launch_s`: in which the host launched steps of a lane. `bound_s`: the work of the busiest device lane,
    each step as long as the fastest one at its place in a job; no schedule of these lanes is shorter.
    `alone_s`: the same of generating alone.
    """

    wall_s: float
    num_scenarios: int
    """That have ended; what the others took so far counts with these."""
    num_unfinished: int
    busy_s: Mapping[str, float]
    launch_s: Mapping[str, float]
    gpu_s: float
    """In which any lane of the device had a step."""
    bound_s: float
    alone_s: float
    latencies: tuple[Latency, ...]
    lanes: Mapping[str, Mapping[str, Any]]
    """Of each device lane, where its time went (`engine.runs.idle`)."""

    @property
    def seconds_per_scenario(self) -> float:
        """0 where none has ended yet."""
        return self.wall_s / self.num_scenarios if self.num_scenarios else 0.0

    @property
    def gpu_seconds_per_scenario(self) -> float:
        return self.gpu_s / self.num_scenarios if self.num_scenarios else 0.0

    @property
    def efficiency(self) -> float:
        """Of the overlap: 1 is a run as long as its busiest lane; without one it is that lane's share."""
        return self.bound_s / self.wall_s if self.wall_s else 0.0

    @property
    def efficiency_of_generation(self) -> float:
        """As a run that only generates, whose bound is generation itself: what judging adds shows here."""
        return self.alone_s / self.wall_s if self.wall_s else 0.0

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {
            "seconds_per_scenario": self.seconds_per_scenario,
            "gpu_seconds_per_scenario": self.gpu_seconds_per_scenario,
            "efficiency": self.efficiency,
            "efficiency_of_generation": self.efficiency_of_generation,
        }


def profile(spans: Iterable[Span], unfinished: Collection[str] = ()) -> Profile:
    """Of spans in any order; all zeros without any. `unfinished`: ids of scenarios that have not ended."""
    spans = list(spans)
    start_s = min((span.start_s for span in spans), default=0.0)
    end_s = max((span.end_s for span in spans), default=0.0)
    of_device = [span for span in spans if span.lane in DEVICE_LANES]
    lanes = {lane: found for lane in DEVICE_LANES if (found := idle(spans, lane, end_s))}
    working_s = {lane: float(found["parts_s"]["working_s"]) for lane, found in lanes.items()}
    tally = Tally()
    everything = totals(tally.watching(spans))
    return Profile(
        wall_s=end_s - start_s,
        num_scenarios=tally.num_ended(unfinished),
        num_unfinished=len(tally.scenarios) - tally.num_ended(unfinished),
        busy_s=everything.busy_s,
        launch_s=totals(_launches(of_device)).busy_s,
        gpu_s=tally.gpu_s,
        bound_s=max(working_s.values(), default=0.0),
        alone_s=working_s.get("generate", 0.0),
        latencies=tally.latencies(),
        lanes=lanes,
    )


def latencies(spans: Iterable[Span]) -> tuple[Latency, ...]:
    """By lane in their order and then by what takes most of it."""
    tally = Tally()
    for _ in tally.watching(spans):
        pass
    return tally.latencies()


class Tally:
    """Latencies and the device's seconds of spans that pass by; of a span only 24 bytes stay in memory."""

    def __init__(self) -> None:
        self._seconds: defaultdict[tuple[str, str], array[float]] = defaultdict(lambda: array("d"))
        self._device = array("d")  # start, end, start, end ...
        self.scenarios: set[str] = set()
        """Ids of those that were worked on."""

    def watching(self, spans: Iterable[Span]) -> Iterator[Span]:
        """The same spans, noted."""
        for span in spans:
            key = (span.lane, span.stage or span.name)
            self._seconds[key].append(span.end_s - span.start_s)
            self.scenarios.add(span.scenario_id)
            if span.lane in DEVICE_LANES:
                self._device.extend((span.start_s, span.end_s))
            yield span

    def num_ended(self, unfinished: Collection[str]) -> int:
        """Of the scenarios that were worked on; what `unfinished` names has not ended."""
        return len(self.scenarios.difference(unfinished))

    @property
    def gpu_s(self) -> float:
        """In which any lane of the device had a step."""
        return covered_s(self._device)

    def latencies(self) -> tuple[Latency, ...]:
        sums = {key: float(np.sum(values)) for key, values in self._seconds.items()}
        of_lane: dict[str, float] = {}
        for (lane, _), total_s in sums.items():
            of_lane[lane] = of_lane.get(lane, 0.0) + total_s
        found = [
            Latency(
                lane=lane,
                stage=stage,
                num=len(values),
                p50_s=float(np.percentile(values, 50)),
                p95_s=float(np.percentile(values, 95)),
                total_s=sums[lane, stage],
                share=sums[lane, stage] / of_lane[lane] if of_lane[lane] else 0.0,
            )
            for (lane, stage), values in self._seconds.items()
        ]
        return tuple(sorted(found, key=lambda row: (_place(row.lane), row.lane, -row.total_s)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Of one stage in two runs. `seconds_per_scenario`: what the second run spends more in it."""

    lane: str
    stage: str
    p50_s: tuple[float | None, float | None]
    per_scenario: tuple[float, float]
    """Steps of a scenario."""
    seconds_per_scenario: float


def compare(first: Profile, second: Profile) -> tuple[Difference, ...]:
    """Where the second run spends other time than the first, the largest difference first."""
    rows = [{(row.lane, row.stage): row for row in one.latencies} for one in (first, second)]
    numbers = [max(one.num_scenarios, 1) for one in (first, second)]
    found = []
    for key in dict.fromkeys([*rows[0], *rows[1]]):
        pair = [row.get(key) for row in rows]
        spent, steps = (
            [getattr(row, name) / number if row else 0.0 for row, number in zip(pair, numbers, strict=True)]
            for name in ("total_s", "num")
        )
        found.append(
            Difference(
                lane=key[0],
                stage=key[1],
                p50_s=(pair[0].p50_s if pair[0] else None, pair[1].p50_s if pair[1] else None),
                per_scenario=(steps[0], steps[1]),
                seconds_per_scenario=spent[1] - spent[0],
            )
        )
    return tuple(sorted(found, key=lambda row: -abs(row.seconds_per_scenario)))


def _place(lane: str) -> int:
    return LANES.index(lane) if lane in LANES else len(LANES)


def _launches(spans: Sequence[Span]) -> Iterator[Span]:
    for span in spans:
        if span.launch_s is not None and span.launched_s is not None:
            yield _moved(span, span.lane, span.launch_s, span.launched_s)


def _moved(span: Span, lane: str, start_s: float, end_s: float) -> Span:
    return Span(
        lane=lane,
        scenario_id=span.scenario_id,
        attempt=span.attempt,
        name=span.name,
        start_s=start_s,
        end_s=end_s,
    )
