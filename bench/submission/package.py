"""The submission package: every rule checked at once, then the files laid out as the benchmark wants them.

Layout: submission.yaml, descriptions.csv, runs/NAME/*.mp4 in a folder that bears the run id. Invariants: what
has a problem is not packaged, inputs are only copied, and a package appears whole or not at all.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.submission.card import MARK, Problem, check_card, read_card
from bench.submission.card_fields import PROMPTS
from bench.submission.rules import Size, parse_size, timing_problems
from bench.submission.runs import Run, is_verified, prompt_variant, reported_scores
from engine.datasets.physics_iq import NUM_CASES, cases_of, descriptions_path, read_descriptions
from engine.errors import ConfigError, VideoError
from engine.runs.store import RunStore
from engine.video.files import Header, probe, read_header, refuse_damaged, refuse_mirrored
from engine.words import command_line, counted

RUN_ID: Final = re.compile(r"[a-z0-9]+__[a-z0-9.-]+__(\d{4}-\d{2}-\d{2})")
_RUN_ID_FORM = "organization__model__YYYY-MM-DD of small letters and digits, in the model also . and -"
_PREPARE = "make valid clips with `retake prepare`"
_NOT_CHOSEN = "not the take that the run chose"


def check_submission(
    card_path: Path, runs: Sequence[Run], dataset: Path, *, progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Every problem of card, descriptions and clips; none means that the package would be accepted."""
    card = read_card(card_path)
    computed = reported_scores(runs).values if is_verified(dataset) else {}
    problems = check_card(card, num_runs=len(runs), computed=computed)
    info = card.get("public_info") if isinstance(card, dict) else None
    info = info if isinstance(info, dict) else {}
    problems += _check_descriptions(dataset, info)
    names = [row.output_name for row in cases_of(read_descriptions(dataset))]
    fps, size = info.get("fps"), info.get("resolution")
    for number, run in enumerate(runs):
        problems += _check_clips(
            run,
            names,
            fps=float(fps) if isinstance(fps, int | float) and not isinstance(fps, bool) else None,
            size=parse_size(size) if isinstance(size, str) else None,
            progress=None if progress is None else _offset(progress, number, len(runs)),
        )
    return problems


def check_run_id(package: Path, card: Any) -> Problem | None:
    """The package's folder name is the submission's identifier."""
    name = package.resolve().name
    match = RUN_ID.fullmatch(name)
    try:
        valid = match is not None and bool(datetime.date.fromisoformat(match[1]))
    except ValueError:
        valid = False
    if valid:
        return None
    suggestion = package.resolve().parent / suggested_run_id(card)
    return Problem(
        field="--out", value=name, allowed=_RUN_ID_FORM, fix=f"name the folder so, such as {suggestion.name}"
    )


def suggested_run_id(card: Any) -> str:
    info: Mapping[str, Any] = card.get("public_info") or {} if isinstance(card, dict) else {}
    parts = []
    for key, unwanted in (("organization", r"[^a-z0-9]+"), ("model", r"[^a-z0-9.-]+")):
        text = str(info.get(key) or key).replace(MARK, key)
        slug = re.sub(unwanted, "" if key == "organization" else "-", text.lower()).strip("-")
        parts.append(slug or key)
    return "__".join([*parts, datetime.date.today().isoformat()])


def left_out(runs: Sequence[Run], dataset: Path) -> list[str]:
    """Files among the clips that the package will not hold."""
    names = {row.output_name for row in cases_of(read_descriptions(dataset))}
    return [
        str(path)
        for run in runs
        for path in sorted(run.clips.iterdir())
        if path.is_file() and path.name not in names and not path.name.startswith(".")
    ]


