"""What the page of a run shows at the moment, with a number for each change, so that little is sent twice.

Reads the run folder and nothing else. One thread asks, as the store wants it. Invariant: whatever the folder
holds, there is an answer: what cannot be read is told.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import RetakeError, StoreError
from engine.report.charts import Estimate
from engine.report.page import Row, build_row, build_scene, prefix_is_seen, summarize
from engine.report.run_data import ReportData
from engine.runs.folder import is_live, place_in
from engine.runs.live import LIVE, read_live
from engine.runs.trace_file import NOTES, TRACE
from engine.watch.lanes import Lanes
from engine.watch.parts import NUM_LATEST, Now, Parts, served, stands
from engine.watch.records import FILES, Identity, Records, identity

SHARE, LONGEST_S = 0.1, 5.0
"""Of the time, at most, in which a view reads, but for a look every LONGEST_S: a run of thousands of
scenarios takes half a second to be summed up, and the machine is busy with it."""


class RunView:
    """`changes` is what a page asks for again and again; the others are for one scenario, by its place."""

    def __init__(
        self, run: Path, *, share: float = SHARE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`share`: of the time, at most, in which this reads."""
        self._share, self._clock, self._due_s = share, clock, float("-inf")
        self._gain: Estimate | None = None
        self.run = run.resolve()
        self.parts = Parts()
        self._records, self._lanes = Records(self.run), Lanes(self.run)
        self._seen: tuple[Identity | bool, ...] = ()
        self._epoch, self._rev, self._is_new = secrets.token_hex(4), 0, False
        self._html: dict[str, tuple[int, str]] = {}  # by part: the change it is of
        self._rows: list[tuple[int, Row, dict[str, Any]]] = []
        self._scene_revs: list[int] = []
        self._data: ReportData | None = None
        self._now: Now | None = None
        self._prefixes: dict[tuple[Path, Identity], bool] = {}
        self._videos: dict[str, Path] = {}

    def close(self) -> None:
        self._records.close()

    def changes(self, since: str) -> dict[str, Any]:
        """Since the change of that name; all, where it is none of ours.

        `rev` names the last change. `scenes`: places whose scene is another one.
        """
        self._refresh()
        epoch, _, number = since.partition(".")
        known = int(number) if epoch == self._epoch and number.isdecimal() else -1
        latest = self._records.latest[0][0] if self._records.latest else None
        return {
            "rev": f"{self._epoch}.{self._rev}",
            "parts": {name: html for name, (rev, html) in self._html.items() if rev > known},
            "rows": [entry for rev, _, entry in self._rows if rev > known],
            "num_rows": len(self._rows),
            "scenes": [place for place, rev in enumerate(self._scene_revs) if rev > known],
            "latest": latest,
            "live": self._now is not None and self._now.state in ("running", "paused"),
        }

    def scene(self, place: int) -> str | None:
        """The article of one scenario; None where there is none at this place."""
        self._refresh()
        if self._data is None or self._now is None or not 0 <= place < len(self._rows):
            return None
        record = self._records.whole(place)
        if record is None:
            return None
        scene = build_scene(self._data, record, embed=False)
        seen = self._prefix_is_seen(place)
        commands = []
        if record.outcome is None:
            commands = self.parts.commands(self._data, self._now, record.scenario.id)
        return self.parts.scene(served(scene, f"prefix/{place}" if seen else None), commands)

    def video(self, path: str) -> Path | None:
        """Of a take, by its path in the run folder; None where the store names no such take."""
        self._refresh()
        place = self._videos.get(path)
        try:
            return None if place is None else place_in(self.run, place)
        except StoreError:  # a link that leads outside, made since the store was looked through
            return None

    def prefix(self, place: int) -> Path | None:
        """The clip that a scenario continues, if it is the one that the run saw: a foreign run could name any
        file of this machine."""
        self._refresh()
        if not 0 <= place < len(self._rows) or not self._prefix_is_seen(place):
            return None
        return self._records.bare[place].scenario.prefix.path

    def _prefix_is_seen(self, place: int) -> bool:
        assert self._data is not None, "there are rows"
        scenario = self._records.bare[place].scenario
        key = (scenario.prefix.path, identity(scenario.prefix.path))
        if key not in self._prefixes:
            self._prefixes[key] = prefix_is_seen(self._data, scenario)
        return self._prefixes[key]

    def _refresh(self) -> None:
        """Look at the folder, unless that took so long before that it is not due yet."""
        began_s = self._clock()
        if began_s < self._due_s:
            return
        live = is_live(self.run)
        seen = (*(identity(self.run / name) for name in (*FILES, LIVE, TRACE, NOTES)), live)
        if seen == self._seen:
            return
        self._seen, self._is_new = seen, False
        try:
            self._read(live)
        except RetakeError as error:
            self._keep({"status": self.parts.fault(error)})
            self._seen = ()  # asked again: a store may be put back
        ended_s = self._clock()
        self._due_s = ended_s + min((ended_s - began_s) * (1 / self._share - 1), LONGEST_S)

    def _read(self, live: bool) -> None:
        before, changed = self._records.num_reads, self._records.read(NUM_LATEST)
        self._lanes.read()
        data = self._records.data()
        now = stands(data, read_live(self.run) if live else None, is_live=live)
        if self._records.num_reads > before or self._now is None or self._now.state != now.state:
            self._keep_rows(data, now, changed)
            summary, rows = summarize(data), [row for _, row, _ in self._rows]
            self._gain = summary.gain
            self._keep(self.parts.of_facts(data, rows, summary, self._records.latest))
        self._keep(self.parts.of_now(data, now, self._lanes, self._gain))
        self._data, self._now = data, now

    def _change(self) -> int:
        """The number of the change that is being made: one for all that one look finds."""
        if not self._is_new:
            self._is_new = True
            self._rev += 1
        return self._rev

    def _keep(self, html: dict[str, str]) -> None:
        for name, text in html.items():
            if self._html.get(name, (0, None))[1] != text:
                self._html[name] = (self._change(), text)

    def _keep_rows(self, data: ReportData, now: Now, changed: set[int]) -> None:
        if len(self._rows) > len(data.records):  # another run lies there now
            self._rows, self._scene_revs, self._videos = [], [], {}
            self._change()
        asked_anew = self._now is None or (now.asked, now.state) != (self._now.asked, self._now.state)
        for place, record in enumerate(data.records):
            row = build_row(data, record, now.asked)
            is_new = place >= len(self._rows)
            if is_new:
                self._rows.append((self._change(), row, self.parts.row(place, row)))
                self._scene_revs.append(self._change())
            elif row != self._rows[place][1]:
                self._rows[place] = (self._change(), row, self.parts.row(place, row))
            if place in changed or (asked_anew and record.outcome is None):
                self._scene_revs[place] = self._change()
            if is_new or place in changed:
                paths = [take.video_path for take in record.attempts]
                paths += [scout.video_path for scout in record.scouts]
                self._videos |= {path.as_posix(): path for path in paths}
