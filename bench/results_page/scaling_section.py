"""The section of several GPUs against one, and of a worker that was killed.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted

TITLE = "What does another GPU bring?"
HEADER = ("run", "workers", "start-up s", "scenarios", "makespan s", "scenarios per hour", "workers lost")
SAYS = {"one": "one worker", "all": "all workers", "killed": "all workers, one killed and started again"}


def scaling(file: ResultFile) -> md.Section:
    """A row a run; what was checked."""
    document = file.document
    settings, number = document["settings"], document["num_workers"]
    return md.Section(
        title=TITLE,
        headline=f"{md.times(document['speedup'])} the scenarios per hour with {counted(number, 'worker')}",
        body=md.paragraphs(
            f"Models of size {settings['size']}, preset {settings['preset']}, "
            f"{counted(settings['loops'] + 1, 'take')} a"
            f" scenario, on: {document['on']}. Timed from the moment when all workers are warm; start-up is"
            f" until then, from models on disk. With a worker killed, scenarios took"
            f" {md.whole(document['killed_costs_s'])} s more than at the rate of all workers.",
            md.table(HEADER, [_row(part) for part in document["parts"]]),
            md.bullets([_check(check) for check in document["checks"]]),
        ),
    )


def _row(part: Mapping[str, Any]) -> list[str]:
    return [
        SAYS[part["name"]],
        md.count(part["num_workers"]),
        md.whole(part["startup_s"]),
        md.count(len(part["ended_s"])),
        f"{part['makespan_s']:.1f}",
        f"{part['scenarios_per_hour']:.1f}",
        md.count(part["times_lost"]),
    ]


def _check(check: Mapping[str, Any]) -> str:
    return f"{'holds' if check['holds'] else 'does not hold'}: {check['name']}"
