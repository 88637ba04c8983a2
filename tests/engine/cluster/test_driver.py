"""Driver and workers with real small models, on threads: what is stored is that of a single engine."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stored_runs import stored
from thread_workers import ThreadWorkers
from tiny_run import Folders, Silent, make_folders, script_the_critic

from engine.build import engine
from engine.build.prepare import Prepared, load
from engine.build.run import begin_folder, build_run, resume_run
from engine.cluster import worker
from engine.cluster.driver import Driver
from engine.cluster.messages import Ended, Message, Ranked, Scouted, Taken
from engine.cluster.run import ClusterRun
from engine.errors import DeviceError, ModelError, RunLost, StoreError
from engine.protocols import Critic, Generator
from engine.runs.log_file import RunLog
from engine.runs.manifest import read_manifest
from engine.runs.requests import ask
from engine.runs.store import RunStore
from engine.runs.trace_file import read_trace
from engine.types import SKIPPED, Asked, Attempt, Frames, Wish

SETTINGS: dict[str, object] = {"loop.loops": 1, "schedule.ahead": 1, "selectors.keep_states": True}
SCOUTS: dict[str, object] = {
    **{"loop.method": "scout", "loop.loops": 0, "loop.scouts": 3, "loop.scout_halvings": 0},
    **{"loop.scout_steps": 1, "loop.scout_choosers": ["static_camera"], "generator.steps": 2},
}
LOOKS: dict[str, object] = {"loop.loops": 1, "loop.samples": 2, "loop.selectors": ["static_camera"]}
LOOKS["selectors.keep_states"] = True


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")
    script_the_critic(monkeypatch)
    loading = threading.Lock()  # libraries load one model at a time in a process

    def one_at_a_time(prepared: Prepared, loaded_bytes: dict[str, int]) -> tuple[Generator, Critic]:
        with loading:
            return load(prepared, loaded_bytes)

    monkeypatch.setattr(worker, "load", one_at_a_time)


@pytest.fixture(scope="module")
def single(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What one engine stores, by settings."""
    known: dict[str, dict[str, Any]] = {}

    def of(settings: dict[str, object]) -> dict[str, Any]:
        key = repr(settings)
        if key not in known:
            out = tmp_path_factory.mktemp("single") / "run"
            with build_run(folders.config(out, settings=settings)) as run:
                run.execute(Silent())
            known[key] = stored(out)
        return known[key]

    return of


def several(
    folders: Folders, out: Path, pool: ThreadWorkers, settings: dict[str, object] = SETTINGS
) -> ClusterRun:
    log = RunLog()
    try:
        driver = Driver(pool, folders.config(out, settings=settings), None)  # type: ignore[arg-type]
        return ClusterRun(begin_folder(driver.config, driver.first.scenarios, driver.facts, log), log, driver)
    except BaseException:
        pool.close()
        log.close()
        raise


def test_two_workers_store_what_one_engine_stores(
    folders: Folders, tmp_path: Path, single: Callable[..., dict[str, Any]]
) -> None:
    out, pool = tmp_path / "run", ThreadWorkers(nodes=("a", "a"), together=True)
    with several(folders, out, pool) as run:
        assert run.num_pending == 2
        display = Silent()
        run.execute(display)
    assert stored(out) == single(SETTINGS)
    assert len(display.outcomes) == 2 and len(set(display.attempts)) == len(display.attempts)
    assert pool.listened == [(0, True), (1, False)], "one of a node digests, the other comes after it"
    workers = read_manifest(out / "manifest.json")["workers"]
    assert [(one["worker"], one["node"]) for one in workers] == [(0, "a"), (1, "a")]
    lanes = {span.lane for span in read_trace(out)}
    assert {"generate 0", "generate 1", "critique 0", "critique 1"} <= lanes
    log = (out / "run.log").read_text()
    assert "worker=1 ready" in log and "outcome scenario=" in log


