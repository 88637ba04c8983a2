"""Our scorer and the official evaluator side by side on made data: first equal numbers, then time and memory.

You supply a checkout of the official repository and an interpreter with its requirements; nothing of it is
copied. A difference ends the run before anything is timed. Holds no formula.

    python -m bench.scoring.check.compare --official DIR [DIR ...] [--official-python PYTHON] [--out FILE]
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy
from rich.console import Console

from bench.console import user_error
from bench.files import write_json
from bench.scoring.check.datasets import COMPLETE, EXACTNESS, FULL_SIZE, Made, make
from bench.scoring.check.tools import VERIFIED, Measured, Official, Ours, Scored, read_cells
from engine.datasets.physics_iq import cases_of
from engine.errors import RetakeError, ScorerError
from engine.runs.manifest import code_state, collect
from engine.settings.environment import usable_cores
from engine.words import counted

COLUMN_TOLERANCE = 1e-9
NUMBER_TOLERANCE = 1e-12  # of unrounded scores, as fractions of 1; printed ones have to be identical
NOTES = (
    "columns_difference: the largest of any number in the metrics CSV. text_identical: the same bytes.",
    "numbers_difference: the largest over every number that the official tool writes for one CSV.",
    "own_csv_difference: the same, between the official aggregation of our CSV and of its own.",
    "Scores are [official, ours] in percent; the official tool prints them with two decimals.",
    "Times are of whole processes, start included. cold: nothing cached. warm: clips not seen before, the "
    "real takes cached. Each round runs cold, official, warm; CPU seconds hold on a busy machine too.",
    "Peak memory is that of the largest process of a run.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What was scored and how."""

    dataset: str
    submission: str
    official: str  # which checkout, how run
    cache: str  # cold, or warm: left by an earlier submission


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One submission scored by both. Scores are [official, ours] in percent."""

    subject: Subject
    columns_difference: float
    text_identical: bool
    numbers_difference: float
    own_csv_difference: float
    physics_iq: tuple[float | None, float | None]
    physics_iq_verified: tuple[float | None, float | None] | None  # older checkouts have no Verified score


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Where to work and with what. `officials` by label, the first is the one that is timed."""

    officials: Mapping[str, Official]
    ours: Ours
    work: Path
    console: Console

    def exactness(self, made: Made, *, command_line: bool = False) -> list[Comparison]:
        """Every submission under every checkout; later submissions find our cache warm."""
        root = self.work / made.name
        found = []
        for position, submission in enumerate(make(made, root, workers=usable_cores())):
            place = root / "out" / submission.name
            ours = self.ours.score(root, submission, place, root / "cache")
            # older checkouts find their data by the working directory: only their functions are run
            labels = [next(iter(self.officials))] if command_line else list(self.officials)
            for label in labels:
                tool, folder = self.officials[label], place / label
                official = (
                    tool.command_line(root, submission, folder)
                    if command_line
                    else tool.metrics(root, submission, made.fps, folder)
                )
                subject = Subject(
                    dataset=made.name,
                    submission=submission.name,
                    official=f"{label}, {'command line' if command_line else 'functions'}",
                    cache="warm" if position else "cold",
                )
                found.append(compare(subject, official, ours, tool.aggregate(ours.csv, folder)))
                self._tell(found[-1])
        shutil.rmtree(root)
        return found

    def timing(self, made: Made, rounds: int) -> Iterator[tuple[list[Comparison], dict[str, Any]]]:
        """`rounds` times ours cold, official, ours warm; equal before a time is believed.

        After each round, which takes minutes, all that was found until then.

        Warm scores the same pictures in other files, so that no earlier result is found, only the real takes,
        and the official numbers hold for it too.
        """
        root = self.work / made.name
        self.console.print(f"making {made.name}: {counted(made.num_scenes * 3, 'view')}", highlight=False)
        submission = make(made, root, workers=usable_cores())[0]
        label, tool = next(iter(self.officials.items()))
        runs: dict[str, list[Measured]] = {"cold": [], "official": [], "warm": []}
        comparisons = []
        for number in range(rounds):
            place, cache = root / "out" / str(number), root / f"cache-{number}"
            found = {"cold": self.ours.score(root, submission, place / "cold", cache)}
            found["official"] = tool.metrics(root, submission, made.fps, place / "official")
            other = other_files(submission, place / "other-files")
            found["warm"] = self.ours.score(root, other, place / "warm", cache)
            for kind in ("cold", "warm"):
                subject = Subject(
                    dataset=made.name,
                    submission=submission.name,
                    official=f"{label}, functions",
                    cache=kind,
                )
                own = tool.aggregate(found[kind].csv, place / "official")
                comparisons.append(compare(subject, found["official"], found[kind], own))
                self._tell(comparisons[-1])
                require_equal(comparisons[-1:])
            for kind, scored in found.items():
                runs[kind].append(scored.measured)
                times = f"  {kind}: {scored.measured.wall_s:.1f} s, {scored.measured.cpu_s:.1f} s of CPU"
                self.console.print(times, highlight=False)
            yield comparisons, timing_record(made, runs, self.ours.jobs)
        shutil.rmtree(root)

    def _tell(self, comparison: Comparison) -> None:
        self.console.print(describe(comparison), markup=False, highlight=False)


