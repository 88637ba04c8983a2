"""The trace of a run on disk: one file for Perfetto, and beside it what a process has noted so far.

A process that is killed leaves its notes, which the next one takes in, so that the trace is of all processes
of a run. Both hold one event a line and are written and read as streams: a run of thousands of scenarios has
millions of spans. Knows no recorder's clock.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pydantic_core import from_json

from engine.errors import StoreError
from engine.runs.folder import place_in, writing
from engine.runs.trace import Span
from engine.runs.trace_events import LAUNCH, Tracks, events
from kernels.files import parse_json, read_json, whole_file

TRACE = "trace.json"
NOTES = "trace.jsonl"
"""One event a line; there while a process works, or where it was killed."""

_HEAD = b'{"displayTimeUnit": "ms", "traceEvents": [\n'
_END = b"]}\n"
_A_LAUNCH = f'"cat": "{LAUNCH}"'.encode()
"""In a text of ours the marks would be escaped."""
_EVENT, _ARGS = b'{"ph": "X"', b'"args": '  # the same
_LINES = 1024  # parsed at once
_TAIL_BYTES = 1 << 16  # holds the last events of a file many times over


class Spans(Protocol):
    """Gives up spans: a recorder, or who collects those of several."""

    def settled(self) -> list[Span]:
        """Those that ended, each once."""
        ...

    def spans(self) -> Iterable[Span]:
        """All that are left, after the run."""
        ...


def write_trace(path: Path, spans: Iterable[Span]) -> None:
    """Chrome trace JSON, a track for each lane and scenario, in microseconds; opens in Perfetto. Atomic."""
    _write(path, events(spans, Tracks()))


def read_trace(run: Path) -> Iterator[Span]:
    """The spans of all processes of a run folder, exactly; none without a trace. StoreError: damaged.

    One at a time. What is damaged is told where the stream reaches it.
    """
    path = run / TRACE
    try:
        if path.is_file():
            yield from _spans(_traced(path))
        notes = run / NOTES
        if notes.is_file() and not _has_last_of(path, notes):
            path = notes
            lines = (line for line in _whole_lines(notes) if _A_LAUNCH not in line)
            yield from _spans(parse_json(line) for line in lines)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path} is not a trace of this version: {type(error).__name__}: {error}",
        fix="delete the file; the report then leaves the timeline out",
    )


class TraceTail:
    """The spans of a run that goes on, each given once: the trace of earlier processes, then notes as they
    come. Where a process has ended, and its notes were taken into the trace, it begins anew."""

    def __init__(self, run: Path) -> None:
        self._trace, self._notes = run / TRACE, run / NOTES
        self._run = run
        self._trace_was: tuple[int, ...] | None = None
        self._place = 0

    def begins_anew(self) -> bool:
        """Whether `new` gives all spans again. To be asked before it."""
        found = _identity(self._trace)
        notes = _identity(self._notes)
        if found != self._trace_was or (notes or (0, 0))[1] < self._place:
            self._trace_was, self._place = found, 0
            return True
        return False

    def new(self, *, anew: bool) -> Iterator[Span]:
        """Those since the last call, or all of them. StoreError as `read_trace`."""
        try:
            if anew and self._trace.is_file():
                yield from _spans(_traced(self._trace))
            if self._notes.is_file() and not (anew and _has_last_of(self._trace, self._notes)):
                yield from _spans(parse_json(line) for line in self._new_lines() if _A_LAUNCH not in line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(self._run, error) from error

    def _new_lines(self) -> Iterator[bytes]:
        with self._notes.open("rb") as file:
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # it is being written
                self._place += len(line)
                yield line.rstrip(b"\n")


def _identity(path: Path) -> tuple[int, ...] | None:
    """Of a file as it is now: inode and size, and when it was written; None without one."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def end_of_trace_s(run: Path) -> float:
    """When the last span of a run ended, 0 without a trace. StoreError as `read_trace`."""
    return max((span.end_s for span in read_trace(run)), default=0.0)


@contextmanager
def kept_trace(run: Path, recorder: Spans) -> Iterator[Callable[[], None]]:
    """Writes the trace at the end and when interrupted; the events of a lost GPU cannot be read.

    The block calls what it gets now and then: all that ended goes to disk and leaves memory, and a process
    that is killed has noted all until the last call.
    """
    trace, notes = run / TRACE, place_in(run, NOTES)
    tracks = Tracks()

    def keep(spans: Iterable[Span]) -> None:
        with writing(run), notes.open("ab") as file:
            file.writelines(line + b"\n" for line in events(spans, tracks))

    def finish() -> None:
        with writing(run):
            if not _has_last_of(trace, notes):
                _write(trace, _lines_of(trace, notes))
            notes.unlink(missing_ok=True)

    if notes.exists():
        finish()  # what a killed process left; its last line may be cut short
    try:
        yield lambda: keep(recorder.settled())
    except KeyboardInterrupt:
        keep(recorder.spans())
        finish()
        raise
    keep(recorder.spans())
    finish()


