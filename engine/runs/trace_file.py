"""The trace of a run on disk: one file for Perfetto, and beside it what a process has noted so far.

A process that is killed leaves its notes, which the next one takes in, so that the trace is of all processes
of a run. Knows no recorder's clock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.errors import StoreError
from engine.runs.folder import place_in, writing
from engine.runs.trace import CudaRecorder, HostRecorder, Span, lanes_of
from kernels.files import parse_json, read_json, whole_file

TRACE = "trace.json"
NOTES = "trace.jsonl"
"""One span a line; there while a process works, or where it was killed."""


def write_trace(path: Path, spans: Iterable[Span]) -> None:
    """Chrome trace JSON, one thread per lane, times in microseconds; opens in Perfetto. Atomic."""
    spans = list(spans)
    lanes = lanes_of(spans)
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": lane}}
        for tid, lane in enumerate(lanes)
    ]
    events += [
        {
            "ph": "X",
            "name": span.name,
            "cat": span.lane,
            "ts": span.start_s * 1e6,
            "dur": (span.end_s - span.start_s) * 1e6,
            "pid": 1,
            "tid": lanes.index(span.lane),
            "args": asdict(span),
        }
        for span in spans
    ]
    with whole_file(path) as part:
        part.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")


def read_trace(run: Path) -> tuple[Span, ...]:
    """The spans of all processes of a run folder, exactly; none without a trace. StoreError: damaged."""
    found: dict[Span, None] = {}  # a process killed in between leaves its notes and the file that has them
    try:
        path = run / TRACE
        if path.is_file():
            events = read_json(path)["traceEvents"]
            found |= dict.fromkeys(_span(event["args"]) for event in events if event["ph"] == "X")
        path = run / NOTES
        if path.is_file():
            *lines, _ = path.read_bytes().split(b"\n")  # what follows the last line end was never finished
            found |= dict.fromkeys(_span(parse_json(line)) for line in lines)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is not a trace of this version: {type(error).__name__}: {error}",
            fix="delete the file; the report then leaves the timeline out",
        ) from error
    return tuple(found)


@contextmanager
def kept_trace(
    run: Path, earlier: Sequence[Span], recorder: HostRecorder | CudaRecorder
) -> Iterator[Callable[[], None]]:
    """Writes the trace at the end and when interrupted; the events of a lost GPU cannot be read.

    The block calls what it gets now and then: a process that is killed has noted all until the last call.
    """
    notes = place_in(run, NOTES)

    def note() -> None:
        with writing(run), notes.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(span)) + "\n" for span in recorder.settled())

    def finish(spans: Sequence[Span]) -> None:
        with writing(run):
            write_trace(run / TRACE, spans)
            notes.unlink(missing_ok=True)

    if notes.exists():
        finish(earlier)
    try:
        yield note
    except KeyboardInterrupt:
        finish([*earlier, *recorder.spans()])
        raise
    finish([*earlier, *recorder.spans()])


def _span(values: dict[str, Any]) -> Span:
    span = Span(
        lane=values["lane"],
        scenario_id=values["scenario_id"],
        attempt=values["attempt"],
        name=values["name"],
        start_s=values["start_s"],
        end_s=values["end_s"],
        launch_s=values.get("launch_s"),  # absent in traces of earlier versions
        launched_s=values.get("launched_s"),
    )
    launch = [s for s in (span.launch_s, span.launched_s) if s is not None]
    words, times = (span.lane, span.scenario_id, span.name), (span.start_s, span.end_s, *launch)
    if not all(isinstance(word, str) for word in words) or not isinstance(span.attempt, int):
        raise TypeError(f"{span} names no work")
    if not all(isinstance(s, int | float) and math.isfinite(s) for s in times) or span.end_s < span.start_s:
        raise ValueError(f"{span} has no time")
    return span
