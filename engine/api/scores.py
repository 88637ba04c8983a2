"""Both official scores of a run or of a folder of clips, computed in a process of its own.

Computes no metric and opens no reference clip: the evaluator does, by the name of its module, so that nothing
of a reference ever enters the process in which takes are made.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.api.takes import StrPath
from engine.errors import ConfigError, ScorerError
from kernels.files import read_json

if TYPE_CHECKING:
    from engine.runs.store import RunStore

SCORES = "scores.json"
EVALUATOR = ("-P", "-m", "bench.commands._evaluator", "scoring.physics_iq")
"""-P: a folder of the user's that is called `bench` is not the one that is meant."""
FIX = "\n  fix: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores in percent, 0 to 100, higher is better; None, never a number, where nothing was scored."""

    physics_iq: float | None
    physics_iq_verified: float | None
    num_cases: int
    complete: bool
    """Whether every case of the run, or of the dataset, was scored."""
    cases: Mapping[str, float]
    """The Verified score of each clip, by scenario id."""
    takes: Mapping[tuple[str, int], float]
    """The same of each take, by scenario id and number, where all takes were scored."""
    unscored: Mapping[str, str]
    """Why, by scenario id or file name."""
    document: Mapping[str, Any]
    """Everything of `retake score --json`: sub-scores, groups, every metric of each case."""


def score(
    folder: StrPath,
    dataset: StrPath | None = None,
    *,
    all_takes: bool = False,
    allow_incomplete: bool = False,
    cache: StrPath | None = None,
) -> Scores:
    """Score RUN/chosen, or the mp4 files of a folder under their benchmark names, against the real clips.

    dataset: the benchmark tree; default: the dataset of the run. all_takes: of a run, score every take too.
    allow_incomplete: score what is there; else a missing or unusable clip is refused.
    cache: where real clips are kept in their reduced form; default: retake in XDG_CACHE_HOME or ~/.cache.

    Of a run the scores are also kept in RUN/scores.json, which the report shows. Raises ConfigError where no
    dataset is known, ScorerError for what cannot be scored.
    """
    place, tree = Path(folder), _dataset(Path(folder), dataset)
    switches = [*["--all-attempts"] * all_takes, *["--allow-incomplete"] * allow_incomplete]
    switches += [] if cache is None else ["--cache", str(cache)]
    with tempfile.TemporaryDirectory() as scratch:
        target = place / SCORES if (place / "run.sqlite").is_file() else Path(scratch) / SCORES
        command = [sys.executable, *EVALUATOR, str(place), "--dataset", str(tree), "--json", str(target)]
        done = subprocess.run(  # nosec B603 # our own interpreter
            [*command, *switches], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise _refused(place, done)
        return read_scores(target)


def read_scores(path: Path) -> Scores:
    """The file of `retake score`; ScorerError for one in another form."""
    try:
        document = read_json(path)
        takes = {(str(e["scenario_id"]), int(e["attempt"])): float(e["score"]) for e in document["attempts"]}
        return Scores(
            physics_iq=_number(document["physics_iq"]),
            physics_iq_verified=_number(document["physics_iq_verified"]),
            num_cases=int(document["num_cases"]),
            complete=bool(document["complete"]),
            cases={str(case["scenario_id"]): float(case["score"]) for case in document["cases"]},
            takes=takes,
            unscored={str(e["scenario_id"]): str(e["reason"]) for e in document["unscored"]},
            document=document,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScorerError(
            f"{path} is not a scores file of this version: {type(error).__name__}: {error}",
            fix="score the run again with `retake score`, or delete the file",
        ) from error


def current_scores(run: Path, store: RunStore) -> Scores | None:
    """What RUN/scores.json holds; None where there is none, or it is of other takes than the run has now."""
    from engine.runs.takes import is_of

    path = run / SCORES
    if not path.is_file():
        return None
    scores = read_scores(path)
    return scores if is_of(scores.document, store) else None


def _dataset(folder: Path, dataset: StrPath | None) -> Path:
    from engine.settings.config import read_config

    if dataset is not None:
        return Path(dataset)
    if not (folder / "config.toml").is_file():
        raise ConfigError(f"{folder} names no dataset", fix="give the benchmark tree as dataset")
    return read_config(folder).dataset


def _refused(folder: Path, done: subprocess.CompletedProcess[str]) -> ScorerError:
    """What the evaluator said last; its errors end in their fix."""
    problem, _, fix = done.stderr.strip().removeprefix("error: ").partition(FIX)
    if not problem:
        problem = f"nothing of {folder} could be scored: {done.stdout.strip()[-2000:]}"
    return ScorerError(problem, fix=fix or "see `retake score`, which shows the same in a terminal")


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
