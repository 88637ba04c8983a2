"""Scores a run, or a folder of generated clips, against a Physics-IQ dataset: both official scores, per case.

A process of its own: it is the only place that opens reference clips, and the engine never imports it. A clip
that is missing, damaged or of another shape is listed as unscored with the reason, never dropped.

    python -m bench.suites.physics_iq RUN_OR_FOLDER --dataset DIR [--all-attempts] [--json FILE] [--csv FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console
from rich.table import Table

from bench.suites.motion_masks import load_generated, load_real
from bench.suites.official_csv import csv_text
from bench.suites.view_metrics import (
    Case,
    case_metrics,
    case_score,
    compare,
    original_score,
    reduced_size,
    verified_score,
    verified_sub_scores,
)
from engine.config import usable_cores
from engine.datasets.physics_iq import Description, benchmark_tree, read_descriptions
from engine.errors import RetakeError, ScorerError, VideoError
from engine.types import ANSWER_SECONDS
from engine.video import check_clip, probe

CHOSEN = -1  # the label of a submission's clip among attempt numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One take-1 case: where its real clips and masks lie."""

    row: Description
    takes: tuple[Path, Path]
    masks: tuple[Path, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One case with all clips to be scored on it, so that its references are read once."""

    reference: Reference
    clips: tuple[tuple[int, Path], ...]  # attempt number or CHOSEN, file
    fps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unscored:
    scenario_id: str
    reason: str
    attempt: int | None = None  # None: the submission's clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Everything that one call found out; `attempts` pairs attempt numbers with cases."""

    fps: float
    cases: tuple[Case, ...]
    attempts: tuple[tuple[int, Case], ...]
    unscored: tuple[Unscored, ...]


def score_folder(
    folder: Path, dataset: Path, *, all_attempts: bool = False, jobs: int | None = None
) -> Scores:
    """Score RUN/chosen (or the mp4 files of a plain folder), and with `all_attempts` RUN/videos as well.

    Raises ScorerError when there is nothing to score or the dataset lacks the clips' frame rate.
    """
    chosen = folder / "chosen" if is_run(folder) else folder
    rows = read_descriptions(dataset)
    cases = [row for row in rows if row.take == "take-1"]
    videos = folder / "videos" if all_attempts else None
    clips = {row.scenario_id: _clips(row, chosen, videos) for row in cases}
    fps = _common_fps([path for entries in clips.values() for _, path in entries], folder)
    real = references(dataset, rows, fps)
    works = [
        Work(reference=real[row.scenario_id], clips=clips[row.scenario_id], fps=fps)
        for row in cases
        if clips[row.scenario_id]
    ]
    results = [result for batch in _in_processes(score_work, works, jobs) for result in batch]
    absent = [
        Unscored(scenario_id=row.scenario_id, reason=f"no file {row.output_name} in {chosen}")
        for row in cases
        if CHOSEN not in dict(clips[row.scenario_id])
    ]
    known = {row.output_name for row in cases}
    strange = [
        Unscored(scenario_id=path.stem, reason=f"{path.name} is not a generated_video_name of the dataset")
        for path in sorted(chosen.glob("*.mp4"))
        if path.name not in known
    ]
    return Scores(
        fps=fps,
        cases=tuple(case for label, case in results if label == CHOSEN and isinstance(case, Case)),
        attempts=tuple(
            (label, case) for label, case in results if label != CHOSEN and isinstance(case, Case)
        ),
        unscored=(*absent, *strange, *(case for _, case in results if isinstance(case, Unscored))),
    )


def score_work(work: Work) -> list[tuple[int, Case | Unscored]]:
    """Every clip of one case, scored or with the reason why not."""
    row, fps = work.reference.row, work.fps
    try:
        header = probe(work.reference.takes[0])
        size = reduced_size(header.width, header.height)
        pairs = zip(work.reference.takes, work.reference.masks, strict=True)
        take1, take2 = (load_real(clip, masks, size, fps) for clip, masks in pairs)
    except VideoError as error:
        return [(label, _unscored(row, label, error)) for label, _ in work.clips]
    variance = compare(take1, take2)
    results: list[tuple[int, Case | Unscored]] = []
    for label, path in work.clips:
        try:
            check_clip(probe(path), fps=fps, num_frames=round(fps * ANSWER_SECONDS), slack=0)
            generated = load_generated(path, size, fps)
        except VideoError as error:
            results.append((label, _unscored(row, label, error)))
            continue
        metrics = case_metrics(take1, take2, generated, variance)
        case = Case(
            scenario_id=row.scenario_id,
            scene=row.scene,
            view=row.view,
            category=row.category,
            metrics=metrics,
        )
        results.append((label, case))
    return results


def report(scores: Scores) -> dict[str, Any]:
    """The JSON document: dataset scores, breakdowns, cases, attempts, unscored. Absent scores are null.

    `by_category` and `by_view` hold the Verified score of each group, `groups` both scores and the size.
    """
    categories = _breakdown(scores.cases, lambda case: case.category)
    views = _breakdown(scores.cases, lambda case: case.view)
    return {
        **_summary(scores.cases),
        "sub_scores": verified_sub_scores(scores.cases) if scores.cases else {},
        "fps": scores.fps,
        "by_category": {name: group["physics_iq_verified"] for name, group in categories.items()},
        "by_view": {name: group["physics_iq_verified"] for name, group in views.items()},
        "groups": {**categories, **views},
        "cases": [_case_record(case) for case in scores.cases],
        "attempts": [{**_case_record(case), "attempt": attempt} for attempt, case in scores.attempts],
        "unscored": [asdict(entry) for entry in scores.unscored],
    }


def is_run(folder: Path) -> bool:
    return (folder / "run.sqlite").is_file() or (folder / "chosen").is_dir()


def _summary(cases: Sequence[Case]) -> dict[str, Any]:
    return {
        "physics_iq": original_score(cases),
        "physics_iq_verified": verified_score(cases),
        "num_cases": len(cases),
    }


def _breakdown(cases: Sequence[Case], key: Callable[[Case], str]) -> dict[str, dict[str, Any]]:
    """The official score functions on the cases of one group."""
    return {
        name: _summary([case for case in cases if key(case) == name]) for name in sorted(set(map(key, cases)))
    }


def _case_record(case: Case) -> dict[str, Any]:
    score = case_score(case.metrics)
    names = {
        "scenario_id": case.scenario_id,
        "scene": case.scene,
        "view": case.view,
        "category": case.category,
    }
    return {**names, "score": score.score, **asdict(score)}


def _unscored(row: Description, label: int, error: VideoError) -> Unscored:
    return Unscored(
        scenario_id=row.scenario_id, reason=error.problem, attempt=None if label == CHOSEN else label
    )


def _clips(row: Description, chosen: Path, videos: Path | None) -> tuple[tuple[int, Path], ...]:
    """The files to score on one case: the submission's clip, then attempts by number."""
    submitted = chosen / row.output_name
    attempts = [] if videos is None else sorted((videos / row.scenario_id).glob("attempt-*.mp4"))
    numbered = sorted((int(path.stem.removeprefix("attempt-")), path) for path in attempts)
    return (*([(CHOSEN, submitted)] if submitted.is_file() else []), *numbered)


def _common_fps(paths: Sequence[Path], folder: Path) -> float:
    """The frame rate that most clips have; a clip of another is unscored later."""
    rates: Counter[float] = Counter()
    for path in paths:
        try:
            rates[probe(path).fps] += 1
        except VideoError:
            continue  # listed as unscored, with this reason, when its turn comes
    if not rates:
        raise ScorerError(
            f"{folder} holds no readable clip of the dataset ({len(paths)} candidate files)",
            fix="give a run folder, or a folder of mp4 files named by generated_video_name of the dataset",
        )
    return rates.most_common(1)[0][0]


def references(dataset: Path, rows: Sequence[Description], fps: float) -> dict[str, Reference]:
    """By scenario id. Take 2 is found by view and scene, so reduced datasets need no fixed id offset.

    Raises ScorerError when there are no testing clips at `fps` or a case has no second take.
    """
    tree, rate = benchmark_tree(dataset), int(fps)
    testing = tree / "split-videos" / "testing" / f"{rate}FPS"
    masks = tree / "video-masks" / "real" / f"{rate}FPS"
    if not testing.is_dir():
        rates = sorted(entry.name for entry in testing.parent.glob("*FPS"))
        raise ScorerError(
            f"the clips have {fps:g} frames per second and {testing} does not exist; "
            f"found: {', '.join(rates) or 'none'}",
            fix=f"download the {rate} FPS testing clips, or score clips of one of the rates found",
        )
    second = {(row.view, row.scene): row for row in rows if row.take == "take-2"}
    found: dict[str, Reference] = {}
    for row in (row for row in rows if row.take == "take-1"):
        other = second.get((row.view, row.scene))
        if other is None:
            raise ScorerError(
                f"descriptions.csv has no take-2 row for {row.scenario_id} ({row.scene})",
                fix="restore the benchmark's descriptions.csv; take 2 is the physical variance",
            )
        takes = (row, other)
        found[row.scenario_id] = Reference(
            row=row,
            takes=(
                testing / row.file_name("testing-videos", rate),
                testing / other.file_name("testing-videos", rate),
            ),
            masks=(
                masks / takes[0].file_name("video-masks", rate),
                masks / takes[1].file_name("video-masks", rate),
            ),
        )
    return found


def _in_processes(
    function: Callable[[Work], list[tuple[int, Case | Unscored]]], works: Sequence[Work], jobs: int | None
) -> list[list[tuple[int, Case | Unscored]]]:
    jobs = min(jobs or usable_cores(), len(works))
    if jobs <= 1:
        return [function(work) for work in works]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        return list(pool.map(function, works))


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Atomic: a report being made at the same time reads the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def print_table(document: dict[str, Any], console: Console) -> None:
    table = Table("cases of", "n", "Physics-IQ", "Verified", title=f"Physics-IQ at {document['fps']:g} fps")
    for name, group in {"all": document, **document["groups"]}.items():
        scores = (group["physics_iq"], group["physics_iq_verified"])
        cells = ["-" if score is None else f"{score:.2f}" for score in scores]
        table.add_row(name, str(group["num_cases"]), *cells)
    console.print(table)
    for entry in document["unscored"]:
        console.print(f"unscored {entry['scenario_id']}: {entry['reason']}", markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.suites.physics_iq", description=__doc__)
    parser.add_argument("folder", type=Path, help="a run folder, or a folder of generated mp4 files")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="default: RUN/scores.json for a run folder")
    parser.add_argument("--csv", type=Path, help="per-scenario values with the official evaluator's columns")
    parser.add_argument("--all-attempts", action="store_true", help="also score every take of the run")
    parser.add_argument("--jobs", type=int, help="processes; default: every core")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        scores = score_folder(
            options.folder, options.dataset, all_attempts=options.all_attempts, jobs=options.jobs
        )
    except RetakeError as error:
        console.print(f"error: {error}", markup=False)
        return 1
    document = report(scores)
    print_table(document, console)
    scored_run = is_run(options.folder) and scores.cases
    target = options.json or (options.folder / "scores.json" if scored_run else None)
    if target is not None:
        write_json(target, document)
        console.print(f"wrote {target}", markup=False)
    if options.csv is not None:
        options.csv.write_text(csv_text(scores.cases), encoding="ascii")
    return 0 if scores.cases else 1


if __name__ == "__main__":
    sys.exit(main())