def _write(path: Path, events: Iterable[bytes]) -> None:
    with whole_file(path) as part, part.open("wb") as file:
        file.write(_HEAD)
        before = b""
        for event in events:
            file.write(before + event)
            before = b",\n"
        file.write((b"\n" if before else b"") + _END)


def _lines_of(trace: Path, notes: Path) -> Iterator[bytes]:
    """The events of both as they are written, none of them parsed where they have our form."""
    tracks = Tracks()
    if trace.is_file():
        with trace.open("rb") as file:
            ours = file.readline() == _HEAD
            if ours:
                yield from (line.rstrip(b",\n") for line in file if line != _END)
        if not ours:
            yield from events(_spans(_traced(trace)), tracks)
    for line in _whole_lines(notes):
        values = parse_json(line) if not line.startswith(b'{"ph"') else None
        # notes of earlier versions are the bare spans
        yield from [line] if values is None else events([_span(values)], tracks)


def _traced(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a trace, or their spans alone, which is quicker; a stream where it has our form.

    ValueError: it is no trace, or cut short.
    """
    with path.open("rb") as file:
        if file.readline() != _HEAD:
            yield from read_json(path)["traceEvents"]
            return
        ended = False
        for lines in iter(lambda: list(itertools.islice(file, _LINES)), []):
            ended = lines[-1] == _END
            # a launch tells nothing that the step's own event does not
            yield from _parsed(
                _span_alone(line) for line in (lines[:-1] if ended else lines) if _A_LAUNCH not in line
            )
    if not ended:
        raise ValueError("it ends too soon")


def _span_alone(line: bytes) -> bytes:
    """Of an event its span, half of the line; any other line whole."""
    if line.startswith(_EVENT) and (at := line.find(_ARGS)) > 0:
        return line[at + len(_ARGS) :].rstrip(b",\n").removesuffix(b"}")
    return line.rstrip(b",\n")


def _parsed(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """As many at a time as one call is quick for."""
    texts = list(lines)
    # pydantic's parser makes each repeated key once: 0.38 against 0.64 s for 100,000 spans
    found: list[dict[str, Any]] = from_json(b"[" + b",".join(texts) + b"]")
    if len(found) != len(texts):
        raise ValueError("a line holds more than one event")
    return found


def _whole_lines(notes: Path) -> Iterator[bytes]:
    """What follows the last line end was never finished."""
    if notes.is_file():
        with notes.open("rb") as file:
            yield from (line.rstrip(b"\n") for line in file if line.endswith(b"\n"))


def _has_last_of(trace: Path, notes: Path) -> bool:
    """Whether the trace took the notes in: a process was killed before it could remove them."""
    if not trace.is_file() or not notes.is_file():
        return False
    noted = _tail(notes).splitlines(keepends=True)
    whole = [line.rstrip(b"\n") for line in noted if line.endswith(b"\n")]
    return bool(whole) and _tail(trace).endswith(whole[-1] + b"\n" + _END)


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return file.read()


def _spans(events: Iterable[dict[str, Any]]) -> Iterator[Span]:
    """Of events, and of the bare spans that notes of earlier versions hold."""
    for event in events:
        if event.get("ph", "X") == "X" and event.get("cat") != LAUNCH:
            yield _span(event["args"] if "ph" in event else event)


def _span(values: dict[str, Any]) -> Span:
    """By position and without a loop: a run of thousands of scenarios has millions."""
    lane, scenario_id, attempt, name = (
        values["lane"],
        values["scenario_id"],
        values["attempt"],
        values["name"],
    )
    start_s, end_s, get = values["start_s"], values["end_s"], values.get
    # absent in traces of earlier versions
    stage, launch_s, launched_s = get("stage", ""), get("launch_s"), get("launched_s")
    span = Span(lane, scenario_id, attempt, name, start_s, end_s, launch_s, launched_s, stage=stage)
    if not (type(lane) is type(scenario_id) is type(name) is type(stage) is str and type(attempt) is int):
        raise TypeError(f"{span} names no work")
    if not (_is_time(start_s) and _is_time(end_s) and start_s <= end_s):
        raise ValueError(f"{span} has no time")
    if not ((launch_s is None or _is_time(launch_s)) and (launched_s is None or _is_time(launched_s))):
        raise ValueError(f"{span} was launched at no time")
    return span


def _is_time(value: object) -> bool:
    return (type(value) is float or type(value) is int) and math.isfinite(value)
