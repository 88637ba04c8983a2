"""Spans as events of a Chrome trace, as Perfetto draws them: a process for each lane of the device, for the
host that launches it, and for the work around; in it a track for each scenario.

Slices of a track follow one another, as the format wants them: what the clock of a device makes overlap by
its rounding is cut. Knows no file.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.runs.trace import HOST_LANES, LANES, Span

LAUNCH = "launch"
"""Category of the events that say when the host launched a step; the span is in the step's own event."""


@dataclass(slots=True)
class Tracks:
    """What was written so far: names of processes and tracks, and where each track ends, in microseconds."""

    named: set[tuple[int, int]] = field(default_factory=set)
    ends_us: dict[tuple[int, int], float] = field(default_factory=dict)


def events(spans: Iterable[Span], tracks: Tracks) -> Iterator[bytes]:
    """Each span as JSON, a step of a device also with its launch; before what is new on it, names."""
    for span in spans:
        on_host = span.lane in HOST_LANES
        place = _place(span, launch=False)
        yield from _names(span, place, f"{span.lane} ({'host' if on_host else 'device'})", tracks)
        yield _slice(span, place, span.lane, (span.start_s, span.end_s), span._asdict(), tracks)
        if span.launch_s is not None and span.launched_s is not None:
            place = _place(span, launch=True)
            yield from _names(span, place, f"{span.lane} (launches)", tracks)
            yield _slice(span, place, LAUNCH, (span.launch_s, span.launched_s), {}, tracks)


def _place(span: Span, *, launch: bool) -> tuple[int, int]:
    """Process and track, the same whichever process of a run writes them; no track is in two of them."""
    lane = LANES.index(span.lane) if span.lane in LANES else 10 + zlib.crc32(span.lane.encode()) % 10**6
    process = 1 + 2 * lane + launch
    return process, 1 + zlib.crc32(f"{process} {span.scenario_id}".encode()) % (2**31 - 1)


def _names(span: Span, place: tuple[int, int], process: str, tracks: Tracks) -> Iterator[bytes]:
    for key, kind, name in (
        ((place[0], 0), "process_name", process),
        (place, "thread_name", span.scenario_id),
    ):
        if key not in tracks.named:
            tracks.named.add(key)
            event = {"ph": "M", "name": kind, "pid": place[0], "tid": key[1], "args": {"name": name}}
            yield json.dumps(event).encode()


def _slice(
    span: Span,
    place: tuple[int, int],
    category: str,
    times_s: tuple[float, float],
    args: dict[str, Any],
    tracks: Tracks,
) -> bytes:
    start_us, end_us = (s * 1e6 for s in times_s)
    start_us = max(start_us, tracks.ends_us.get(place, start_us))
    end_us = tracks.ends_us[place] = max(end_us, start_us)
    return json.dumps(
        {
            "ph": "X",
            "name": span.stage or span.name,
            "cat": category,
            "ts": start_us,
            "dur": end_us - start_us,
            "pid": place[0],
            "tid": place[1],
            "args": args,
        }
    ).encode()
