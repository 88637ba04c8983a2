"""What the page is told of a run that goes on: each change once, with the numbers of the report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import SCENARIOS, Run

from engine.report.page import summarize
from engine.report.write import gather
from engine.runs.folder import take_lock
from engine.runs.live import LIVE, Live
from engine.runs.requests import ask
from engine.runs.store import RunStore
from engine.runs.timeline import totals
from engine.runs.trace import HostRecorder, Span
from engine.runs.trace_file import kept_trace, read_trace
from engine.types import Outcome, Wish
from engine.watch.lanes import Lanes
from engine.watch.view import RunView
from kernels.files import file_digest


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five scenarios that was stopped after two."""
    folder = tmp_path_factory.mktemp("half") / "run"
    with pytest.MonkeyPatch.context() as quick, RunStore.create(folder, SCENARIOS) as store:
        quick.setattr(os, "fsync", lambda descriptor: None)
        Run(store).go(limit=2)
    return folder


@pytest.fixture
def folder(half: Path, tmp_path: Path) -> Path:
    return shutil.copytree(half, tmp_path / "run")


@pytest.fixture
def view(folder: Path) -> Iterator[RunView]:
    made = RunView(folder, share=1.0)
    yield made
    made.close()


def test_a_change_is_told_once(view: RunView, folder: Path) -> None:
    first = view.changes("")
    assert first["num_rows"] == len(first["rows"]) == len(SCENARIOS)
    assert "stopped" in first["parts"]["status"] and "retake resume" in first["parts"]["status"]
    again = view.changes(first["rev"])
    assert (again["rev"], again["parts"], again["rows"], again["scenes"]) == (first["rev"], {}, [], [])
    with RunStore.open(folder) as store:
        pending = store.pending()[0]
        attempts = store.attempts(pending.id)
        store.outcome(
            Outcome(scenario_id=pending.id, attempts=attempts, failure="Broken: it is\n  fix: mend it")
        )
    place = [scenario.id for scenario in SCENARIOS].index(pending.id)
    told = view.changes(first["rev"])
    assert [row["place"] for row in told["rows"]] == told["scenes"] == [place]
    assert "fix: mend it" in told["parts"]["failures"] and "retake resume" in told["parts"]["failures"]
    assert view.changes("of another process.3")["num_rows"] == len(view.changes("")["rows"])


def test_numbers_are_the_reports(view: RunView, folder: Path) -> None:
    summary, told = summarize(gather(folder)), view.changes("")
    assert summary.gain is not None and summary.num_takes > 3
    for number in (summary.first, summary.final):
        assert number is not None and f">{number.mean:.1f}<" in told["parts"]["tiles"]
    assert f">{summary.num_takes}<" in told["parts"]["tiles"]


def test_the_newest_take_comes_first_and_its_scene_is_whole(view: RunView, folder: Path) -> None:
    told = view.changes("")
    place = told["latest"]
    html = view.scene(place)
    assert html is not None and SCENARIOS[place].id in html and "<video" in html
    assert told["parts"]["latest"].index(SCENARIOS[place].id) < 600
    assert view.scene(len(SCENARIOS)) is None and view.scene(-1) is None


def test_a_run_that_goes_on_says_how_far_it_is_and_how_to_pause(view: RunView, folder: Path) -> None:
    with take_lock(folder), Live(folder, _NoDisplay(), worked_s=lambda: 60.0) as live:
        for seconds in (20.0, 39.0, 60.0):
            live._pace.ended(seconds)
        live.update("generate", SCENARIOS[3].id, 4, 16)
        live._write()
        told = view.changes("")
        assert told["live"] and "retake pause" in told["parts"]["status"]
        assert f"<strong>{60 / 3 * 3:.1f} s</strong> left" in told["parts"]["status"], "three are left"
        assert "95&nbsp;%" in told["parts"]["status"] and "4/16" in told["parts"]["now"]
        (folder / LIVE).unlink()
        assert "4/16" not in view.changes("")["parts"]["now"]
    assert "retake resume" in view.changes("")["parts"]["status"]


def test_what_the_user_asked_is_shown(view: RunView, folder: Path) -> None:
    first = view.changes("")
    with RunStore.open(folder) as store:
        names = [scenario.id for scenario in store.pending()]
        store.requests.record(
            [ask(folder, Wish.PAUSE), ask(folder, Wish.PAUSE, names[0]), ask(folder, Wish.SKIP, names[1])]
        )
        told = view.changes(first["rev"])
        assert 'data-state="paused"' in told["parts"]["status"]
        assert "retake unpause" in told["parts"]["status"] and names[1] in told["parts"]["asked"]
        states = {row["values"][0]: row["values"][7] for row in told["rows"]}
        assert states == {names[0]: "paused", names[1]: "to be skipped"}
        html = view.scene([one.id for one in SCENARIOS].index(names[0]))
        assert html is not None and f"retake unpause {folder.resolve()} {names[0]}" in html


