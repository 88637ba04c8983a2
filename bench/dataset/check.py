"""Whether a benchmark tree on disk is whole: descriptions.csv, and each clip, mask and still that it implies.

It opens reference clips (headers, with `deep` every frame), so the loop never imports it. Invariant: nothing
is written, and what is found wrong names the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.dataset.clips import KINDS, MASKS, TESTING, Kind, clip_faults, picture_faults
from engine.datasets.physics_iq import (
    NUM_CASES,
    PUBLISHED_FPS,
    TREES,
    VIEWS,
    Description,
    benchmark_tree,
    cases_of,
    descriptions_path,
    frame_rates,
    read_descriptions,
    rival_trees,
)
from engine.errors import DatasetError
from engine.words import counted

CATEGORIES: Final = ("Solid Mechanics", "Fluid Dynamics", "Optics", "Thermodynamics", "Magnetism")
NUM_SCENES: Final = 66
VERIFIED_DATA: Final = "Anates-Labs-Research/Physics-IQ-Verified"
_README_NAMES = {"testing-videos": "testing", "conditioning-videos": "conditioning"}
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One checked thing, in order if it has no faults; `missing` says that a download would mend it."""

    what: str
    found: str
    faults: tuple[str, ...] = ()
    missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeReport:
    tree: Path
    kind: str  # "original", "verified", "unknown" or "own clips"
    num_cases: int
    lines: tuple[Line, ...]

    @property
    def num_faults(self) -> int:
        return sum(len(line.faults) for line in self.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    folder: Path
    rows: tuple[Description, ...]
    deep: bool
    pool: ThreadPoolExecutor
    progress: Callable[[str], None] | None

    def look(self, function: Callable[[str], list[str]], names: Sequence[str]) -> list[str]:
        """What `function` finds wrong with each file, as one text for each fault with its files."""
        files: dict[str, list[str]] = {}
        for name, faults in zip(names, self.pool.map(function, names), strict=True):
            for fault in faults:
                files.setdefault(fault, []).append(name[:4])
            if self.progress is not None:
                self.progress(name)
        return [text for fault, found in files.items() for text in _listed(fault, found)]


def check_dataset(
    root: Path,
    *,
    fps: int | None = None,
    deep: bool = False,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
) -> TreeReport:
    """Check `root` at one frame rate, or at each that it has; `progress` is told each file looked at.

    Raises DatasetError where there is no tree, or two, or no readable descriptions.csv.
    """
    folder = _only_tree(root)
    rows = read_descriptions(root)
    pool = ThreadPoolExecutor(workers)
    try:
        tree = _Tree(folder=folder, rows=rows, deep=deep, pool=pool, progress=progress)
        lines = [_rows_line(descriptions_path(root), rows), *_layout_lines(tree)]
        rates = _rates(folder) if fps is None else [fps]
        lines += [_clips_line(tree, kind, rate) for rate in rates for kind in KINDS]
        lines.append(_switch_line(tree, rates))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt waits for the files in hand only
    if not rates:
        lines.append(
            Line(what="frame rates", found="none", faults=("no folder such as 24FPS",), missing=True)
        )
    return TreeReport(
        tree=folder,
        kind={TREES[0]: "original", TREES[1]: "verified"}.get(folder.resolve().name, "unknown"),
        num_cases=len(cases_of(rows)),
        lines=tuple(lines),
    )


def how_to_obtain(report: TreeReport, fps: int | None) -> list[str]:
    """What to do about missing files; empty when none are missing."""
    if not any(line.missing for line in report.lines):
        return []
    if report.num_cases != NUM_CASES:
        return ["this dataset is reduced: look where it came from; `retake scenes` completes its own"]
    steps = []
    if report.kind != "verified":
        rate = fps if fps in PUBLISHED_FPS else PUBLISHED_FPS[-1]
        steps.append(
            "original: by the downloader of the benchmark's repository, "
            f"physiq/download_physics_iq_data.py --original_physics_iq --fps {rate}"
        )
    if report.kind != "original":
        steps.append(
            f"verified: from the gated Hugging Face dataset {VERIFIED_DATA} (ask for access on its page, "
            f"it is granted at once): hf download {VERIFIED_DATA} --repo-type dataset --local-dir {TREES[1]}"
        )
    rates = ", ".join(map(str, PUBLISHED_FPS))
    return [
        *steps,
        f"{rates} fps are published; another rate cannot be had, as there are no real masks of it",
    ]


def _only_tree(root: Path) -> Path:
    tree, both = benchmark_tree(root), rival_trees(root)
    if both:
        raise DatasetError(
            f"{root} holds {' and '.join(both)}", fix=f"check one at a time, such as {root / both[0]}"
        )
    return tree


def _rates(tree: Path) -> list[int]:
    return sorted({rate for kind in KINDS for rate in frame_rates(tree / kind.folder)})


def _rows_line(path: Path, rows: Sequence[Description]) -> Line:
    """The counts and names that the benchmark's numbering implies."""
    first, second = ([row for row in rows if row.take == take] for take in ("take-1", "take-2"))
    faults = []
    if len(first) != len(second):
        faults.append(f"{counted(len(first), 'row')} of take 1, {len(second)} of take 2")
    repeated = [f"{number:04d}" for number, count in Counter(row.number for row in rows).items() if count > 1]
    faults += _listed("id used twice", repeated)
    faults += _listed("no such view", [row.view for row in rows if row.view not in VIEWS])
    faults += _listed("no such category", [row.category for row in rows if row.category not in CATEGORIES])
    wrong = [row for row in rows if row.output_name != f"{row.number:04d}_{row.view}_{row.scene}.mp4"]
    faults += _listed("generated_video_name is not ID_VIEW_SCENE.mp4", [row.output_name for row in wrong])
    faults += _pair_faults(first, second)
    views = Counter(row.scene for row in first)
    if len(first) == NUM_CASES and (len(views) != NUM_SCENES or set(views.values()) != {len(VIEWS)}):
        faults.append(
            f"{counted(len(views), 'scene')}, not {NUM_SCENES} of {counted(len(VIEWS), 'view')} each"
        )
    return Line(
        what=path.name,
        found=f"{counted(len(rows), 'row')}: {counted(len(views), 'scene')}, "
        f"{counted(len(first), 'case')}, 2 takes",
        faults=tuple(faults),
    )


def _pair_faults(first: Sequence[Description], second: Sequence[Description]) -> list[str]:
    """Every case needs its second take, whose id follows by one fixed distance."""
    partners = {(row.view, row.scene): row.number for row in second}
    alone = [f"{row.number:04d}" for row in first if (row.view, row.scene) not in partners]
    faults = _listed("case without a take 2 of its view and scene", alone)
    shifts = Counter(
        partners[row.view, row.scene] - row.number for row in first if (row.view, row.scene) in partners
    )
    allowed = {NUM_CASES} if len(first) == NUM_CASES else {NUM_CASES, len(first)}
    if len(shifts) > 1 or not set(shifts) <= allowed:
        found = ", ".join(
            f"{shift} ({counted(count, 'case')})" for shift, count in shifts.most_common(_SHOWN)
        )
        faults.append(
            f"take-2 id less take-1 id is {found}; it must be {' or '.join(map(str, sorted(allowed)))}"
        )
    return faults


def _layout_lines(tree: _Tree) -> list[Line]:
    """Folders under the names that the benchmark's README, but not its code, gives them."""
    splits = tree.folder / "split-videos"
    return [
        Line(
            what=f"split-videos/{name}",
            found="a folder under its name in the README",
            faults=(f"it has to be called {wanted}",),
        )
        for name, wanted in _README_NAMES.items()
        if (splits / name).is_dir()
    ]


def _clips_line(tree: _Tree, kind: Kind, rate: int) -> Line:
    folder, what = tree.folder / kind.folder / f"{rate}FPS", f"{kind.folder} {rate}FPS"
    if not folder.is_dir():
        unpublished = "" if rate in PUBLISHED_FPS else "; this rate is not published"
        faults = (f"no folder; needed for {kind.needed_for}{unpublished}",) if kind.needed_for else ()
        there = ", ".join(map(str, frame_rates(tree.folder / kind.folder)))
        of_others = f"none; those at {there} fps are there" if there else "none"
        found = of_others if faults else "none; nothing here needs them"
        return Line(what=what, found=found, faults=faults, missing=bool(faults))
    named = {row.file_name(kind.name, rate): row for row in tree.rows}
    wanted = [name for name, row in named.items() if row.take in kind.takes]
    present = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    missing = [name for name in wanted if name not in present] if kind.needed_for else []
    looked = sorted(present.intersection(named))

    def look(name: str) -> list[str]:
        row = named[name]
        testing = tree.folder / TESTING.folder / f"{rate}FPS" / row.file_name(TESTING.name, rate)
        clip = testing if kind is MASKS else None
        return clip_faults(folder / name, kind, rate, deep=tree.deep, clip=clip)

    others = sorted(present.difference(named))
    return Line(
        what=what,
        found=f"{len(present.intersection(wanted))} of {len(wanted)}" + _besides(looked, wanted, others),
        faults=(*_listed("missing", [name[:4] for name in missing]), *tree.look(look, looked)),
        missing=bool(missing),
    )


def _besides(looked: Sequence[str], wanted: Sequence[str], others: Sequence[str]) -> str:
    more = len(set(looked).difference(wanted))
    parts = [f"{more} of the other take"] if more else []
    parts += [f"others, not in descriptions.csv: {len(others)} ({_some(others)})"] if others else []
    return f" and {', '.join(parts)}" if parts else ""


def _switch_line(tree: _Tree, rates: Sequence[int]) -> Line:
    """Inputs of image-to-video models; ours continue the conditioning clip."""
    folder = tree.folder / "switch-frames"
    names = {
        f"{row.number:04d}_switch-frames_anyFPS_{row.view}_{row.scene}.jpg": row
        for row in cases_of(tree.rows)
    }
    present = [name for name in names if (folder / name).is_file()]

    def look(name: str) -> list[str]:
        row = names[name]
        clips = (
            tree.folder / TESTING.folder / f"{rate}FPS" / row.file_name(TESTING.name, rate) for rate in rates
        )
        return picture_faults(folder / name, next((clip for clip in clips if clip.is_file()), None))

    missing = [name for name in names if name not in present]
    return Line(
        what="switch-frames",
        found=f"{len(present)} of {len(names)}",
        faults=(*_listed("missing", [name[:4] for name in missing]), *tree.look(look, present)),
        missing=bool(missing),
    )


def _listed(fault: str, names: Sequence[str]) -> list[str]:
    return [f"{fault}: {len(names)} ({_some(names)})"] if names else []


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
