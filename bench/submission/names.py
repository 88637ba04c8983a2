"""Which file is the answer to which case: by the submission's name, the benchmark's name, an id, or a table.

Opens no video. A file that could be several answers, or none, is an error; nothing is guessed or left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.submission.rules import VIDEO_SUFFIXES
from engine.datasets._text import read_rows
from engine.datasets.physics_iq import TRIMMED, VIEWS, Description, cases_of
from engine.errors import DatasetError
from engine.words import counted

MAP_COLUMNS = ("file", "generated_video_name")
_LISTED = 40


def find_videos(folder: Path) -> tuple[list[Path], list[str]]:
    """The videos of `folder`, or of its `chosen/` if it is a run, and the names of its other files."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder", fix="give the folder of the clips, or a run folder")
    place = folder / "chosen" if (folder / "run.sqlite").is_file() else folder
    files = sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        deeper = sorted(path.name for path in place.iterdir() if path.is_dir())
        hint = f"; it holds the folders {', '.join(deeper[:5])}" if deeper else ""
        raise DatasetError(
            f"{place} holds no video; allowed: {', '.join(VIDEO_SUFFIXES)}{hint}",
            fix="give the folder in which the clips lie, or name each file in a table with --map",
        )
    return videos, [path.name for path in files if path not in videos]


def match_names(files: Iterable[Path], rows: Sequence[Description]) -> dict[str, Path]:
    """File by generated_video_name. Raises DatasetError that lists each file without exactly one case."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    problems = []
    for path in files:
        row = _case(path.stem, rows)
        if isinstance(row, str):
            problems.append(f"{path.name}: {row}")
        else:
            by_name[row.output_name].append(path)
    problems += [
        f"{', '.join(path.name for path in paths)}: {counted(len(paths), 'file')} for {name}"
        for name, paths in by_name.items()
        if len(paths) > 1
    ]
    if problems:
        example = cases_of(rows)[0].output_name
        raise _refused(
            "files that cannot be told apart or assigned to a case",
            problems,
            fix=f"name each after its case ({example}, or {example[:5]}ANYTHING), move the others away, "
            f"or list them with --map FILE of the columns {','.join(MAP_COLUMNS)}",
        )
    return {name: paths[0] for name, paths in by_name.items()}


def read_map(table: Path, folder: Path, rows: Sequence[Description]) -> dict[str, Path]:
    """File by generated_video_name from a CSV; relative files lie in `folder`. Lists all that is wrong."""
    names = {row.output_name for row in cases_of(rows)}
    matches: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    problems: list[str] = []
    for line, record in _records(table):
        path, name = folder / (record["file"] or ""), record["generated_video_name"] or ""
        if name not in names:
            problems.append(f"line {line}: {name!r} is no generated_video_name of descriptions.csv")
        elif not path.is_file():
            problems.append(f"line {line}: no file {path}")
        elif name in matches:
            problems.append(f"line {line}: {name} stands there already, for {matches[name].name}")
        elif path in owners:
            problems.append(f"line {line}: {path.name} stands there already, for {owners[path]}")
        else:
            matches[name], owners[path] = path, name
    if problems:
        raise _refused(f"wrong lines in {table}", problems, fix="correct these lines")
    if not matches:
        raise DatasetError(f"{table} lists no file", fix=f"give it lines of {','.join(MAP_COLUMNS)}")
    return matches


def _case(stem: str, rows: Sequence[Description]) -> Description | str:
    """The take-1 row that `stem` names, or why there is none."""
    named = [row for row in rows if stem in (Path(row.output_name).stem, _scenario_stem(row))]
    number = re.match(r"(\d{4})(?!\d)", stem)
    found = named or [row for row in rows if number and row.number == int(number[1])]
    if not found:
        return f"no row has the id {number[1]}" if number else "no name of descriptions.csv, no id in front"
    row = next(iter(cases_of(found)), None)
    if row is None:
        return f"{stem[:4]} is an id of take 2, which is no case"
    if any(view in stem for view in VIEWS) and row.view not in stem:
        return f"the id is of {row.view}, the name says another view"
    if TRIMMED in stem and row.scene not in stem:
        return f"the id is of {row.scene}, the name says another scene"
    return row


def _scenario_stem(row: Description) -> str:
    return f"{row.number:04d}_{row.view}_{row.take}_{row.scene}"


def _records(table: Path) -> list[tuple[int, dict[str, str]]]:
    if not table.is_file():
        raise DatasetError(f"{table} is not a file", fix=f"give a CSV of the columns {','.join(MAP_COLUMNS)}")
    return read_rows(
        table, MAP_COLUMNS, fix="save it as UTF-8", fix_columns=f"make its first line {','.join(MAP_COLUMNS)}"
    )


def _refused(what: str, problems: Sequence[str], *, fix: str) -> DatasetError:
    more = [f"and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
    return DatasetError("\n  ".join([f"{len(problems)} {what}:", *problems[:_LISTED], *more]), fix=fix)