def write_package(package: Path, card_path: Path, runs: Sequence[Run], dataset: Path) -> tuple[int, int]:
    """Number of files and bytes written. Raises ConfigError when `package` is there already."""
    if package.exists():
        raise ConfigError(f"{package} is there already", fix="remove it, or give another --out")
    names = [row.output_name for row in cases_of(read_descriptions(dataset))]
    package.parent.mkdir(parents=True, exist_ok=True)
    partial = package.with_name(f".{package.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        shutil.copyfile(card_path, partial / "submission.yaml")
        shutil.copyfile(descriptions_path(dataset), partial / "descriptions.csv")
        for run in runs:
            target = partial / "runs" / run.name
            target.mkdir(parents=True)
            for name in names:
                shutil.copyfile(run.clips / name, target / name)
        sizes = [path.stat().st_size for path in partial.rglob("*") if path.is_file()]
        partial.rename(package)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(sizes), sum(sizes)


def _check_descriptions(dataset: Path, info: Mapping[str, Any]) -> list[Problem]:
    rows = cases_of(read_descriptions(dataset))
    path, variant = descriptions_path(dataset), prompt_variant(dataset)
    problems = []
    if len(rows) != NUM_CASES:
        problems.append(
            Problem(
                field="descriptions.csv",
                value=f"{counted(len(rows), 'take-1 row')} in {path}",
                allowed=f"{NUM_CASES}",
                fix="give the whole benchmark; reduced datasets cannot be submitted",
            )
        )
    told = info.get("descriptions")
    if variant is not None and told in PROMPTS and told != variant:
        problems.append(
            Problem(
                field="public_info.descriptions",
                value=str(told),
                allowed=f"{variant}: by its sha256, {path} holds these prompts",
                fix="correct the card, or put the descriptions.csv there whose prompts were used",
            )
        )
    return problems


def _check_clips(
    run: Run,
    names: Sequence[str],
    *,
    fps: float | None,
    size: Size | None,
    progress: Callable[[int, int], None] | None,
) -> list[Problem]:
    """One problem for each kind, with the clips that have it. Without `fps` the first clip's is the rule."""
    by_reason: dict[str, list[str]] = {}
    present = {path.name for path in run.clips.glob("*.mp4")} if run.clips.is_dir() else set()
    for name in names:
        if name not in present:
            by_reason.setdefault("missing", []).append(name)
    for name in sorted(present.difference(names)):
        by_reason.setdefault("not in descriptions.csv as generated_video_name of take 1", []).append(name)
    for name in sorted(_not_chosen(run).intersection(names)):
        by_reason.setdefault(_NOT_CHOSEN, []).append(name)
    clips = [name for name in names if name in present]
    for number, name in enumerate(clips):
        try:
            clip = probe(run.clips / name)
            refuse_damaged(run.clips / name)  # a header tells neither truncation nor damage
            refuse_mirrored(run.clips / name)
            header = read_header(run.clips / name)
        except VideoError as error:
            by_reason.setdefault(error.problem.replace(f"{run.clips / name} ", ""), []).append(name)
            continue
        fps = clip.fps if fps is None else fps
        for reason in _clip_reasons(header, fps, size):
            by_reason.setdefault(reason, []).append(name)
        if progress is not None:
            progress(number + 1, len(clips))
    return [
        Problem(
            field=f"runs/{run.name}",
            value=f"{reason}: {_some(found)}",
            allowed=f"{counted(len(names), 'clip')} of 5.000 s with the frame rate and resolution of the "
            "card",
            fix=f"`{command_line('retake', 'resume', run.record)}` puts it back"
            if reason == _NOT_CHOSEN
            else _PREPARE,
        )
        for reason, found in by_reason.items()
    ]


def _not_chosen(run: Run) -> set[str]:
    """Names of clips that are there and are others than a run of ours put there."""
    if run.record is None:
        return set()
    with RunStore.open(run.record, read_only=True) as store:
        return {path.name for path in store.changed_chosen().values() if path.is_file()}


def _clip_reasons(header: Header, fps: float, size: Size | None) -> list[str]:
    reasons = timing_problems(header, fps)
    if size is not None and (header.width, header.height) != size:
        reasons.append(f"{header.width}x{header.height}, not the card's {size[0]}x{size[1]}")
    return reasons


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{len(names)} ({', '.join(names[:limit])}{more})"


def _offset(progress: Callable[[int, int], None], number: int, num_runs: int) -> Callable[[int, int], None]:
    return lambda done, total: progress(number * total + done, num_runs * total)
