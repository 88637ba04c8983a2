"""The parts of the page as HTML, from the facts that the report shows and with its parts.

Computes nothing that the report or the terminal computes: scores, sums and time left are theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from engine.errors import RetakeError
from engine.report.charts import Estimate, Series, bar_chart
from engine.report.page import Media, Row, Scene, Summary, loop_chart
from engine.report.performance import performance, planned_parts
from engine.report.run_data import Record, ReportData
from engine.report.templates import page_script, part_of_page, source_hash, templates
from engine.runs.live import LiveState
from engine.runs.pace import Left
from engine.runs.requests import holds
from engine.runs.trace import LANES
from engine.types import Asked, Attempt
from engine.watch.lanes import Lanes
from engine.words import command_line

NUM_LATEST = 8
"""Takes that are shown as they come."""

GIB = 1 << 30
MEMORY = {"allocated": "now", "peak_allocated": "peak so far", "reserved": "kept by torch"}
"""What a run says of its device's memory, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """How a run stands. `live` is None unless a process works at it."""

    state: str  # "running", "paused", "stopped", "finished"
    live: LiveState | None
    left: Left | None
    asked: Asked
    num_done: int
    num: int


def stands(data: ReportData, live: LiveState | None, *, is_live: bool) -> Now:
    asked = holds(data.requests)
    num, num_done = len(data.records), sum(record.outcome is not None for record in data.records)
    state = "paused" if asked.is_paused else "running"
    if not is_live:
        state = "finished" if num_done == num else "stopped"
    known = live if is_live else None
    return Now(
        state=state,
        live=known,
        left=known.pace.left(num - num_done) if known is not None and num_done < num else None,
        asked=asked,
        num_done=num_done,
        num=num,
    )


class Parts:
    """Templates, loaded once."""

    def __init__(self) -> None:
        self._templates = templates("watch", "report")
        self._macros: Any = self._templates.get_template("parts.html.j2").module
        self._rows: Any = self._templates.get_template("macros.html.j2").module

    def shell(self, name: str) -> tuple[str, str]:
        """The page before it asked for anything, and the hash of its script."""
        script = page_script("watch.js", room="watch")
        style = part_of_page("style.css") + part_of_page("watch.css", room="watch")
        page = self._templates.get_template("watch.html.j2").render(
            name=name,
            script=Markup(script),  # nosec B704 # a file of this package
            style=Markup(style),  # nosec B704 # the same
        )
        return page, source_hash(script)

    def of_facts(
        self, data: ReportData, rows: Sequence[Row], summary: Summary, latest: Sequence[tuple[int, int]]
    ) -> dict[str, str]:
        """What changes with the store: HTML by name, empty where there is nothing to show."""
        macros = self._macros
        failed = [(place, row) for place, row in enumerate(rows) if row.failure is not None]
        return {
            "tiles": str(macros.tiles(summary)),
            "latest": str(macros.latest([_taken(data.records, *each) for each in latest])),
            "failures": str(macros.failures(failed)),
            "loops": str(macros.loops(loop_chart(data) if summary.num_takes else None)),
            "asked": str(macros.asked(data.requests)),
        }

    def of_now(self, data: ReportData, now: Now, lanes: Lanes, gain: Estimate | None) -> dict[str, str]:
        """What changes with every step. `gain`: as `performance` takes it."""
        macros, timeline = self._macros, lanes.timeline
        totals = timeline.totals() if timeline else None
        cost = performance(lanes.tally if timeline else None, totals, gain, data.manifest, data.unfinished)
        drawing = Markup(timeline.svg()) if timeline else None  # nosec B704 # it escapes its texts
        return {
            "status": str(macros.status(now, self.commands(data, now))),
            "now": str(macros.lanes_now(now, LANES)),
            "memory": str(macros.memory(memory_chart(data, now.live))),
            "lanes": str(macros.lanes(drawing, totals, lanes.fault)),
            "cost": str(cost or ""),
        }

    def row(self, place: int, row: Row) -> dict[str, Any]:
        """As the script of the report has them, with the scenario's place."""
        return {
            "place": place,
            "values": [
                *(row.scenario.id, row.scenario.category, row.first, row.final, row.gain, row.num_takes),
                *(row.chosen, row.stopped, row.seconds),
            ],
            "html": str(self._rows.table_row(row)).strip(),
        }

    def scene(self, scene: Scene, commands: Sequence[tuple[str, str]]) -> str:
        body = self._templates.get_template("scene.html.j2").render(
            scene=scene, row=scene.row, unfold=True, packed=False, live=True
        )
        return str(self._macros.article(scene.row, Markup(body), commands))  # nosec B704 # the template escapes

    def fault(self, error: RetakeError) -> str:
        return str(self._macros.fault(error))

    def commands(self, data: ReportData, now: Now, scenario_id: str | None = None) -> list[tuple[str, str]]:
        """What a user may ask, in words and as what to type: of the run, or of one scenario of it."""
        words = (data.run, *([] if scenario_id is None else [scenario_id]))
        if now.state == "stopped" and scenario_id is None:
            return [("Go on with it", command_line("retake", "resume", *words))]
        if now.state in ("stopped", "finished"):
            return []
        is_held = now.asked.is_paused if scenario_id is None else scenario_id in now.asked.held
        verb = "unpause" if is_held else "pause"
        found = [(verb.capitalize(), command_line("retake", verb, *words))]
        if scenario_id is not None and scenario_id not in now.asked.skipped:
            found.append(("Skip", command_line("retake", "skip", *words)))
        return found


def _taken(records: Sequence[Record], place: int, number: int) -> tuple[int, Record, Attempt, str]:
    take = records[place].attempts[number]
    return place, records[place], take, take.video_path.as_posix()


def served(scene: Scene, prefix: str | None) -> Scene:
    """As the page has it: the prefix, which may lie anywhere, is at `prefix`; None where it is not shown."""
    if prefix is None and scene.prefix.src is not None:
        hidden = Media(src=None, embedded=False, note="Not the clip that the run continued.")
        return replace(scene, prefix=hidden)
    return replace(scene, prefix=replace(scene.prefix, src=prefix))


def memory_chart(data: ReportData, live: LiveState | None) -> Markup | None:
    """What the device's memory holds beside what was planned; None without a plan or a measurement."""
    plan = planned_parts(data.manifest)
    measured = live.memory if live is not None else {}
    if not plan or not measured:
        return None
    sizes = [("planned peak", plan[-1]["planned_bytes"])]
    sizes += [(words, measured[key]) for key, words in MEMORY.items() if key in measured]
    points = tuple(Estimate(mean=size / GIB, low=None, high=None, n=1) for _, size in sizes)
    bars = Series(name="GiB", css="chosen", points=points)
    return bar_chart([words for words, _ in sizes], [bars], title="Memory of the device in GiB", digits=2)
