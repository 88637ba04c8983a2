"""A folder of any model's clips to a folder of submissions, clip by clip, resumable.

Invariants: an output that is there is replaced only on request, and kept only if this call would make the
same; a bad clip costs that clip. What was done stands in `OUT.prepare.jsonl` beside OUT, one line an output.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.submission.convert import Cut, Settings, make_clip, told_cut
from bench.submission.cuts import agree, find_cut
from bench.submission.rules import Size, encoding_problems, timing_problems
from engine.errors import ConfigError, VideoError
from engine.video.files import read_header, refuse_damaged
from kernels.files import file_digest

_BAD = ("failed", "missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one case. `notes` are equal for clips that were treated alike."""

    name: str
    source: Path | None
    action: str  # copied, remuxed, re-encoded, kept, failed or missing
    notes: tuple[str, ...] = ()
    size: Size | None = None


def prepare(
    matches: Mapping[str, Path],
    names: Sequence[str],
    out: Path,
    settings: Settings,
    conditioning: Mapping[str, Path] | None = None,
    *,
    force: bool = False,
    workers: int = 1,
    progress: Callable[[Result], None] | None = None,
) -> list[Result]:
    """One result per name of the dataset, in order. A bad clip is a failed result; the others go on.

    `conditioning` are the dataset's clips, by the same names, with which `--prefix auto` compares.
    What was done to each clip is added to `OUT.prepare.jsonl` beside `out`, which is how a later call knows
    whether an output that is there is what it would make. Raises ConfigError when `out` holds the inputs.
    """
    _check_place(matches.values(), out)
    record = _Record(out.with_name(f"{out.name}.prepare.jsonl"))
    results: dict[str, Result] = {}
    pool = ThreadPoolExecutor(workers)
    try:
        looked = {
            name: pool.submit(_cut_of, matches[name], settings, (conditioning or {}).get(name))
            for name in names
            if name in matches
        }
        cuts = agree({name: future.result() for name, future in looked.items()})
        futures = {
            name: pool.submit(_prepare_one, matches[name], out / name, settings, cuts[name], record, force)
            for name in names
            if name in matches
        }
        for name in names:
            if name in futures:
                results[name] = futures[name].result()
            else:
                results[name] = Result(
                    name=name, source=None, action="missing", notes=("no file for this case",)
                )
            if progress is not None:
                progress(results[name])
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt waits for the clips in hand only
    return list(results.values())


def succeeded(results: Sequence[Result]) -> bool:
    return all(result.action not in _BAD for result in results)


def _cut_of(source: Path, settings: Settings, conditioning: Path | None) -> Cut | VideoError:
    try:
        return told_cut(settings) or find_cut(source, conditioning)
    except VideoError as error:
        return error


def _prepare_one(
    source: Path, target: Path, settings: Settings, cut: Cut | VideoError, record: _Record, force: bool
) -> Result:
    """Make the output and note it, or look at the one that is there."""
    try:
        if isinstance(cut, VideoError):
            raise cut
        key, before = fingerprint(source, settings, cut), record.read(target.name)
        if target.exists() and not force:
            return _look_at(source, target, settings, same=before == key, known=before is not None)
        action, notes = make_clip(source, target, settings, cut)
        header = read_header(target)
        problems = timing_problems(header, settings.fps) + encoding_problems(header)
        assert not problems, f"{target}: {problems}"
    except VideoError as error:
        reason = error.problem.removeprefix(f"{source} ")
        return Result(name=target.name, source=source, action="failed", notes=(reason, error.fix))
    except OSError as error:  # unreadable input, full disk
        return Result(name=target.name, source=source, action="failed", notes=(str(error),))
    size = (header.width, header.height)
    result = Result(name=target.name, source=source, action=action, notes=tuple(notes), size=size)
    record.add(key, result)
    return result


def _look_at(source: Path, target: Path, settings: Settings, *, same: bool, known: bool) -> Result:
    """Whether the output that is there is what would be made."""
    header = read_header(target)
    size = (header.width, header.height)
    problems = timing_problems(header, settings.fps) + encoding_problems(header)
    if settings.size not in (None, size):
        problems.append(f"{header.width}x{header.height}, not the --size asked for")
    try:
        refuse_damaged(target)
    except VideoError as error:
        problems.append(error.problem.removeprefix(f"{target} "))
    if known and not same:
        problems.append("made from another input or with other options")
    if problems:
        raise VideoError(
            f"an output of this name is there already: {'; '.join(problems)}",
            fix="replace it with --force, or give another --out",
        )
    note = "made by an earlier call" if same else "there already and valid; its input is not on record"
    return Result(name=target.name, source=source, action="kept", notes=(note,), size=size)


def fingerprint(source: Path, settings: Settings, cut: Cut) -> str:
    """Of everything that decides an output."""
    options = json.dumps({**asdict(settings), "skip_s": cut.skip_s, "prefix": None})
    return hashlib.sha256(f"{file_digest(source)} {options}".encode()).hexdigest()


class _Record:
    """The lines of earlier calls by output name, of which the last counts; threads append new ones."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._keys: dict[str, str] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        self._start = "" if not text or text.endswith("\n") else "\n"  # after a line cut short
        for line in text.splitlines():
            entry = _parsed(line)
            if entry is not None:
                self._keys[entry["name"]] = entry["key"]

    def read(self, name: str) -> str | None:
        return self._keys.get(name)

    def add(self, key: str, result: Result) -> None:
        entry = {
            "name": result.name,
            "key": key,
            "source": str(result.source),
            "action": result.action,
            "notes": result.notes,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(self._start + json.dumps(entry, ensure_ascii=False) + "\n")
            self._start = ""


def _parsed(line: str) -> dict[str, str] | None:
    """One entry; None for the line that a killed call left half written."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) and {"name", "key"} <= entry.keys() else None


def _check_place(sources: Iterable[Path], out: Path) -> None:
    inside = [path for path in sources if path.resolve().parent == out.resolve()]
    if inside:
        raise ConfigError(
            f"--out {out} is the folder of the inputs ({inside[0].name} and {len(inside) - 1} more)",
            fix="name another folder: inputs are never changed",
        )