def other_files(submission: Path, folder: Path) -> Path:
    """A copy in which every mp4 ends with an empty `free` box: another digest, the same pictures."""
    folder.mkdir(parents=True)
    for path in submission.iterdir():
        (folder / path.name).write_bytes(path.read_bytes() + b"\x00\x00\x00\x08free")
    return folder


def compare(
    subject: Subject, official: Scored, ours: Scored, of_our_csv: Mapping[str, float | None]
) -> Comparison:
    """Both tools' numbers of one submission. Raises ScorerError when they do not even have the same cells."""
    theirs, own = read_cells(official.csv), read_cells(ours.csv)
    lengths = [{place: len(values) for place, values in cells.items()} for cells in (theirs, own)]
    if lengths[0] != lengths[1]:
        odd = [place for place in lengths[0] | lengths[1] if lengths[0].get(place) != lengths[1].get(place)]
        raise ScorerError(
            f"{subject.dataset}, {subject.submission}: the CSVs differ in {counted(len(odd), 'cell')}, "
            f"first {odd[0]}",
            fix="one tool left cells out or has series of another length; compare its log with ours",
        )
    pairs = [pair for place, values in theirs.items() for pair in zip(values, own[place], strict=True)]
    return Comparison(
        subject=subject,
        columns_difference=max(abs(a - b) for a, b in pairs),
        text_identical=official.csv.read_bytes() == ours.csv.read_bytes(),
        numbers_difference=_difference(official.numbers, ours.numbers),
        own_csv_difference=_difference(official.numbers, of_our_csv),
        physics_iq=(official.original, ours.original),
        physics_iq_verified=None if VERIFIED not in official.numbers else (official.verified, ours.verified),
    )


def require_equal(comparisons: Sequence[Comparison]) -> None:
    """Raise ScorerError naming the first comparison that is not within the tolerances."""
    for found in comparisons:
        pairs = [pair for pair in (found.physics_iq, found.physics_iq_verified) if pair is not None]
        printed = [[None if value is None else round(value, 2) for value in pair] for pair in pairs]
        numbers = max(found.numbers_difference, found.own_csv_difference)
        same_scores = all(official == ours for official, ours in printed)
        if found.columns_difference > COLUMN_TOLERANCE or numbers > NUMBER_TOLERANCE or not same_scores:
            raise ScorerError(
                f"not equal: {describe(found)}",
                fix=f"columns within {COLUMN_TOLERANCE:g} and equal scores come before any timing",
            )


def describe(found: Comparison) -> str:
    subject, scores = found.subject, f"Physics-IQ {found.physics_iq}"
    if found.physics_iq_verified is not None:
        scores += f", Verified {found.physics_iq_verified}"
    return (
        f"{subject.dataset} {subject.submission} ({subject.official}; {subject.cache}): "
        f"columns {found.columns_difference:.1e}, CSV {'identical' if found.text_identical else 'equal'}, "
        f"numbers {found.numbers_difference:.1e}, {scores}"
    )


def timing_record(made: Made, runs: Mapping[str, Sequence[Measured]], jobs: int) -> dict[str, Any]:
    """Lists of times, medians, and how many times faster ours is by median."""
    num_views = len(cases_of(made.rows()))
    wall_s = {name: [run.wall_s for run in found] for name, found in runs.items()}
    cpu_s = {name: [run.cpu_s for run in found] for name, found in runs.items()}
    ratios = {
        f"times_{what}_{name}": median(times["official"]) / median(times[name])
        for what, times in (("faster", wall_s), ("less_cpu", cpu_s))
        for name in ("cold", "warm")
    }
    return {
        "dataset": asdict(made),
        "num_views": num_views,
        "our_processes": jobs,
        "official_processes": 1,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "median_wall_s_per_view": {name: median(times) / num_views for name, times in wall_s.items()},
        **ratios,
        "peak_rss_bytes": {name: max(run.peak_rss_bytes for run in found) for name, found in runs.items()},
    }


def summary(timing: Mapping[str, Any]) -> dict[str, float]:
    """How many times faster ours is, by the medians of whole processes in wall time."""
    return {f"{name}_over_official": timing[f"times_faster_{name}"] for name in ("cold", "warm")}


def _difference(official: Mapping[str, float | None], others: Mapping[str, float | None]) -> float:
    """The largest over the official names; infinite where one has a number and the other has none."""
    differences = [0.0]
    for name, value in official.items():
        other = others.get(name)
        if value is None or other is None:
            differences.append(0.0 if value is other else math.inf)
        else:
            differences.append(abs(value - other))
    return max(differences)