def test_a_store_that_is_damaged_is_told_and_one_put_back_is_read(view: RunView, folder: Path) -> None:
    first, store = view.changes(""), folder / "run.sqlite"
    whole = store.read_bytes()
    store.unlink()
    assert "no run folder any more" in view.changes(first["rev"])["parts"]["status"]
    store.write_bytes(b"no database" * 100)
    told = view.changes(first["rev"])
    assert "is not a run store" in told["parts"]["status"] and view.scene(0) is None
    store.write_bytes(whole)
    assert "stopped" in view.changes(told["rev"])["parts"]["status"]


def test_another_run_in_its_place_is_shown_as_that(view: RunView, folder: Path) -> None:
    assert view.changes("")["num_rows"] == 5
    shutil.rmtree(folder)
    with RunStore.create(folder, SCENARIOS[:2]):
        told = view.changes("")
    assert told["num_rows"] == len(told["rows"]) == 2 and told["latest"] is None


def test_it_reads_a_tenth_of_the_time_at_most(folder: Path) -> None:
    times = iter([0.0, 0.2, 1.9, 2.1, 2.2])  # the first look takes 0.2 s
    view = RunView(folder, clock=lambda: next(times))
    first = view.changes("")
    with RunStore.open(folder) as store:
        why = store.pending()[0].id
        store.outcome(Outcome(scenario_id=why, attempts=store.attempts(why), failure="broken"))
    assert view.changes("")["rev"] == first["rev"]
    second = view.changes("")
    assert second["rev"] != first["rev"]
    view.close()


def test_a_long_look_is_repeated_soon(folder: Path) -> None:
    """The first one of a large run takes seconds."""
    times = iter([0.0, 60.0, 64.9, 65.1, 65.2])
    view = RunView(folder, clock=lambda: next(times))
    first = view.changes("")
    (folder / "scores.json").write_text("{}")
    assert view.changes(first["rev"])["parts"] == {}
    assert "not a scores file" in view.changes(first["rev"])["parts"]["status"]
    view.close()


def test_only_what_the_run_made_or_saw_is_handed_out(view: RunView, folder: Path, tmp_path: Path) -> None:
    view.changes("")
    with RunStore.open(folder, read_only=True) as store:
        path = store.attempts(SCENARIOS[0].id)[0].video_path
    assert view.video(path.as_posix()) == folder / path
    for other in (
        "run.sqlite",
        f"videos/../{path}",
        f"videos/{SCENARIOS[0].id}/attempt-99.mp4",
        "/etc/passwd",
        "",
    ):
        assert view.video(other) is None
    secret = tmp_path / "secret"
    secret.write_text("x")
    (folder / path).unlink()
    (folder / path).symlink_to(secret)
    assert view.video(path.as_posix()) is None
    assert view.prefix(0) is None and view.prefix(99) is None, (
        "no clip of the machine that the run did not see"
    )


def test_a_prefix_is_handed_out_while_it_is_the_one_that_the_run_saw(tmp_path: Path) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "run"
    clip.write_bytes(b"a clip")
    scenario = replace(SCENARIOS[0], prefix=replace(SCENARIOS[0].prefix, path=clip))
    RunStore.create(out, [scenario]).close()
    (out / "manifest.json").write_text(f'{{"prefixes": {{"{scenario.id}": "{file_digest(clip)}"}}}}')
    view = RunView(out, share=1.0)
    assert view.prefix(0) == clip
    clip.write_bytes(b"another clip")
    assert view.prefix(0) is None
    view.close()


def test_lanes_follow_a_trace_as_it_grows(tmp_path: Path) -> None:
    """Through two processes of a run, of which the notes of each become part of the trace."""

    def span(start_s: float) -> Span:
        return Span("generate", "a", 0, "generate", start_s, start_s + 1.0)

    lanes = Lanes(tmp_path)
    lanes.read()
    assert not lanes.timeline
    for process in range(2):
        recorder = HostRecorder()
        with kept_trace(tmp_path, recorder) as note:
            for step in range(3):
                recorder._spans.append(span(10.0 * process + 2 * step))
                note()
                lanes.read()
                assert lanes.timeline.totals() == totals(read_trace(tmp_path))
                assert lanes.timeline.totals().busy_s["generate"] == 3 * process + step + 1
        lanes.read()
        assert lanes.timeline.totals() == totals(read_trace(tmp_path))
    (tmp_path / "trace.json").write_text("{}")
    lanes.read()
    assert lanes.fault is not None and "is not a trace" in lanes.fault


class _NoDisplay:
    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None:
        pass
