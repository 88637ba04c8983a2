"""The whole page from a folder of measurements: summary, a section a file, the plots.

Writes nothing: the same measurements give the same text, so that a test can tell a stale page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.results_page import (
    budget_section,
    confidence_section,
    controls_section,
    cosmos3_section,
    decode_section,
    demo_seconds_section,
    demo_section,
    export_sections,
    faults_section,
    finishes_section,
    growth_section,
    memory_section,
    models_section,
    needs_section,
    overlap_section,
    past_dense_section,
    policy_section,
    quality_sections,
    scaling_section,
    speed_sections,
    stages_section,
    states_section,
    vae_section,
    variants_section,
    whole_run_section,
    world_section,
)
from bench.results_page import markdown as md
from bench.results_page.bundled_weights import ASIDE, TOLD, bundled, outdated
from bench.results_page.result_files import (
    Document,
    ResultError,
    ResultFile,
    code_of,
    command_of,
    machine_of,
    read_folder,
)

COMMAND = "python -m bench.results_page"
FIRST_LINE = f"<!-- Generated from bench/results/*.json with `{COMMAND}` (make results): do not edit. -->"
INTRODUCTION = (
    "Every number below comes from a measurement file, named with the command that made it (modules by their "
    "names of today). Times are medians; the tenth and ninetieth percentile and the number of runs stand "
    "beside them. A ratio above 1 is faster."
)
PLOT_PATTERN = "waterfall-*.svg"
SECTIONS: dict[str, Callable[[ResultFile], md.Section]] = {
    "demo_run": demo_section.demo_run,
    "demo_seconds": demo_seconds_section.demo_seconds,
    "end_to_end": whole_run_section.whole_run,
    "scaling": scaling_section.scaling,
    "cosmos3": cosmos3_section.cosmos3,
    "denoiser": speed_sections.denoiser,
    "vlm_decode": decode_section.decode,
    "overlap": overlap_section.overlap,
    "memory": memory_section.memory,
    "models": models_section.models,
    "model_needs": needs_section.needs,
    "denoiser_quality": quality_sections.denoiser_quality,
    "export_quality": quality_sections.export_quality,
    "policy": policy_section.policy,
    "past_dense": past_dense_section.past_dense,
    "world": world_section.world,
    "plan_confidence": confidence_section.plan_confidence,
    "demo_quality": quality_sections.demo_quality,
    "critic_stages": stages_section.critic_stages,
    "loop_controls": controls_section.loop_controls,
    "aoti": export_sections.aoti,
    "vae": vae_section.vae,
    "vae_calibration": vae_section.vae_calibration,
    "export_errors": export_sections.export_errors,
    "export_build": export_sections.export_build,
    "product_layout": export_sections.product_layout,
    "scoring": quality_sections.scoring,
    "selectors": quality_sections.selectors,
    "state_fit": states_section.state_fit,
    "loop_budget": budget_section.loop_budget,
    "scout_finishes": finishes_section.scout_finishes,
    "loop_variants": variants_section.loop_variants,
    "faults": faults_section.faults,
    "growth": growth_section.growth,
}
"""By kind; any other kind with a list of `rows` becomes tables of rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """RESULTS.md, the plots by file name, and what other pages quote: measurements and anchors by name."""

    text: str
    plots: dict[str, str]
    files: dict[str, ResultFile]
    anchors: dict[str, str]
    outdated: frozenset[str] = frozenset()
    """Names of measurements of weights that are bundled no more."""

    def document(self, name: str) -> Document:
        """ResultError where this was not measured."""
        if name not in self.files:
            raise ResultError(f"bench/results/{name}.json is missing", fix="measure it, or remove its figure")
        return self.files[name].document

    def link(self, name: str, words: str = "measured") -> str:
        """A link to the section of a measurement, as it stands in a page of the top folder."""
        aside = ASIDE if name in self.outdated else ""
        return f"[{words}](RESULTS.md#{self.anchors[name]}){aside}"


def make_page(folder: Path) -> Page:
    """From every measurement in `folder`. ResultError for one that cannot be shown."""
    files, today = read_folder(folder), bundled()
    old = frozenset(file.name for file in files if outdated(file, today))
    found = [(file, section_of(file)) for file in files]
    titles = _titles([section.title for _, section in found], files)
    summary = [
        f"[{title}](#{md.anchor(title)}): {section.headline}"
        for title, (_, section) in zip(titles, found, strict=True)
    ]
    parts = [
        _part(title, file, section, old=file.name in old)
        for title, (file, section) in zip(titles, found, strict=True)
    ]
    text = md.paragraphs(FIRST_LINE, "# Results", INTRODUCTION, md.bullets(summary), *parts)
    plots = {name: text for _, section in found for name, text in section.plots.items()}
    return Page(
        text=f"{text}\n",
        plots=plots,
        files={file.name: file for file in files},
        anchors={file.name: md.anchor(title) for file, title in zip(files, titles, strict=True)},
        outdated=old,
    )


def section_of(file: ResultFile) -> md.Section:
    make = SECTIONS.get(file.kind)
    if make is None and isinstance(file.document.get("rows"), list):
        make = speed_sections.row_tables
    if make is None:
        raise ResultError(
            f"{file.path} has the unknown kind {file.kind!r} and no rows",
            fix=f"use one of {', '.join(sorted(SECTIONS))}, or give it rows",
        )
    try:
        return make(file)
    except (KeyError, TypeError, AttributeError) as error:
        raise ResultError(
            f"{file.path} is not what kind {file.kind!r} should be: {type(error).__name__} {error}",
            fix="measure again with this version",
        ) from error


def _titles(titles: Sequence[str], files: Sequence[ResultFile]) -> list[str]:
    """Two files of a kind are told apart by their names."""
    return [
        title if titles.count(title) == 1 else f"{title} ({file.name})"
        for title, file in zip(titles, files, strict=True)
    ]


def _part(title: str, file: ResultFile, section: md.Section, *, old: bool) -> str:
    command, machine, code = command_of(file.document), machine_of(file.document), code_of(file.document)
    facts = [f"File: [{file.path}]({file.path})"]
    if command:
        facts.append(f"Command: `{command}`")
    if machine:
        facts.append(f"Machine: {', '.join(machine)}")
    if code:
        facts.append(f"Code: {code}")
    if old:
        facts.append(TOLD)
    notes = [str(note) for note in file.document.get("notes", [])]
    told = md.paragraphs("Notes:", md.bullets(notes)) if notes else None
    return md.paragraphs(f"## {title}", md.bullets(facts), section.body, told)
