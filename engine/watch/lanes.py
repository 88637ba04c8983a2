"""The lanes of a run that goes on, from its trace as it grows: what was read stays read."""

from __future__ import annotations

from pathlib import Path

from engine.errors import StoreError
from engine.report.page import TIMELINE_PX
from engine.runs.profile import Tally
from engine.runs.timeline import Timeline
from engine.runs.trace_file import TraceTail


class Lanes:
    def __init__(self, run: Path) -> None:
        self._tail = TraceTail(run)
        self._begin()
        self.fault: str | None = None
        """Why the trace cannot be read."""

    def _begin(self) -> None:
        self.tally = Tally()
        self.timeline = Timeline((), TIMELINE_PX)

    def read(self) -> None:
        """What is new. A damaged trace is told, and read again once it is another file."""
        anew = self._tail.begins_anew()
        if anew:
            self._begin()
            self.fault = None
        try:
            self.timeline.add(self.tally.watching(self._tail.new(anew=anew)))
        except StoreError as error:
            self.fault = error.problem
