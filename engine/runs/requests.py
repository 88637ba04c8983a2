"""What the user asks of a run while it goes on: asked in one process, honoured and recorded in another.

Whoever asks appends a line to RUN/control.jsonl; the process that writes the run reads what is new there,
puts it into the store and obeys. Knows no scheduler. Invariants: the store alone says what holds, so that
nothing is asked twice and a lost file changes nothing; a line that cannot be read costs a warning alone.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Container, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.runs.database import Database, damaged
from engine.runs.folder import DATABASE, place_in, writing
from engine.types import SKIPPED, Asked, Request, Wish
from kernels.files import parse_json

CONTROL = "control.jsonl"
LOOK_EVERY_S = 0.25
"""Between two looks at the file, which cost 10 us a second, and a turn of the scheduler 0.1 us. At every
turn, of which there are 2000 a second while it waits, the file would cost 0.5 % of a core."""

log = logging.getLogger(__name__)


def ask(folder: Path, wish: Wish, scenario_id: str | None = None) -> Request:
    """Append it for whoever writes the run; the names are the caller's to check."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    request = Request(id=secrets.token_hex(8), at=at, wish=wish, scenario_id=scenario_id)
    words = {"id": request.id, "at": at, "wish": str(wish), "scenario": scenario_id}
    with place_in(folder, CONTROL).open("ab") as file:
        file.write(json.dumps(words).encode() + b"\n")  # one write, which no other one comes between
    return request


def holds(requests: Iterable[Request]) -> Asked:
    """Of all of them in order. To unpause the whole run unpauses its scenarios too."""
    is_paused, held, skipped = False, set[str](), set[str]()
    for one in requests:
        name = one.scenario_id
        if name is None:
            is_paused = one.wish is Wish.PAUSE
            held = held if is_paused else set()
        elif one.wish in (Wish.PAUSE, Wish.UNPAUSE):
            (held.add if one.wish is Wish.PAUSE else held.discard)(name)
        else:
            (skipped.add if one.wish is Wish.SKIP else skipped.discard)(name)
    return Asked(is_paused=is_paused, held=frozenset(held - skipped), skipped=frozenset(skipped))


class RequestTable:
    """The requests that a store has recorded."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder

    def all(self) -> tuple[Request, ...]:
        """In the order in which they were honoured. StoreError for one that is none of ours."""
        rows = self._database.rows(f"SELECT id, at, wish, scenario_id FROM {self._database.requests}")  # nosec B608
        try:
            return tuple(
                Request(id=i, at=at, wish=Wish(wish), scenario_id=name) for i, at, wish, name in rows
            )
        except ValueError as error:
            raise damaged(self._folder / DATABASE, f"a row cannot be read: {error}") from error

    def ended(self) -> frozenset[str]:
        """The scenarios that have an outcome: nothing is held there any more."""
        return frozenset(name for (name,) in self._database.rows("SELECT scenario_id FROM outcomes"))

    def record(self, requests: Iterable[Request]) -> None:
        """A scenario that is not skipped any more is pending again."""
        with self._database.transaction() as database:
            for one in requests:
                row = (one.id, one.at, str(one.wish), one.scenario_id)
                database.execute(
                    "INSERT OR IGNORE INTO requests (id, at, wish, scenario_id) VALUES (?,?,?,?)", row
                )
                if one.wish is Wish.UNSKIP:
                    query = "DELETE FROM outcomes WHERE scenario_id = ? AND stopped = ?"
                    database.execute(query, (one.scenario_id, SKIPPED))


class Requests:
    """The control of a run, as `engine.protocols.Control`; of the one process that writes the folder."""

    def __init__(
        self,
        folder: Path,
        table: RequestTable,
        known: Iterable[str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`known`: the scenarios of the run. `now`: seconds on any clock that goes on."""
        self._path, self._folder = folder / CONTROL, folder
        self._table, self._known, self._now = table, frozenset(known), now
        self._unread: set[bytes] = set()
        self._size, self._next_s = 0, 0.0
        self._began_s, self._paused_s, self._since_s = now(), 0.0, 0.0
        recorded = table.all()
        self._recorded, self._asked = {one.id for one in recorded}, holds(recorded)

    def look(self) -> Asked:
        """RunLost where the run folder takes no more writes."""
        now_s = self._now()
        if now_s >= self._next_s:
            self._next_s = now_s + LOOK_EVERY_S
            self._read()
        return self._asked

    def worked_s(self) -> float:
        """Since this was made, without the pauses of the whole run."""
        now_s = self._now()
        paused_s = self._paused_s + (now_s - self._since_s if self._asked.is_paused else 0.0)
        return now_s - self._began_s - paused_s

    def go_on(self) -> None:
        """Lift every pause: the user has just asked for the run to go on."""
        self._read()
        if self._asked.is_paused or self._asked.held:
            ask(self._folder, Wish.UNPAUSE)
            self._read()

    def _read(self) -> None:
        try:
            size = self._path.stat().st_size
            if size == self._size:
                return
            text = self._path.read_bytes()  # a line for each word of a person: short
        except FileNotFoundError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._size = size
        found = [one for line in whole.splitlines() if (one := self._request(line)) is not None]
        fresh = [one for one in found if one.id not in self._recorded]
        if fresh:
            with writing(self._folder):
                self._table.record(fresh)
            self._recorded.update(one.id for one in fresh)
            self._ask(holds(self._table.all()))
            ended = self._table.ended()
            for one in fresh:
                log.warning("%s", told(one, ended))

    def _ask(self, asked: Asked) -> None:
        now_s = self._now()
        if self._asked.is_paused and not asked.is_paused:
            self._paused_s += now_s - self._since_s
        elif asked.is_paused and not self._asked.is_paused:
            self._since_s = now_s
        self._asked = asked

    def _request(self, line: bytes) -> Request | None:
        try:
            return self._of(parse_json(line))
        except (ValueError, KeyError, TypeError) as error:
            if line not in self._unread:
                self._unread.add(line)
                log.warning("%s has a line that is no request: %s: %s", CONTROL, type(error).__name__, error)
            return None

    def _of(self, words: Any) -> Request:
        name, texts = words["scenario"], (words["id"], words["at"])
        if not all(isinstance(text, str) for text in texts) or not (name is None or name in self._known):
            raise ValueError(f"scenario {name!r}")
        wish = Wish(words["wish"])
        if name is None and wish in (Wish.SKIP, Wish.UNSKIP):
            raise ValueError("a whole run is not skipped")
        return Request(id=words["id"], at=words["at"], wish=wish, scenario_id=name)


def told(request: Request, ended: Container[str]) -> str:
    """ "the run is paused, as the user asked". `ended`: scenarios for which a wish to hold comes too late."""
    holding = {Wish.PAUSE: "paused", Wish.SKIP: "skipped"}
    others = {Wish.UNPAUSE: "goes on", Wish.UNSKIP: "is not skipped any more"}
    if request.wish in holding and request.scenario_id in ended:
        return (
            f"{request.scenario_id} had ended before it could be {holding[request.wish]}: it stays as it is"
        )
    does = others.get(request.wish) or f"is {holding[request.wish]}"
    return f"{request.scenario_id or 'the run'} {does}, as the user asked"
