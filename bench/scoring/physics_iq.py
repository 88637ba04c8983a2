"""Scores a run, or a folder of generated clips, against a Physics-IQ dataset: both official scores, per case.

A process of its own: it is the only place that opens reference clips, and the engine never imports it. A clip
that is missing, damaged or of another shape is listed as unscored with the reason, never dropped. Exit
status: 0 scored, 1 clips turned out bad, or none could be scored, 2 refused, 130 interrupted.

    python -m bench.scoring.physics_iq RUN_OR_FOLDER --dataset DIR [--all-attempts] [--json FILE] [--csv FILE]
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from bench.console import FAILED, user_error
from bench.files import write_json, write_whole
from bench.scoring.case_scoring import CHOSEN, Progress, Scorer, Unscored, Work, score_works
from bench.scoring.clip_stream import num_considered
from bench.scoring.official_csv import csv_text
from bench.scoring.reference_cache import ReferenceCache, expected_bytes
from bench.scoring.references import Reference, dataset_tree, references, revision
from bench.scoring.run_record import (
    accepted_changes,
    chosen_by_user,
    recorded_takes,
    run_changes,
    seen_scenes,
)
from bench.scoring.score_document import Scores, print_table, report
from bench.scoring.submission import Submission, is_run, read_submission
from bench.scoring.view_metrics import Case, reduced_size
from engine.commands._console import make_console
from engine.commands._interrupts import STATUS
from engine.datasets.physics_iq import read_descriptions
from engine.errors import RetakeError, ScorerError, VideoError
from engine.runs.changes import listed
from engine.settings.environment import cache_folder, usable_cores
from engine.video.files import probe
from engine.words import counted
from kernels.files import STDOUT

SCORES = "scores.json"  # of a run, in its folder
MAX_THREADS = 4  # of one decoder; each holds a frame of the clip


def score_folder(
    folder: Path,
    dataset: Path,
    *,
    all_attempts: bool = False,
    jobs: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score RUN/chosen (or the mp4 files of a plain folder), and with `all_attempts` RUN/videos as well.

    What cannot be scored is in the result with its reason. Raises ScorerError when there is nothing to score
    or the dataset lacks the clips' frame rate.
    """
    rows = read_descriptions(dataset)
    submission = read_submission(folder, rows, all_attempts=all_attempts)
    real = references(dataset, rows, submission.fps)
    return score_submission(submission, dataset, real, jobs=jobs, cache=cache, progress=progress)


