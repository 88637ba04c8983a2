"""The SQLite file of a run when it is damaged, foreign or not to be written: always an error of ours."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from fake_run import SCENARIOS, FakeModels, Run

from engine.errors import RetakeError, RunLost, StoreError
from engine.runs import database
from engine.runs.database import Database
from engine.runs.store import RunStore


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a finished run."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with RunStore.create(folder, SCENARIOS) as store:
        Run(store, FakeModels()).go(overlap=False)
    return (folder / "run.sqlite").read_bytes()


def read_all(folder: Path) -> None:
    with RunStore.open(folder, read_only=True) as store:
        store.outcomes(), store.pending(), store.opened_files(), store.video_digests()
        for scenario in store.scenarios():
            store.history(scenario.id)


def test_flipped_and_cut_files_are_read_or_refused(tmp_path: Path, stored: bytes) -> None:
    draw, path, num_refused = random.Random(3), tmp_path / "run.sqlite", 0
    for _ in range(150):
        damaged = bytearray(stored)
        start = draw.randrange(len(damaged))
        if draw.random() < 0.2:
            del damaged[start:]
        else:
            size = draw.choice((1, 8, 512, 4096))
            damaged[start : start + size] = draw.randbytes(size)
        path.write_bytes(damaged)
        try:
            read_all(tmp_path)
        except StoreError as error:
            assert error.fix, error.problem
            num_refused += 1
        except RetakeError as error:
            raise AssertionError("another kind of error") from error
    assert num_refused > 50


def test_a_name_that_is_no_text_is_told_as_damage(tmp_path: Path, stored: bytes) -> None:
    """SQLite repeats it in a message, which Python then cannot read."""
    damaged = stored.replace(b"tablescoutsscouts", b"table\xf3coutsscouts")
    damaged = damaged.replace(b"CREATE TABLE scouts", b"CREATE TABLX scouts")
    (tmp_path / "run.sqlite").write_bytes(damaged)
    with pytest.raises(StoreError, match="damaged"):
        read_all(tmp_path)


@pytest.mark.parametrize("version", ["0", "-1", "abc", "", None, "1.5"])
def test_odd_versions_are_refused(tmp_path: Path, stored: bytes, version: str | None) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(stored)
    with sqlite3.connect(path) as connection:
        if version is None:
            connection.execute("DELETE FROM meta")
        else:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (version,))
    for read_only in (True, False):
        with pytest.raises(StoreError, match=f"schema version is {version!r}"):
            RunStore.open(tmp_path, read_only=read_only)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE attempts SET video_path = '/etc/hostname'",
        "UPDATE attempts SET video_path = '../run/videos/a.mp4'",
        "UPDATE scenarios SET output_name = '../' || output_name WHERE position = 0",
        "UPDATE scenarios SET id = '..' WHERE position = 0",
    ],
)
def test_a_foreign_store_names_nothing_outside_its_folder(tmp_path: Path, stored: bytes, change: str) -> None:
    (tmp_path / "run.sqlite").write_bytes(stored)
    with sqlite3.connect(tmp_path / "run.sqlite") as connection:
        connection.execute(change)
    for read_only in (True, False):
        with pytest.raises(StoreError, match=r"not its own|cannot be a file name"):
            RunStore.open(tmp_path, read_only=read_only)


def test_a_take_that_is_a_link_outside_is_not_opened(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run", SCENARIOS) as store:
        Run(store, FakeModels()).go(overlap=False)
        take = store.folder / store.video_path(SCENARIOS[0].id, 0)
    take.unlink()
    (tmp_path / "private.mp4").write_bytes(b"private")
    take.symlink_to(tmp_path / "private.mp4")
    for read_only in (True, False):
        with pytest.raises(StoreError, match="over a symbolic link"):
            RunStore.open(tmp_path / "run", read_only=read_only)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE attempts SET critique = '{'",
        "UPDATE attempts SET timings = replace(hex(zeroblob(60000)), '00', '[')",
        "UPDATE plans SET reply = '[]'",
        "UPDATE scenarios SET prefix_fps = 'fast'",
        "UPDATE attempts SET number = number + 100",
        "UPDATE outcomes SET chosen = 99",
        "ALTER TABLE attempts RENAME TO takes",
    ],
)
def test_rows_that_we_never_write_are_refused(tmp_path: Path, stored: bytes, change: str) -> None:
    (tmp_path / "run.sqlite").write_bytes(stored)
    with sqlite3.connect(tmp_path / "run.sqlite") as connection:
        connection.execute(change)
    with pytest.raises(StoreError, match="is damaged"):
        read_all(tmp_path)


def test_a_folder_that_takes_no_files_is_read_if_nothing_lies_beside_the_store(
    tmp_path: Path, stored: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so it is only said that SQLite cannot make its files."""
    (tmp_path / "run.sqlite").write_bytes(stored)
    opened, real = [], database._connect
    monkeypatch.setattr(database, "_readable", lambda connection: False)
    monkeypatch.setattr(database, "_connect", lambda path, how: opened.append(how) or real(path, how))
    RunStore.open(tmp_path, read_only=True).close()
    assert opened == ["mode=ro", "mode=ro&immutable=1"]
    (tmp_path / "run.sqlite-wal").write_bytes(b"the last writes")
    RunStore.open(tmp_path, read_only=True).close()
    assert opened[2:] == ["mode=ro"]


