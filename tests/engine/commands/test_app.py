"""How a run is executed: whatever happens while it is built, no thread of the display stays behind."""

from __future__ import annotations

import threading
from typing import Never

import pytest
from rich.status import Status

from engine.commands._app import execute


def test_an_interrupt_while_the_display_starts_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    start, before = Status.start, set(threading.enumerate())

    def interrupted(self: Status) -> Never:
        start(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Status, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(lambda: pytest.fail("it was not built"))
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive(), thread.name
