"""What a run folder or a folder of clips holds for the cases of a dataset, before anything is scored.

Reads headers only, and renames and edits nothing. Invariant: every expected case has a usable clip or a
reason, and every other file in the folder is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.scoring.case_scoring import CHOSEN, Unscored
from bench.scoring.clip_stream import num_considered
from engine.datasets.physics_iq import Description, cases_of
from engine.errors import ScorerError, VideoError
from engine.runs.folder import DATABASE
from engine.runs.store import RunStore
from engine.types import ANSWER_SECONDS, Clip
from engine.video.files import check_clip, probe, refuse_mirrored
from engine.words import counted

MAX_LISTED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """`rows` are the expected cases: those of the run, or every take-1 row of the dataset."""

    folder: Path
    fps: float
    rows: tuple[Description, ...]
    clips: dict[str, tuple[tuple[int, Path], ...]]  # usable ones by scenario id; attempt number or CHOSEN
    unscored: tuple[Unscored, ...]  # clips that are missing or unusable
    strange: tuple[Unscored, ...]  # files that belong to no case
    notes: tuple[str, ...]

    @property
    def refusal(self) -> str | None:
        """Why this is incomplete, as a list; None when every expected case can be scored."""
        lacking = [entry for entry in self.unscored if entry.attempt is None]
        return refusal(self.folder, len(self.rows), lacking, self.strange)


def refusal(
    folder: Path, num_expected: int, lacking: Sequence[Unscored], strange: Sequence[Unscored]
) -> str | None:
    if not lacking:
        return None
    lines = [f"{folder} is incomplete: {len(lacking)} of {counted(num_expected, 'case')} cannot be scored"]
    lines += _listed(f"{entry.scenario_id}: {entry.reason}" for entry in lacking)
    if strange:
        lines += [
            f"{counted(len(strange), 'other file lies', 'other files lie')} there, perhaps under a wrong name"
        ]
        lines += _listed(entry.reason for entry in strange)
    return "\n".join(lines)


def read_submission(folder: Path, rows: Sequence[Description], *, all_attempts: bool = False) -> Submission:
    """Find RUN/chosen (or the mp4 files of a plain folder), and with `all_attempts` RUN/videos as well.

    Raises ScorerError when there is no usable clip at all.
    """
    if not folder.is_dir():
        raise ScorerError(f"{folder} is not a folder", fix="give a run folder, or a folder of mp4 files")
    chosen = folder / "chosen" if is_run(folder) else folder
    cases = cases_of(rows)
    recorded = _recorded(folder)
    expected = [row for row in cases if recorded is None or row.scenario_id in recorded]
    files = {row.scenario_id: _files(row, chosen) for row in expected}
    if all_attempts:
        takes = _takes_on_disk(folder, expected) if recorded is None else recorded
        files = {key: (*entries, *takes[key].takes) for key, entries in files.items()}
    headers = {path: _header(path) for entries in files.values() for _, path in entries}
    fps = _common_fps(headers.values(), folder)
    usable: dict[str, tuple[tuple[int, Path], ...]] = {}
    unscored = [
        Unscored(scenario_id=row.scenario_id, reason=_why_absent(row, chosen, recorded))
        for row in expected
        if CHOSEN not in dict(files[row.scenario_id])
    ]
    notes = []
    for scenario_id, entries in files.items():
        good = []
        for label, path in entries:
            problem, note = _judged(headers[path], fps)
            notes += [note] if note else []
            if problem is None:
                good.append((label, path))
            else:
                number = None if label == CHOSEN else label
                unscored.append(Unscored(scenario_id=scenario_id, reason=problem, attempt=number))
        usable[scenario_id] = tuple(good)
    return Submission(
        folder=folder,
        fps=fps,
        rows=tuple(expected),
        clips=usable,
        unscored=tuple(unscored),
        strange=_strange(chosen, {row.output_name for row in cases}),
        notes=tuple(notes),
    )


def is_run(folder: Path) -> bool:
    return (folder / DATABASE).is_file() or (folder / "chosen").is_dir()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scenario:
    """What is known of one case: its takes by number, and what to say where its clip is absent."""

    takes: tuple[tuple[int, Path], ...]
    why_absent: str = ""


def _recorded(folder: Path) -> dict[str, _Scenario] | None:
    """The scenarios of a run as it recorded them; None for a folder without a store.

    A video that a killed run left without recording it is no take.
    """
    if not (folder / DATABASE).is_file():
        return None
    with RunStore.open(folder, read_only=True) as store:
        outcomes = store.outcomes()
        return {
            scenario.id: _Scenario(
                takes=tuple((take.index, folder / take.video_path) for take in store.attempts(scenario.id)),
                why_absent="the run has not finished it"
                if scenario.id not in outcomes
                else outcomes[scenario.id].failure or "the run finished it, but its file is gone",
            )
            for scenario in store.scenarios()
        }


def _takes_on_disk(folder: Path, rows: Iterable[Description]) -> dict[str, _Scenario]:
    """By their names, where there is no store."""
    found = {}
    for row in rows:
        names = {
            path: path.stem.removeprefix("attempt-")
            for path in (folder / "videos" / row.scenario_id).glob("attempt-*.mp4")
        }
        takes = sorted((int(number), path) for path, number in names.items() if number.isdecimal())
        found[row.scenario_id] = _Scenario(takes=tuple(takes))
    return found


def _files(row: Description, chosen: Path) -> tuple[tuple[int, Path], ...]:
    """The submission's clip, where it is there."""
    submitted = chosen / row.output_name
    return ((CHOSEN, submitted),) if submitted.is_file() else ()