def score_submission(
    submission: Submission,
    dataset: Path,
    real: Mapping[str, Reference],
    *,
    jobs: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Scores:
    works = [
        Work(reference=real[row.scenario_id], clips=submission.clips[row.scenario_id], fps=submission.fps)
        for row in submission.rows
        if submission.clips[row.scenario_id]
    ]
    processes = max(1, min(jobs or usable_cores(), len(works)))
    scorer = Scorer(cache=cache, threads=max(1, min(MAX_THREADS, usable_cores() // processes)), device=device)
    finished = score_works(scorer, works, jobs=processes, progress=progress)
    results = [result for work in finished for result in work.results]
    bad = [case for _, case in results if isinstance(case, Unscored)]
    return Scores(
        fps=submission.fps,
        cases=tuple(case for label, case in results if label == CHOSEN and isinstance(case, Case)),
        attempts=tuple(
            (label, case) for label, case in results if label != CHOSEN and isinstance(case, Case)
        ),
        unscored=(*submission.unscored, *submission.strange, *bad),
        num_expected=len(submission.rows),
        num_dataset_cases=len(real),
        tree=dataset_tree(dataset).resolve().name,
        revision=revision(work.key for work in finished if work.key is not None),
        notes=submission.notes,
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.scoring.physics_iq", description=__doc__)
    made.add_argument("folder", type=Path, help="a run folder, or a folder of generated mp4 files")
    made.add_argument(
        "--dataset", type=Path, required=True, help="the benchmark tree or the folder around it"
    )
    made.add_argument("--json", type=Path, help="default: RUN/scores.json for a run; - prints it")
    made.add_argument("--csv", type=Path, help="the official evaluator's columns; replaced if it exists")
    made.add_argument("--all-attempts", action="store_true", help="also score every take of the run")
    made.add_argument("--allow-incomplete", action="store_true", help="score what is there")
    made.add_argument("--accept-changes", action="store_true", help="score what changed since, and note it")
    made.add_argument("--jobs", type=int, help="processes, each below 1 GB; default: every core")
    made.add_argument("--cache", type=Path, help="folder of the cache; default: below XDG_CACHE_HOME")
    made.add_argument("--no-cache", action="store_true", help="keep nothing; an interrupted call starts anew")
    made.add_argument("--quiet", action="store_true", help="no table")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the squared errors")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    return scored(arguments)[0]


def scored(arguments: Sequence[str] | None = None) -> tuple[int, dict[str, Any] | None]:
    """The exit status, and the document of `report` where there is one: written where the options say."""
    options = parser().parse_args(arguments)
    console, errors = make_console(stderr=options.json == STDOUT), make_console(stderr=True)
    console.quiet = options.quiet
    cache = None if options.no_cache else options.cache or cache_folder()
    try:
        _check_targets(options.json, options.csv)
        rows = read_descriptions(options.dataset)
        submission = read_submission(options.folder, rows, all_attempts=options.all_attempts)
        changes, takes = _changes(options, submission), recorded_takes(options.folder)
        if not options.allow_incomplete and submission.refusal is not None:
            raise _refusal(submission.refusal)
        real = references(options.dataset, rows, submission.fps)
        if cache is not None:
            _say_disk_use(cache, submission, real, errors)
        with _bar(errors) as progress:
            scores = score_submission(
                submission,
                options.dataset,
                real,
                jobs=options.jobs,
                cache=cache,
                progress=progress,
                device=_checked(options.device),
            )
    except RetakeError as error:
        return user_error(error), None
    except KeyboardInterrupt:
        kept = "nothing was kept" if cache is None else "repeat the command to go on from there"
        errors.print(f"stopped; {kept}", highlight=False)
        return STATUS, None
    lacking = replace(submission, unscored=scores.unscored, strange=()).refusal
    if not options.allow_incomplete and lacking is not None:
        user_error(_refusal(lacking))
        return FAILED, None
    seen = seen_scenes(options.folder, (case.scene for case in scores.cases))
    notes = (*scores.notes, *chosen_by_user(options.folder), *seen)
    scores = replace(scores, changes=changes, takes=takes, notes=notes)
    return 0 if scores.cases else FAILED, _write(options, scores, console)


def _checked(device: str) -> str:
    """Before processes start; torch takes seconds to import, so it is not asked about a CPU."""
    if device == "cpu":
        return device
    from engine.machine.device import resolve_device

    return resolve_device(device)


def _changes(options: argparse.Namespace, submission: Submission) -> tuple[str, ...]:
    """What was accepted when the run was made, and what is to be accepted now, or is refused."""
    found = run_changes(options.folder, options.dataset, submission.rows, submission.clips)
    if found and not options.accept_changes:
        raise ScorerError(
            f"{options.folder} was not made with what is scored:{listed(found)}",
            fix="put it back; or score with --accept-changes, which notes it in the scores",
        )
    return (*accepted_changes(options.folder), *found)


def _refusal(problem: str) -> ScorerError:
    return ScorerError(
        problem, fix="add or mend these clips, or give --allow-incomplete to score what is there"
    )


def _write(options: argparse.Namespace, scores: Scores, console: Console) -> dict[str, Any]:
    document = report(scores)
    print_table(document, console)
    scored_run = is_run(options.folder) and scores.cases
    target = options.json or (options.folder / SCORES if scored_run else None)
    if target is not None:
        write_json(target, document)
    if target not in (None, STDOUT):
        console.print(f"wrote {target}", markup=False, soft_wrap=True)
    if options.csv is not None:
        write_whole(options.csv, csv_text(scores.cases).encode("ascii"))
        console.print(f"wrote {options.csv}", markup=False, soft_wrap=True)
    return document


def _check_targets(*paths: Path | None) -> None:
    """Before hours of work, not after."""
    for path in paths:
        if path not in (None, STDOUT) and (path.is_dir() or not path.parent.is_dir()):
            raise ScorerError(
                f"{path} cannot be written: no such folder", fix="give a file in a folder that exists"
            )


def _say_disk_use(
    cache: Path, submission: Submission, real: Mapping[str, Reference], console: Console
) -> None:
    """One line when the references of this dataset may take more than a gigabyte that is not there yet."""
    count, used = ReferenceCache(folder=cache / "references").usage()
    if count >= len(submission.rows):
        return
    low, high = _expected_gb(real.values(), submission)
    if high > 1:
        place = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(place).free
        console.print(
            f"real clips are read once and kept in {cache}: {low:.1f} to {high:.1f} GB for "
            f"{counted(len(submission.rows), 'case')} at {submission.fps:g} fps ({used / 1e9:.1f} GB in "
            f"{counted(count, 'entry')} now, {free / 1e9:.0f} GB free); --cache moves it, --no-cache does "
            "without",
            highlight=False,
            soft_wrap=True,
        )


def _expected_gb(real: Iterable[Reference], submission: Submission) -> tuple[float, float]:
    for reference in real:
        try:
            header = probe(reference.takes[0])
        except VideoError:
            continue  # becomes an unscored case
        size = reduced_size(header.width, header.height)
        low, high = expected_bytes(size, num_considered(submission.fps))
        return low * len(submission.rows) / 1e9, high * len(submission.rows) / 1e9
    return 0.0, 0.0


@contextmanager
def _bar(console: Console) -> Iterator[Progress]:
    """Cases done and time left; silent where stderr is no terminal."""
    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("cases", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell


if __name__ == "__main__":
    sys.exit(main())