def _checkouts(folders: Sequence[Path], python: str) -> dict[str, Official]:
    """By commit where there is one, else by position."""
    officials = {}
    for position, folder in enumerate(folders):
        if not any((folder / name).is_dir() for name in ("physiq", "code")):
            raise ScorerError(
                f"{folder} holds neither physiq/ nor code/",
                fix="give a checkout of the Physics-IQ benchmark's repository",
            )
        commit = code_state(folder.resolve())["commit"]
        label = commit[:7] if commit else f"checkout-{position + 1}"
        officials[label] = Official(checkout=folder.resolve(), python=python)
    return officials


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The document, which is also written after the exactness part and each round of timing."""
    officials = _checkouts(options.official, options.official_python)
    own_versions = {"cv2": cv2.__version__, "numpy": numpy.__version__}
    document: dict[str, Any] = {
        "manifest": collect({}, {}, seeds={}, argv=_argv(options)),
        "cores": usable_cores(),
        "load_average_before": os.getloadavg(),
        "official_commits": {label: code_state(tool.checkout) for label, tool in officials.items()},
        "notes": NOTES,
        "tolerances": {"columns": COLUMN_TOLERANCE, "numbers": NUMBER_TOLERANCE},
        "datasets": [asdict(made) for made in (*EXACTNESS, COMPLETE, FULL_SIZE)],
    }
    with tempfile.TemporaryDirectory(prefix="retake-scoring-", dir=options.work) as name:
        work = Path(name)
        check = Check(officials=officials, ours=Ours(jobs=usable_cores()), work=work, console=console)
        versions = next(iter(officials.values())).versions(work)
        document["versions"] = {"official": versions, "ours": own_versions}
        console.print(f"official {', '.join(officials)}: {versions}; ours: {own_versions}", highlight=False)
        if versions["numpy"] != own_versions["numpy"]:
            console.print(
                "NumPy differs: before 2.4 it adds up float32 in another order, up to 1e-8 per frame"
            )
        found = [entry for made in EXACTNESS for entry in check.exactness(made)]
        require_equal(found)
        if not options.skip_complete:
            found += check.exactness(COMPLETE, command_line=True)
            require_equal(found)
        document |= _compared(found)
        _write(options.out, document, console)
        if options.rounds:
            full_size = replace(FULL_SIZE, num_scenes=options.scenes)
            for timed, document["timing"] in check.timing(full_size, options.rounds):
                document |= _compared([*found, *timed]) | {"summary": summary(document["timing"])}
                _write(options.out, document, console)
    return document


def _compared(found: Sequence[Comparison]) -> dict[str, Any]:
    return {
        "largest_columns_difference": max(entry.columns_difference for entry in found),
        "comparisons": [asdict(entry) for entry in found],
    }


def _write(path: Path | None, document: dict[str, Any], console: Console) -> None:
    if path is not None:
        write_json(path, document)
        console.print(f"wrote {path}", markup=False, highlight=False)


def _argv(options: argparse.Namespace) -> list[str]:
    """The command without the paths of this machine."""
    argv = ["python", "-m", "bench.scoring.check.compare", "--official", *("DIR" for _ in options.official)]
    argv += ["--rounds", str(options.rounds), "--scenes", str(options.scenes), "--out", "FILE"]
    return [*argv, *(["--skip-complete"] if options.skip_complete else [])]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scoring.check.compare", description=__doc__)
    parser.add_argument(
        "--official", type=Path, nargs="+", required=True, metavar="DIR", help="checkouts; the first is timed"
    )
    parser.add_argument(
        "--official-python", default=sys.executable, metavar="PYTHON", help="has the official requirements"
    )
    parser.add_argument("--out", type=Path, help="JSON, for example bench/results/scoring.json")
    parser.add_argument("--work", type=Path, help="a folder with about 2 GB of room; default: the system's")
    parser.add_argument("--rounds", type=int, default=1, help="timing rounds at 4K; 0: exactness only")
    parser.add_argument("--scenes", type=int, default=FULL_SIZE.num_scenes, help="timed at 4K, 3 views each")
    parser.add_argument("--skip-complete", action="store_true", help="not the official command on 198 clips")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        document = run(options, console)
    except RetakeError as error:
        return user_error(error)
    if "timing" in document:
        timing = document["timing"]
        console.print(
            f"{timing['times_faster_cold']:.1f} times faster cold, {timing['times_faster_warm']:.1f} warm "
            f"(CPU {timing['times_less_cpu_cold']:.1f} and {timing['times_less_cpu_warm']:.1f}); peak MiB "
            f"{ ({name: value // 2**20 for name, value in timing['peak_rss_bytes'].items()}) }",
            markup=False,
            highlight=False,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
