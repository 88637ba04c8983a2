"""The SQLite file of a run: its tables and their versions, opened, read and written.

Knows no value that it keeps. Invariant: what SQLite refuses leaves as an error of ours, a row that is there
twice apart, which is a fault of the caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from engine.errors import StoreError
from engine.runs.folder import run_lost, writing
from kernels.files import whole_file

SCHEMA_VERSION = 7
"""2: rounds of several takes. 3: the digest of each video. 4: takes that the user chose. 5: what each
take was made on. 6: what the user asked of a run that went on. 7: scouts."""

_CHOICES = """
CREATE TABLE choices (scenario_id TEXT PRIMARY KEY REFERENCES scenarios (id), take INTEGER NOT NULL);
"""

_REQUESTS = """
CREATE TABLE requests (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at TEXT NOT NULL, wish TEXT NOT NULL,
    scenario_id TEXT REFERENCES scenarios (id));
"""

_SCOUTS = """
CREATE TABLE scouts (
    scenario_id TEXT NOT NULL REFERENCES scenarios (id), number INTEGER NOT NULL, round INTEGER NOT NULL,
    stage INTEGER NOT NULL, candidate INTEGER NOT NULL, prompt TEXT NOT NULL, form TEXT NOT NULL,
    video_path TEXT NOT NULL, scores TEXT NOT NULL, place INTEGER, kept INTEGER NOT NULL,
    timings TEXT NOT NULL, device TEXT, video_sha256 TEXT NOT NULL,
    PRIMARY KEY (scenario_id, number));
"""

SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE scenarios (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, category TEXT NOT NULL,
    output_name TEXT NOT NULL UNIQUE, prefix_path TEXT NOT NULL, prefix_fps REAL NOT NULL,
    prefix_num_frames INTEGER NOT NULL, prefix_width INTEGER NOT NULL, prefix_height INTEGER NOT NULL);
CREATE TABLE plans (scenario_id TEXT PRIMARY KEY REFERENCES scenarios (id), reply TEXT NOT NULL);
CREATE TABLE attempts (
    scenario_id TEXT NOT NULL REFERENCES scenarios (id), number INTEGER NOT NULL, prompt TEXT NOT NULL,
    video_path TEXT NOT NULL, critique TEXT, selector_scores TEXT NOT NULL, timings TEXT NOT NULL,
    round INTEGER NOT NULL, sample INTEGER NOT NULL, video_sha256 TEXT, device TEXT,
    PRIMARY KEY (scenario_id, number));
CREATE TABLE outcomes (
    scenario_id TEXT PRIMARY KEY REFERENCES scenarios (id), chosen INTEGER, failure TEXT, stopped TEXT,
    CHECK ((chosen IS NULL) <> (failure IS NULL)));
CREATE TABLE opened_files (path TEXT PRIMARY KEY);
{_CHOICES}{_REQUESTS}{_SCOUTS}"""

SCOUT_COLUMNS = (
    "number, round, stage, candidate, prompt, form, video_path, scores, place, kept, timings, device"
)
ATTEMPT_COLUMNS = "number, prompt, video_path, critique, selector_scores, timings, round, sample, device"
_WITHOUT_DEVICE = ATTEMPT_COLUMNS.replace("device", "NULL")
_COLUMNS_OF_VERSION = {
    1: (_WITHOUT_DEVICE.replace("round, sample", "number, 0"), "NULL"),  # each round had one take
    2: (_WITHOUT_DEVICE, "NULL"),
    3: (_WITHOUT_DEVICE, "video_sha256"),
    4: (_WITHOUT_DEVICE, "video_sha256"),
    5: (ATTEMPT_COLUMNS, "video_sha256"),
    6: (ATTEMPT_COLUMNS, "video_sha256"),
    7: (ATTEMPT_COLUMNS, "video_sha256"),
}
_UPGRADES = {
    1: """
ALTER TABLE attempts ADD COLUMN round INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN sample INTEGER NOT NULL DEFAULT 0;
UPDATE attempts SET round = number;
""",
    2: "ALTER TABLE attempts ADD COLUMN video_sha256 TEXT;",
    3: _CHOICES,
    4: "ALTER TABLE attempts ADD COLUMN device TEXT;",
    5: _REQUESTS,
    6: _SCOUTS,
}
_REFUSED = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN),
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOLFS),
    }
)
"""Of a file that is whole: the system, or another program, does not let us."""