def test_what_the_user_asks_reaches_every_worker(
    folders: Folders,
    tmp_path: Path,
    single: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One scenario is skipped before it is handed out; the other is paused with its first take, until that is
    recorded, and ends as if it had not been."""
    out, expected = tmp_path / "run", single(SETTINGS)
    skipped, paused = sorted(expected["outcomes"])
    asked: list[Wish] = []
    hold_after_the_first_take(monkeypatch)

    def hears(worker: int, message: Message) -> bool:
        if isinstance(message, Taken) and not asked:
            asked.append(ask(out, Wish.PAUSE, paused).wish)
            threading.Thread(target=goes_on_when_recorded, args=(out, paused)).start()
        return False

    pool = ThreadWorkers(nodes=("a", "b"), loses=hears)
    with several(folders, out, pool) as run:
        ask(out, Wish.SKIP, skipped)
        run.execute(Silent())
    with RunStore.open(out, read_only=True) as store:
        assert [one.wish for one in store.requests.all()] == [Wish.SKIP, Wish.PAUSE, Wish.UNPAUSE]
        found, videos = store.outcomes(), store.video_digests()
    assert (found[skipped].stopped, found[skipped].attempts) == (SKIPPED, ())
    told, own = (
        [(a.prompt, one.chosen) for a in one.attempts]
        for one in (found[paused], expected["outcomes"][paused])
    )
    assert told == own
    assert videos == {key: digest for key, digest in expected["videos"].items() if key[0] == paused}


def hold_after_the_first_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has sent a take does nothing until it has been told of a pause."""
    taken, told = threading.Event(), threading.Event()
    send, give, look = worker._Sender.attempt, worker.Worker.give, worker.Worker.look

    def sends(self: Any, scenario_id: str, attempt: Attempt) -> None:
        send(self, scenario_id, attempt)
        taken.set()

    def gives(self: worker.Worker, given: Any) -> None:
        give(self, given)
        if isinstance(given, Asked) and given.held:
            told.set()

    def looks(self: worker.Worker) -> Asked:
        assert not taken.is_set() or told.wait(60), "no pause within a minute"
        return look(self)

    for owner, name, instead in (
        (worker._Sender, "attempt", sends),
        (worker.Worker, "give", gives),
        (worker.Worker, "look", looks),
    ):
        monkeypatch.setattr(owner, name, instead)


def goes_on_when_recorded(out: Path, scenario_id: str) -> None:
    while True:
        with RunStore.open(out, read_only=True) as store:
            if any(one.wish is Wish.PAUSE for one in store.requests.all()):
                ask(out, Wish.UNPAUSE, scenario_id)
                return


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        pytest.param(SETTINGS, Taken, id="critic-take"),
        pytest.param(SETTINGS, Ended, id="critic-outcome"),
        pytest.param(SCOUTS, Scouted, id="scouts-scout"),
        pytest.param(SCOUTS, Ranked, id="scouts-ranked", marks=pytest.mark.slow),
        pytest.param(LOOKS, Taken, id="looks-take", marks=pytest.mark.slow),
        pytest.param(LOOKS, Ended, id="looks-outcome", marks=pytest.mark.slow),
    ],
)
def test_a_lost_worker_loses_nothing_and_doubles_nothing(
    folders: Folders,
    tmp_path: Path,
    single: Callable[..., dict[str, Any]],
    settings: dict[str, object],
    at: type[Message],
) -> None:
    """It is lost with the second message of a kind on its way; another goes on from what is stored, for
    which selectors need the takes themselves."""
    heard: list[Message] = []

    def loses(worker: int, message: Message) -> bool:
        if isinstance(message, at):
            heard.append(message)
        return len(heard) == 2 and message is heard[1]

    pool = ThreadWorkers(nodes=("a", "b"), loses=loses, restarts=0)
    display = Silent()
    with several(folders, tmp_path / "run", pool, settings) as run:
        run.execute(display)
    assert stored(tmp_path / "run") == single(settings)
    assert len(set(display.attempts)) == len(display.attempts)
    assert "was lost and is not started again" in (tmp_path / "run" / "run.log").read_text()


def test_a_worker_that_is_lost_is_started_again(
    folders: Folders, tmp_path: Path, single: Callable[..., dict[str, Any]]
) -> None:
    lost: list[Message] = []

    def loses(worker: int, message: Message) -> bool:
        if isinstance(message, Taken) and len(lost) < 2:
            lost.append(message)
            return True
        return False

    with several(folders, tmp_path / "run", ThreadWorkers(nodes=("a",), loses=loses)) as run:
        run.execute(Silent())
    assert len(lost) == 2 and stored(tmp_path / "run") == single(SETTINGS)


def test_a_worker_that_is_lost_at_the_end_costs_a_part_of_the_trace_and_is_told(
    folders: Folders, tmp_path: Path, single: Callable[..., dict[str, Any]]
) -> None:
    ended: list[Message] = []

    def loses(worker: int, message: Message) -> bool:
        is_late = len(ended) == 2
        ended.extend([message] if isinstance(message, Ended) else [])
        return is_late

    with several(folders, tmp_path / "run", ThreadWorkers(nodes=("a",), loses=loses)) as run:
        run.execute(Silent())
    assert stored(tmp_path / "run") == single(SETTINGS)
    log = (tmp_path / "run" / "run.log").read_text()
    assert "worker 0 on node a was lost after its last scenario" in log


@pytest.mark.slow
def test_a_scenario_that_kills_every_worker_fails_and_the_others_are_done(
    folders: Folders, tmp_path: Path, single: Callable[..., dict[str, Any]]
) -> None:
    bad = next(iter(single(SETTINGS)["outcomes"]))

    def loses(worker: int, message: Message) -> bool:
        return isinstance(message, Taken) and message.scenario_id == bad

    with several(folders, tmp_path / "run", ThreadWorkers(nodes=("a",), loses=loses)) as run:
        outcomes = run.execute(Silent())
    assert "3 workers were lost with it in hand" in str(outcomes.pop(bad).failure)
    (other,) = outcomes
    assert stored(tmp_path / "run")["outcomes"][other] == single(SETTINGS)["outcomes"][other]


