"""Runs our scorer and the official evaluator as subprocesses on one dataset, and reads what they wrote.

Holds no formula and judges nothing. Peak memory is that of the largest process of a run: a worker's, where
there are workers. The official tool works on links and copies, because it renames clips and adds masks.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.datasets.physics_iq import TREES
from engine.errors import ScorerError

_ROOT = Path(__file__).resolve().parents[3]
_DRIVER = Path(__file__).with_name("official_driver.py")
ORIGINAL, VERIFIED = "final_score_origround", "final_score_view"
Cells = dict[tuple[str, str], list[float]]  # (scenario, column): a series, or one scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    wall_s: float
    cpu_s: float  # user and system, of all processes of the run
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What one tool says about one submission."""

    csv: Path
    numbers: dict[str, float | None]  # names and scales of the official tool; NaN and infinity are None
    original: float | None  # in percent
    verified: float | None
    measured: Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Official:
    checkout: Path
    python: str

    def metrics(self, root: Path, submission: Path, fps: int, work: Path) -> Scored:
        """By its functions, for datasets of any size, one process as is its default."""
        tree, csv_path = root / TREES[0], work / "official.csv"
        real = tree / "split-videos" / "testing" / f"{fps}FPS"
        masks = tree / "video-masks" / "real" / f"{fps}FPS"
        arguments = [str(path) for path in (real, masks, submission, work, fps, csv_path)]
        measured = run_measured(
            [self.python, str(_DRIVER), str(self.checkout), "metrics", *arguments], work / "official.log"
        )
        return _scored(csv_path, self.aggregate(csv_path, work), measured)

    def command_line(self, root: Path, submission: Path, work: Path) -> Scored:
        """As its users run it, on a complete set of 198 clips."""
        base, clips, results = work / "base", work / "model", work / "output" / TREES[0] / "results"
        (base / TREES[0] / "video-masks").mkdir(parents=True)
        (base / TREES[0] / "split-videos").symlink_to(root / TREES[0] / "split-videos")
        (base / TREES[0] / "video-masks" / "real").symlink_to(root / TREES[0] / "video-masks" / "real")
        shutil.copytree(submission, clips)
        options = {
            "--input_folders": clips,
            "--output_folder": work / "output",
            "--descriptions_file": root / TREES[0] / "descriptions.csv",
            "--benchmark_base_folder": base,
        }
        flags = [text for option, path in options.items() for text in (option, str(path))]
        measured = run_measured(
            [self.python, "-m", "physiq.run_physics_iq", *flags, "--original_physics_iq"],
            work / "official.log",
            module_path=self.checkout,
        )
        written = json.loads((results / "model_metrics.json").read_text(encoding="utf-8"))
        return _scored(results / "model.csv", _finite(written), measured)

    def aggregate(self, csv_path: Path, work: Path) -> dict[str, float | None]:
        """Its scores of a CSV, whoever wrote that."""
        target = work / f"aggregated-{csv_path.stem}.json"
        command = [self.python, str(_DRIVER), str(self.checkout), "scores", str(csv_path), str(target)]
        run_measured(command, work / "aggregate.log")
        return _finite(json.loads(target.read_text(encoding="ascii")))

    def versions(self, work: Path) -> dict[str, str]:
        """Of the packages that decide its numbers."""
        target = work / "versions.json"
        command = [self.python, str(_DRIVER), str(self.checkout), "versions", str(target)]
        run_measured(command, work / "versions.log")
        found: dict[str, str] = json.loads(target.read_text(encoding="ascii"))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    jobs: int

    def score(self, root: Path, submission: Path, work: Path, cache: Path) -> Scored:
        """By the command line; `cache` keeps what depends on the real takes only."""
        work.mkdir(parents=True)
        document, csv_path = work / "ours.json", work / "ours.csv"
        options = {
            "--dataset": root,
            "--json": document,
            "--csv": csv_path,
            "--jobs": self.jobs,
            "--cache": cache,
        }
        flags = [text for option, value in options.items() for text in (option, str(value))]
        measured = run_measured(
            [sys.executable, "-m", "bench.scoring.physics_iq", str(submission), *flags],
            work / "ours.log",
            module_path=_ROOT,
        )
        written = json.loads(document.read_text(encoding="utf-8"))
        return Scored(
            csv=csv_path,
            numbers=written["official"],
            original=written["physics_iq"],
            verified=written["physics_iq_verified"],
            measured=measured,
        )


def run_measured(command: Sequence[str], log: Path, *, module_path: Path | None = None) -> Measured:
    """Raises ScorerError with the end of the output when the command fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(  # nosec B603 # the evaluator that the user names, there to be run
            command, stdout=output, stderr=subprocess.STDOUT, cwd=module_path
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        raise ScorerError(
            f"{Path(command[0]).name} {' '.join(command[1:3])} ended with {process.returncode}:\n"
            + "\n".join(lines),
            fix="see the lines above; --official-python names an interpreter with that tool's requirements",
        )
    cpu_s = usage.ru_utime + usage.ru_stime
    return Measured(wall_s=wall_s, cpu_s=cpu_s, peak_rss_bytes=usage.ru_maxrss * 1024)


def read_cells(path: Path) -> Cells:
    """Every number of a metrics CSV."""
    cells: Cells = {}
    with path.open(newline="", encoding="utf-8") as file:
        for record in csv.DictReader(file):
            for column, text in record.items():
                if column != "scenario":
                    value = ast.literal_eval(text)
                    cells[record["scenario"], column] = value if isinstance(value, list) else [value]
    return cells


def _scored(path: Path, numbers: dict[str, float | None], measured: Measured) -> Scored:
    verified = numbers.get(VERIFIED)
    return Scored(
        csv=path,
        numbers=numbers,
        original=numbers[ORIGINAL],
        verified=None if verified is None else 100.0 * verified,
        measured=measured,
    )


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
