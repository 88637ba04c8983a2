"""Seconds a scenario of published generators: measured as whole runs, or reckoned by a measured forward.

Measures nothing and holds no number: every figure comes from a file. A generator of whose shape no forward
was measured has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.page import Page
from bench.results_page.timed_rows import fastest, read_rows
from engine.words import counted

NEEDS, WHOLE_RUN = "model_needs", "end_to_end_h200"
MEASURED = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
"""Whose shape whole runs have (bench/perf/end_to_end/sizes.py)."""
VARIANT = "fast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seconds:
    """Of a scenario whose takes have so many denoise steps."""

    value: float
    steps: int
    timed: Mapping[str, Any] | None = None
    """File and subject of the forward by which it is estimated; None: it was measured."""

    @property
    def cell(self) -> str:
        how = "measured" if self.timed is None else "estimated"
        return f"{md.ms(self.value)} {how}, {counted(self.steps, 'step')}"


def of(page: Page, name: str) -> Seconds | None:
    """Of a generator by its name on the hub. ResultError where what its estimate needs was not measured."""
    if name == MEASURED:
        return _measured(page)
    take = page.document(NEEDS)["takes"].get(name)
    if take is None or take["timed"] is None or take["steps"] is None:
        return None
    forwards = takes_a_scenario(page) * take["steps"] * take["forwards_a_step"]
    value = forwards * _forward_s(page, take["timed"])
    return Seconds(value=value, steps=take["steps"], timed=take["timed"])


def takes_a_scenario(page: Page) -> int:
    """Of the whole runs, which estimates have too."""
    return 1 + int(page.document(WHOLE_RUN)["settings"]["loops"])


def note(page: Page, found: Mapping[str, Seconds]) -> str:
    """How the seconds came about, with links to the measurements."""
    forwards = {one.timed["subject"]: one.timed["file"] for one in found.values() if one.timed}
    links = ", ".join(page.link(file, subject) for subject, file in forwards.items())
    document = page.document(WHOLE_RUN)
    gpu = str(document["manifest"]["machine"]["gpus"][0]["name"]).removeprefix("NVIDIA ")
    return (
        f"Seconds a scenario, {counted(takes_a_scenario(page), 'take')}, on an {gpu} with random weights: "
        f"measured {page.link(WHOLE_RUN, 'in whole runs')} with preset `{VARIANT}` and the critic in "
        f"{document['settings']['quantization']}; or estimated by the forwards of a take, at the fastest "
        f"median ({links}), scaled by FLOPs where a take is longer; the denoiser alone. –: not known."
    )


def _measured(page: Page) -> Seconds | None:
    document = page.document(WHOLE_RUN)
    parts = [part for part in document["parts"] if part["variant"] == VARIANT and part["warm_up"]]
    values = [part["seconds_per_scenario"] for part in parts if part.get("seconds_per_scenario")]
    if not values:
        return None
    return Seconds(value=values[0], steps=document["settings"]["steps"])


def _forward_s(page: Page, of_take: Mapping[str, Any]) -> float:
    """Of one take of the generator: our fastest, and longer by as much as it has more FLOPs."""
    file = of_take["file"]
    subjects = {subject["name"]: subject for subject in page.document(file)["subjects"]}
    subject = subjects[of_take["subject"]]
    best = fastest([row for row in read_rows(subject["variants"], file) if not row.stock])
    assert best is not None, f"{file}: no forward of ours was timed"
    tflop: float = subject["tflop_per_forward"]
    longer: float = (of_take["tflop"] or tflop) / tflop
    return best.median_ms / 1000 * longer
