"""RUN/watch.json: where the page is that watches a run, so that others find it and it comes back there.

The file is locked while a page runs, so that there is one of a run and a dead one is known; only its owner
may read it, for it holds the page's token. Serves nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.runs.folder import is_locked, lock_alone
from kernels.files import parse_json

WATCH = "watch.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A port of the loopback interface, and the secret part of the page's address."""

    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.token}/"


class PlaceFile:
    """Of the one page of a run; without a file where the folder takes none."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def before(self) -> Place | None:
        """Where the page was that ran before."""
        return None if self._descriptor is None else _read(self._descriptor)

    def note(self, place: Place) -> None:
        if self._descriptor is not None:
            text = json.dumps({"port": place.port, "token": place.token}).encode()
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text, 0)


@contextmanager
def claimed(run: Path) -> Iterator[PlaceFile]:
    """ConfigError where another page of this run is open; the file stays, for the next one."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(run / WATCH, flags, 0o600)
    except OSError:
        yield PlaceFile(None)
        return
    try:
        _lock(run, descriptor)
        yield PlaceFile(descriptor)
    finally:
        os.close(descriptor)


def _lock(run: Path, descriptor: int) -> None:
    try:
        lock_alone(descriptor)
        os.fchmod(descriptor, 0o600)
    except BlockingIOError as error:
        place = _read(descriptor)
        raise ConfigError(
            f"{run} has a page already", fix=f"open {place.url}" if place else "stop the other `retake watch`"
        ) from error
    except PermissionError as error:  # of another user, who could read what we write there
        raise ConfigError(f"{run / WATCH} is another user's", fix="remove that file") from error


def page_of(run: Path) -> str | None:
    """Where the page of this run is at the moment; None without one, or where it is another user's."""
    try:
        descriptor = os.open(run / WATCH, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        place = _read(descriptor) if is_locked(descriptor) else None
    finally:
        os.close(descriptor)
    return None if place is None else place.url


def _read(descriptor: int) -> Place | None:
    try:
        found = parse_json(os.pread(descriptor, 4096, 0))
        port, token = found["port"], found["token"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if type(port) is not int or not 0 < port < 1 << 16 or not isinstance(token, str):
        return None
    return Place(port=port, token=token) if len(token) >= 16 and token.isascii() and token.isalnum() else None