def test_a_write_that_is_refused_is_lost_and_a_row_twice_is_our_fault(tmp_path: Path, stored: bytes) -> None:
    (tmp_path / "run.sqlite").write_bytes(stored)
    opened = Database(tmp_path / "run.sqlite", read_only=False)
    (size,) = opened.rows("PRAGMA page_count")[0]
    opened.rows(f"PRAGMA max_page_count = {size}")  # as a full disk
    with pytest.raises(RunLost, match="disk is full"), opened.transaction() as writer:
        writer.execute("INSERT INTO opened_files VALUES (?)", ("x" * 100_000,))
    with pytest.raises(sqlite3.IntegrityError), opened.transaction() as writer:
        writer.execute("INSERT INTO meta VALUES ('schema_version', '3')")
    opened.close()


def killed_run(folder: Path) -> Path:
    """As a kill leaves it: nobody closed the store, and its log lies beside it."""
    with RunStore.create(folder / "running", SCENARIOS) as store:
        Run(store, FakeModels()).go(overlap=False, limit=2)
        killed = Path(shutil.copytree(folder / "running", folder / "killed"))
    (killed / "run.sqlite-shm").unlink()
    assert (killed / "run.sqlite-wal").stat().st_size > 0
    return killed


def contents(folder: Path) -> dict[str, object]:
    with RunStore.open(folder, read_only=True) as store:
        return {scene.id: store.history(scene.id) for scene in SCENARIOS}


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("read_only", [True, False])
def test_a_damaged_store_is_refused_and_loses_nothing_when_it_is_put_back(
    tmp_path: Path, part: float, read_only: bool
) -> None:
    """SQLite writes the log into what is left of the store and deletes it, of an empty one always."""
    killed = killed_run(tmp_path)
    before, whole = contents(tmp_path / "running"), (killed / "run.sqlite").read_bytes()
    log = (killed / "run.sqlite-wal").read_bytes()
    (killed / "run.sqlite").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(StoreError, match=r"is damaged"):
        RunStore.open(killed, read_only=read_only)
    assert (killed / "run.sqlite-wal").read_bytes() == log
    (killed / "run.sqlite").write_bytes(whole)
    assert contents(killed) == before


@pytest.mark.parametrize("damage", ["gone", "emptied", "cut", "flipped"])
def test_a_damaged_log_costs_nothing(tmp_path: Path, damage: str) -> None:
    """What SQLite cannot read of a log it leaves out without a word."""
    killed = killed_run(tmp_path)
    log = killed / "run.sqlite-wal"
    content = bytearray(log.read_bytes())
    if damage == "gone":
        log.unlink()
    elif damage == "flipped":
        content[40] ^= 1
        log.write_bytes(content)
    else:
        log.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    assert contents(killed) == contents(tmp_path / "running")
    with RunStore.open(killed) as store:
        assert len(store.outcomes()) == 2
