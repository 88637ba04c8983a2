"""The trace on disk: its form, what processes before this one left, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import StoreError
from engine.runs.trace import HostRecorder, Span
from engine.runs.trace_file import kept_trace, read_trace, write_trace


def span(lane: str, start_s: float, end_s: float) -> Span:
    return Span(lane=lane, scenario_id="0001_left", attempt=0, name="generate", start_s=start_s, end_s=end_s)


def spans_of(run: Path) -> tuple[Span, ...]:
    return tuple(read_trace(run))


SPANS = (
    span("generate", 0.0, 4.0),
    span("critique", 3.0, 6.0),
    span("encode", 3.5, 5.0),
    span("encode", 4.0, 7.0),
)


def test_trace_file_round_trip_and_form(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    launched = span("generate", 7.0, 8.0)._replace(launch_s=6.5, launched_s=6.75)
    write_trace(path, [*SPANS, launched])
    assert spans_of(tmp_path) == (*SPANS, launched)
    events = json.loads(path.read_text())["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == ["generate (device)", "critique (device)", "encode (host)", "generate (launches)"]
    slices = [event for event in events if event["ph"] == "X"]
    assert (slices[0]["ts"], slices[0]["dur"]) == (0.0, 4e6)
    assert [(one["cat"], one["ts"], one["dur"]) for one in slices[4:]] == [
        ("generate", 7e6, 1e6),
        ("launch", 6.5e6, 0.25e6),
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["trace.json"]


def work(recorder: HostRecorder, name: str) -> None:
    with recorder.span("encode", name, 0, "encode"):
        pass


class Killed(Exception):
    """Nothing of ours catches it, as nothing catches a kill."""


def test_what_a_killed_process_noted_is_in_the_next_ones_trace(tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.json", SPANS)
    killed = HostRecorder(origin_s=7.0)
    with pytest.raises(Killed), kept_trace(tmp_path, killed) as note:
        work(killed, "noted")
        note()
        work(killed, "noted as well")
        note()
        work(killed, "lost")
        raise Killed
    with (tmp_path / "trace.jsonl").open("a") as file:
        file.write('{"lane": "enco')  # killed while it wrote
    earlier = spans_of(tmp_path)
    assert [s.scenario_id for s in earlier[len(SPANS) :]] == ["noted", "noted as well"]
    resumed = HostRecorder(origin_s=9.0)
    with kept_trace(tmp_path, resumed) as note:
        work(resumed, "resumed")
        note()
    names = [s.scenario_id for s in spans_of(tmp_path)[len(SPANS) :]]
    assert names == ["noted", "noted as well", "resumed"]
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


def test_an_interrupted_process_writes_its_trace(tmp_path: Path) -> None:
    recorder = HostRecorder()
    with pytest.raises(KeyboardInterrupt), kept_trace(tmp_path, recorder) as note:
        note()
        work(recorder, "0001_left")
        raise KeyboardInterrupt
    assert len(spans_of(tmp_path)) == 1 and not (tmp_path / "trace.jsonl").exists()


def test_what_was_noted_is_on_disk_and_no_longer_in_memory(tmp_path: Path) -> None:
    recorder = HostRecorder()
    with kept_trace(tmp_path, recorder) as note:
        for index in range(3):
            work(recorder, f"{index}")
            note()
            assert recorder.spans() == ()
            assert [s.scenario_id for s in spans_of(tmp_path)] == [f"{one}" for one in range(index + 1)]


def test_a_process_killed_before_it_could_remove_its_notes_doubles_nothing(tmp_path: Path) -> None:
    recorder = HostRecorder()
    with kept_trace(tmp_path, recorder) as note:
        work(recorder, "noted")
        note()
        notes = (tmp_path / "trace.jsonl").read_bytes()
    (tmp_path / "trace.jsonl").write_bytes(notes)
    assert [s.scenario_id for s in spans_of(tmp_path)] == ["noted"]
    resumed = HostRecorder(origin_s=9.0)
    with kept_trace(tmp_path, resumed):
        work(resumed, "resumed")
    assert [s.scenario_id for s in spans_of(tmp_path)] == ["noted", "resumed"]


def test_the_trace_and_the_notes_of_an_earlier_version_are_taken_in(tmp_path: Path) -> None:
    event = {"ph": "X", "name": "encode", "cat": "encode", "args": GOOD}
    (tmp_path / "trace.json").write_text(json.dumps({"traceEvents": [event]}))
    (tmp_path / "trace.jsonl").write_text(json.dumps(GOOD | {"scenario_id": "b"}) + "\n")
    assert [s.scenario_id for s in spans_of(tmp_path)] == ["a", "b"]
    recorder = HostRecorder(origin_s=9.0)
    with kept_trace(tmp_path, recorder):
        work(recorder, "c")
    assert [s.scenario_id for s in spans_of(tmp_path)] == ["a", "b", "c"]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [event["ph"] for event in events] == ["M", "M", "X", "M", "X", "M", "M", "X"]  # names of its own


def test_a_trace_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    write_trace(path, SPANS)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(StoreError, match="ends too soon"):
        spans_of(tmp_path)


def test_a_line_of_two_events_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    write_trace(path, SPANS)
    path.write_bytes(path.read_bytes().replace(b"},\n", b"}, 0,\n", 1))
    with pytest.raises(StoreError, match="more than one event"):
        spans_of(tmp_path)


GOOD = {"lane": "encode", "scenario_id": "a", "attempt": 0, "name": "encode", "start_s": 0.0, "end_s": 1.0}


@pytest.mark.parametrize(
    "change",
    [
        {"start_s": "soon"},
        {"end_s": float("nan")},
        {"end_s": -1.0},
        {"launch_s": "soon"},
        {"attempt": "0"},
        {"lane": None},
    ],
)
def test_spans_that_cannot_be_drawn_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "trace.jsonl").write_text(json.dumps(GOOD) + "\n")
    assert len(spans_of(tmp_path)) == 1
    (tmp_path / "trace.jsonl").write_text(json.dumps(GOOD | change) + "\n")
    with pytest.raises(StoreError, match=r"trace\.jsonl is not a trace"):
        spans_of(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"traceEvents": [{"ph": "X"}]}', "[" * 100_000])
def test_alien_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "trace.json").write_text(text)
    with pytest.raises(StoreError, match=r"trace\.json is not a trace"):
        spans_of(tmp_path)


def test_a_name_that_looks_like_a_launch_is_read(tmp_path: Path) -> None:
    odd = span("generate", 0.0, 1.0)._replace(scenario_id='"cat": "launch"', launch_s=0.0, launched_s=0.5)
    write_trace(tmp_path / "trace.json", [odd])
    assert spans_of(tmp_path) == (odd,)