class Database:
    """One connection. `rows` reads; `transaction` is whole and durable when its block ends."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        """StoreError for what is no store of a known version, or is damaged; an older one is brought up."""
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._version = SCHEMA_VERSION
        with ExitStack() as refused:
            refused.callback(self.close)
            self._open(read_only)
            refused.pop_all()

    @classmethod
    def create(cls, path: Path, scenarios: Sequence[tuple[object, ...]]) -> Database:
        """With these rows of the table scenarios."""
        # Built under another name: a process killed here leaves no half-made run.sqlite behind.
        with writing(path.parent), _errors_told(path, writes=True), whole_file(path) as partial:
            connection = sqlite3.connect(partial)
            with connection:
                connection.executescript(f"BEGIN;{SCHEMA}")
                connection.execute("INSERT INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))
                marks = ",".join("?" * 10)
                connection.executemany(f"INSERT INTO scenarios VALUES ({marks})", scenarios)  # nosec B608
            connection.close()
        return cls(path, read_only=False)

    @property
    def attempt_columns(self) -> str:
        return _COLUMNS_OF_VERSION[self._version][0]

    @property
    def digest_column(self) -> str:
        return _COLUMNS_OF_VERSION[self._version][1]

    @property
    def choices(self) -> str:
        """The table of what the user chose; an empty one of a store that is older and only read."""
        return "choices" if self._version >= 4 else "(SELECT '' AS scenario_id, 0 AS take WHERE FALSE)"

    @property
    def requests(self) -> str:
        """The table of what the user asked; an empty one of a store that is older and only read."""
        if self._version >= 6:
            return "requests"
        return "(SELECT '' AS id, '' AS at, '' AS wish, NULL AS scenario_id WHERE FALSE)"

    @property
    def scouts(self) -> str:
        """The table of scouts; an empty one of a store that is older and only read."""
        if self._version >= 7:
            return "scouts"
        columns = (*SCOUT_COLUMNS.split(", "), "scenario_id", "video_sha256")
        return f"(SELECT {', '.join(f'NULL AS {name}' for name in columns)} WHERE FALSE)"

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with _errors_told(self._path, writes=False):
            return self._open_connection.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with _errors_told(self._path, writes=True), self._open_connection as connection:
            yield connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    @property
    def _open_connection(self) -> sqlite3.Connection:
        assert self._connection is not None, "the store is open"
        return self._connection

    def _open(self, read_only: bool) -> None:
        """Looked through before it is opened for writing.

        SQLite writes its log into a store that is opened for writing and then deletes it, however damaged the
        store is; that of an empty one it deletes even to read it. Whoever puts the store back needs the log.
        """
        with _errors_told(self._path, writes=not read_only):
            if self._path.stat().st_size == 0:
                raise damaged(self._path, "it is empty")
            self._connection = _connect(self._path, "mode=ro")
            if not _readable(self._connection) and not _has_log(self._path):
                # SQLite keeps files beside the store even to read it, which a read-only folder does not take
                self._connection.close()
                self._connection = _connect(self._path, "mode=ro&immutable=1")
            verdict = self.rows("PRAGMA quick_check(1)")
            if verdict != [("ok",)]:
                raise damaged(self._path, str(verdict[0][0] if verdict else "no verdict"))
            self._version = self._stated_version()
            if not read_only:
                self._connection.close()
                self._connection = _connect(self._path, "mode=rw")
                self._for_writing(self._connection)
                self._upgrade()

    @staticmethod
    def _for_writing(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL, not NORMAL: a commit costs milliseconds and records minutes of GPU time, so it shall survive
        # a power cut as well as a killed process.
        connection.execute("PRAGMA synchronous = FULL")
        # Each commit goes on into the store itself: a damaged or missing log, which SQLite leaves out without
        # a word, then costs nothing.
        connection.execute("PRAGMA wal_autocheckpoint = 1")
        connection.execute("PRAGMA foreign_keys = ON")

    def _stated_version(self) -> int:
        found = self.rows("SELECT value FROM meta WHERE key = 'schema_version'")
        value = found[0][0] if found else None
        if not isinstance(value, str) or not value.isdecimal() or int(value) < 1:
            raise damaged(self._path, f"its schema version is {value!r}")
        if int(value) > SCHEMA_VERSION:
            raise StoreError(
                f"{self._path.parent} has schema version {value}; this retake reads up to version "
                f"{SCHEMA_VERSION}",
                fix="use the retake that made this run, or a newer one",
            )
        return int(value)

    def _upgrade(self) -> None:
        steps = "".join(_UPGRADES[version] for version in range(self._version, SCHEMA_VERSION))
        if steps:
            stated = f"UPDATE meta SET value = '{SCHEMA_VERSION}' WHERE key = 'schema_version';"  # nosec B608
            self._open_connection.executescript(f"BEGIN;{steps}{stated}COMMIT;")
        self._version = SCHEMA_VERSION


def damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path} is not a run store, or is damaged: {what}",
        fix="name the folder given as --out; put back a copy of this file, or start a new run",
    )


def _connect(path: Path, options: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True)


def _readable(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError as error:
        return error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
    return True


def _has_log(path: Path) -> bool:
    """Whether the last writes may lie beside the store, so that it must not be read without them."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


@contextmanager
def _errors_told(path: Path, *, writes: bool) -> Iterator[None]:
    """RunLost for a write that the system refuses, StoreError for a read, and for what is no whole store."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except UnicodeDecodeError as error:  # SQLite's own message, which repeats a damaged name
        raise damaged(path, f"it holds a name that is not UTF-8: {error}") from error
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        if isinstance(error, sqlite3.ProgrammingError):  # a fault of the caller, such as using it when closed
            raise
        if code is None or code & 0xFF not in _REFUSED:  # Python gives no code for text that is not UTF-8
            raise damaged(path, str(error)) from error
        if writes:
            raise run_lost(path.parent, f"{path.name}: {error}") from error
        raise StoreError(
            f"{path} cannot be read: {error}",
            fix="close other programs that use it; or copy the folder to where you may write",
        ) from error