def _header(path: Path) -> Clip | VideoError:
    try:
        clip = probe(path)
        refuse_mirrored(path)
        return clip
    except VideoError as error:
        return error


def _common_fps(headers: Iterable[Clip | VideoError], folder: Path) -> float:
    """The frame rate that most clips have; a clip of another is unusable."""
    found = list(headers)
    rates = Counter(header.fps for header in found if isinstance(header, Clip))
    if not rates:
        raise ScorerError(
            f"{folder} holds no readable clip of the dataset ({counted(len(found), 'candidate file')})",
            fix="give a run folder, or a folder of mp4 files named by generated_video_name of the dataset",
        )
    return rates.most_common(1)[0][0]


def _judged(header: Clip | VideoError, fps: float) -> tuple[str | None, str | None]:
    """What makes a clip unusable, and what is to be said of a usable one."""
    if isinstance(header, VideoError):
        return header.problem, None
    needed = num_considered(fps)
    try:
        check_clip(header, fps=fps, num_frames=max(needed, header.num_frames), slack=0)
    except VideoError as error:
        return error.problem, None
    if header.num_frames > needed:
        seconds = f"{header.seconds:.3f} s long"
        return None, f"{header.path.name} is {seconds}; the first {ANSWER_SECONDS:g} s were scored"
    return None, None


def _why_absent(row: Description, chosen: Path, known: Mapping[str, _Scenario] | None) -> str:
    missing = f"no file {row.output_name} in {chosen}"
    return missing if known is None else f"{missing}; {known[row.scenario_id].why_absent}"


def _strange(chosen: Path, known: set[str]) -> tuple[Unscored, ...]:
    """Whatever else lies among the clips; hidden files are the file browser's."""
    found = sorted(path for path in chosen.iterdir() if path.name not in known) if chosen.is_dir() else []
    return tuple(
        Unscored(
            scenario_id=path.stem,
            reason=f"{path.name} is not a generated_video_name of the dataset"
            if path.suffix == ".mp4"
            else f"{path.name} is not an mp4 file and was not read",
        )
        for path in found
        if not path.name.startswith(".")
    )


def _listed(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    rest = len(found) - MAX_LISTED
    return [f"  {line}" for line in found[:MAX_LISTED]] + ([f"  and {rest} more"] if rest > 0 else [])