def test_no_worker_left_ends_the_run_and_it_can_be_resumed(
    folders: Folders, tmp_path: Path, single: Callable[..., dict[str, Any]]
) -> None:
    """By one engine, as a run that was started by one."""
    takes: list[Message] = []

    def loses(worker: int, message: Message) -> bool:
        takes.extend([message] * isinstance(message, Taken))
        return len(takes) > 1

    pool = ThreadWorkers(nodes=("a", "a"), loses=loses, restarts=0)
    with (
        several(folders, tmp_path / "run", pool) as run,
        pytest.raises(DeviceError, match="no worker is left"),
    ):
        run.execute(Silent())
    with resume_run(tmp_path / "run") as run:
        display = Silent()
        run.execute(display)
    assert stored(tmp_path / "run") == single(SETTINGS) and len(display.attempts) == 3


def test_an_interrupted_run_is_resumed(
    folders: Folders, tmp_path: Path, single: Callable[..., dict[str, Any]]
) -> None:
    with (
        several(folders, tmp_path / "run", ThreadWorkers(nodes=("a", "a"))) as run,
        suppress(KeyboardInterrupt),
    ):
        run.execute(Silent(interrupt=2))
    with resume_run(tmp_path / "run") as run:
        run.execute(Silent())
    assert stored(tmp_path / "run") == single(SETTINGS)


def test_a_full_disk_of_a_worker_costs_the_worker_and_one_of_the_driver_the_run(
    folders: Folders,
    tmp_path: Path,
    single: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, full = engine.write_mp4, []

    def write(path: Path, frames: Frames, fps: float, *, note: str | None) -> None:
        full.append(path)
        if len(full) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, frames, fps, note=note)

    monkeypatch.setattr(engine, "write_mp4", write)
    with several(folders, tmp_path / "run", ThreadWorkers(nodes=("a", "b"))) as run:
        run.execute(Silent())
    assert stored(tmp_path / "run") == single(SETTINGS)
    assert "takes no more writes" in (tmp_path / "run" / "run.log").read_text()

    def refuse(self: RunStore, name: str, attempt: object) -> None:
        raise RunLost("full", fix="make room")

    monkeypatch.setattr(RunStore, "attempt", refuse)
    with several(folders, tmp_path / "full", ThreadWorkers(nodes=("a", "a"))) as run, pytest.raises(RunLost):
        run.execute(Silent())


def test_an_error_in_a_worker_is_its_scenarios(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine.write_mp4

    def write(path: Path, frames: Frames, fps: float, *, note: str | None) -> None:
        if "0001" in str(path):
            raise ValueError("odd frames")
        real(path, frames, fps, note=note)

    monkeypatch.setattr(engine, "write_mp4", write)
    with several(folders, tmp_path / "run", ThreadWorkers(nodes=("a", "a"))) as run:
        outcomes = run.execute(Silent())
    failures = [one.failure for one in outcomes.values()]
    assert sorted(map(bool, failures)) == [False, True] and "ValueError: odd frames" in failures


def test_what_the_first_worker_cannot_load_is_the_users_error(folders: Folders, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError):
        several(replace(folders, generator=empty), tmp_path / "run", ThreadWorkers(nodes=("a", "a")))
    assert not (tmp_path / "run").exists()


def test_a_worker_with_other_settings_or_files_is_refused(folders: Folders, tmp_path: Path) -> None:
    other = folders.config(tmp_path / "run", settings=SETTINGS | {"loop.seed": 5})
    pool = ThreadWorkers(nodes=("a", "b"), config={1: other})
    with several(folders, tmp_path / "run", pool) as run, pytest.raises(StoreError, match=r"loop\.seed"):
        run.execute(Silent())


@pytest.mark.slow
def test_other_cards_are_told_and_recorded(folders: Folders, tmp_path: Path, monkeypatch: Any) -> None:
    names = iter(["NVIDIA H200", "NVIDIA H200", "NVIDIA L4", "NVIDIA L4"])
    monkeypatch.setattr("engine.cluster.worker.device_name", lambda device: next(names))
    monkeypatch.setattr(engine, "device_name", lambda device: next(names))
    with several(folders, tmp_path / "run", ThreadWorkers(nodes=("a", "a"))) as run:
        outcomes = run.execute(Silent())
    assert {a.device for one in outcomes.values() for a in one.attempts} == {"NVIDIA H200", "NVIDIA L4"}
    assert "its takes may differ" in (tmp_path / "run" / "run.log").read_text()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [one["device"] for one in manifest["workers"]] == ["NVIDIA H200", "NVIDIA L4"]
