"""What the user asks of a run: asked in one process, recorded once by the other, whatever the file holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_run import SCENARIOS

from engine.errors import StoreError
from engine.runs.requests import CONTROL, LOOK_EVERY_S, Requests, ask, holds
from engine.runs.store import RunStore
from engine.types import SKIPPED, Asked, Outcome, Request, Wish

ONE, OTHER = SCENARIOS[0].id, SCENARIOS[1].id


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    with RunStore.create(tmp_path / "run", SCENARIOS) as made:
        yield made


def control(store: RunStore, now: Callable[[], float] | None = None) -> Requests:
    """One that looks at the file each time, unless it has another clock."""
    times = iter(range(10**6))
    return Requests(
        store.folder, store.requests, [s.id for s in SCENARIOS], now or (lambda: float(next(times)))
    )


def request(wish: Wish, name: str | None = None) -> Request:
    return Request(id=f"{wish}{name}", at="2026-11-30T00:00:00+00:00", wish=wish, scenario_id=name)


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([], Asked()),
        ([request(Wish.PAUSE)], Asked(is_paused=True)),
        ([request(Wish.PAUSE), request(Wish.UNPAUSE)], Asked()),
        ([request(Wish.PAUSE), request(Wish.PAUSE, ONE), request(Wish.UNPAUSE)], Asked()),
        ([request(Wish.PAUSE), request(Wish.UNPAUSE, ONE)], Asked(is_paused=True)),
        ([request(Wish.PAUSE, ONE), request(Wish.SKIP, ONE)], Asked(skipped=frozenset({ONE}))),
        (
            [request(Wish.SKIP, ONE), request(Wish.UNSKIP, ONE), request(Wish.PAUSE, OTHER)],
            Asked(held={OTHER}),
        ),
    ],
)
def test_the_last_word_on_a_scenario_holds(requests: list[Request], expected: Asked) -> None:
    assert holds(requests) == expected


def test_a_request_is_recorded_once_and_outlives_the_process(store: RunStore) -> None:
    looking = control(store)
    before = looking.look()
    assert before == Asked() and looking.look() is before
    asked = ask(store.folder, Wish.SKIP, ONE)
    found = looking.look()
    assert found.skipped == {ONE} and looking.look() is found
    assert store.requests.all() == (asked,)
    (store.folder / CONTROL).unlink()
    assert control(store).look() == found, "the store says it, not the file"
    ask(store.folder, Wish.PAUSE)
    assert looking.look().is_paused and control(store).look().is_paused
    assert len(store.requests.all()) == 2


def test_whoever_resumes_lifts_every_pause_and_no_skip(store: RunStore) -> None:
    for wish, name in ((Wish.PAUSE, None), (Wish.PAUSE, ONE), (Wish.SKIP, OTHER)):
        ask(store.folder, wish, name)
    looking = control(store)
    looking.go_on()
    assert looking.look() == Asked(skipped=frozenset({OTHER}))
    assert store.requests.all()[-1].wish is Wish.UNPAUSE
    looking.go_on()
    assert len(store.requests.all()) == 4, "what goes on is not asked again"


@pytest.mark.parametrize(
    "line",
    [
        *(b"{", b"[]", b"{}", b"\xff", b"null", b'{"id": 1, "at": "a", "wish": "pause", "scenario": null}'),
        *(
            b'{"id": "1", "at": "a", "wish": "pause", "scenario": "none such"}',
            b'{"id": "1", "at": "a", "wish": "skip", "scenario": null}',
            b'{"id": "1", "at": "a", "wish": "stop", "scenario": null}',
        ),
    ],
)
def test_a_line_that_is_no_request_costs_one_warning(
    store: RunStore, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    looking = control(store)
    (store.folder / CONTROL).write_bytes(line + b"\n")
    assert looking.look() == Asked()
    ask(store.folder, Wish.PAUSE)
    assert looking.look().is_paused
    assert sum("no request" in record.getMessage() for record in caplog.records) == 1


def test_a_line_is_read_when_it_is_whole(store: RunStore) -> None:
    looking = control(store)
    ask(store.folder, Wish.PAUSE)
    text = (store.folder / CONTROL).read_bytes()
    (store.folder / CONTROL).write_bytes(text[:-9])
    assert not looking.look().is_paused
    (store.folder / CONTROL).write_bytes(text)
    assert looking.look().is_paused


def test_the_file_is_looked_at_a_few_times_a_second(store: RunStore) -> None:
    """The scheduler asks at every turn, thousands of times a second."""
    now = [0.0]
    looking = control(store, lambda: now[0])
    assert looking.look() == Asked()
    ask(store.folder, Wish.PAUSE)
    now[0] = LOOK_EVERY_S / 2
    assert not looking.look().is_paused
    now[0] = LOOK_EVERY_S
    assert looking.look().is_paused


def test_a_wish_that_comes_after_the_end_is_told_as_such(
    store: RunStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.outcome(Outcome(scenario_id=ONE, attempts=(), failure="no take", stopped="loops"))
    looking = control(store)
    ask(store.folder, Wish.SKIP, ONE)
    ask(store.folder, Wish.SKIP, OTHER)
    looking.look()
    late, honoured = (record.getMessage() for record in caplog.records)
    assert late == f"{ONE} had ended before it could be skipped: it stays as it is"
    assert honoured == f"{OTHER} is skipped, as the user asked"
    assert store.outcomes()[ONE].stopped == "loops"


def test_a_skipped_scenario_is_settled_until_the_skip_is_undone(store: RunStore) -> None:
    for name, stopped in ((ONE, SKIPPED), (OTHER, None)):
        store.outcome(Outcome(scenario_id=name, attempts=(), failure="no take", stopped=stopped))
    assert store.forget_failures() == (OTHER,)
    store.requests.record([ask(store.folder, Wish.UNSKIP, ONE)])
    assert ONE in [scenario.id for scenario in store.pending()]


def test_an_older_store_has_none_and_a_foreign_row_is_refused(store: RunStore) -> None:
    store.close()
    with sqlite3.connect(store.folder / "run.sqlite") as database:
        database.execute("DROP TABLE requests")
        database.execute("DROP TABLE scouts")
        database.execute("UPDATE meta SET value = '5' WHERE key = 'schema_version'")
    with RunStore.open(store.folder, read_only=True) as older:
        assert older.requests.all() == ()
    with RunStore.open(store.folder) as brought_up:
        assert brought_up.requests.all() == ()
    with sqlite3.connect(store.folder / "run.sqlite") as database:
        database.execute("INSERT INTO requests VALUES (1, 'a', 'b', 'dance', NULL)")
    with RunStore.open(store.folder, read_only=True) as foreign, pytest.raises(StoreError, match="dance"):
        foreign.requests.all()


def test_pauses_of_the_whole_run_are_no_work(store: RunStore) -> None:
    now = [100.0]
    looking = control(store, lambda: now[0])
    for seconds, wish, name in (
        (10, Wish.PAUSE, None),
        (20, Wish.PAUSE, ONE),  # of one scenario: the others go on, but for the pause of all
        (30, Wish.UNPAUSE, None),
        (40, Wish.PAUSE, None),
    ):
        now[0] = 100.0 + seconds
        ask(store.folder, wish, name)
        looking.look()
    now[0] = 160.0
    assert looking.worked_s() == 10 + 10, "from 0 to 10 and from 30 to 40"
