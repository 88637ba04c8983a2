"""The section of Cosmos3: takes from end to end, ours and the library's, with the reasoner beside.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted

TITLE = "How long does a take of Cosmos3 need, and what does its critic cost beside it?"
HEADER = ("video", "way", "s", "from", "to", "n", "stages, s")
Row = Mapping[str, Any]


def cosmos3(file: ResultFile) -> md.Section:
    """A row a video size and way."""
    document = file.document
    rows, settings = document["rows"], document["settings"]
    return md.Section(
        title=TITLE,
        headline=_headline(document["summary"]),
        body=md.paragraphs(
            f"Size {settings['size']}, {counted(settings['steps'], 'step')}, preset {settings['preset']}; "
            "one folder is generator and critic.",
            md.table(HEADER, list(_rows(rows))),
            md.bullets([_checked(check) for check in document["checks"]]),
        ),
    )


def _headline(summary: Mapping[str, float]) -> str:
    told = []
    for part in ("480p", "720p"):
        if (seconds := summary.get(f"nano_{part}_s")) is not None:
            ratio = summary.get(f"nano_{part}_over_diffusers")
            frames = summary[f"nano_{part}_frames_s"]
            words = f"{part}: {seconds:.1f} s, {frames:.1f} until its frames are there"
            if ratio:
                of_frames = summary[f"nano_{part}_frames_over_diffusers"]
                words += f"; diffusers takes {ratio:.2f} times as long, {of_frames:.2f} until the frames"
            told.append(words)
        if (published := summary.get(f"nano_{part}_library_over_published")) is not None:
            told.append(f"its frames take {published:.2f} of the seconds that NVIDIA publishes of it")
        if (adds := summary.get(f"nano_{part}_critique_adds")) is not None:
            told.append(f"a critique adds {100 * adds:.1f} %")
    if (worst := summary.get("plan_error_worst")) is not None:
        told.append(f"memory planned at most {100 * worst:.1f} % off")
    return "; ".join(told)


def _rows(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    timed = [row for row in rows if "seconds" in row]
    for part, way in dict.fromkeys((row["part"], row["way"]) for row in timed):
        found = [row for row in timed if (row["part"], row["way"]) == (part, way)]
        seconds = [row["seconds"] for row in found]
        middle, least, most = statistics.median(seconds), min(seconds), max(seconds)
        times = (f"{value:.2f}" for value in (middle, least, most))
        yield part, way, *times, str(len(found)), _stages(found)


def _stages(rows: Sequence[Row]) -> str:
    """Medians, of stages that take time; of a critique its tokens."""
    names = dict.fromkeys(name for row in rows for name in row["stages"])
    medians = {name: statistics.median(row["stages"][name] for row in rows) for name in names}
    return ", ".join(f"{name} {value:.2f}" for name, value in medians.items())


def _checked(check: Mapping[str, Any]) -> str:
    return f"{'holds' if check['holds'] else 'FAILS'}: {check['name']}: {check['found']:.3f}"
