"""Clips of any model, or the chosen ones of a run, as scored takes: one of each scenario.

Scores what is not scored yet, which opens reference clips: whoever calls this is a process of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from bench.analysis.scored_run import ScoredRun
from bench.scoring import physics_iq
from bench.scoring.case_record import CaseRecord, read_record
from bench.scoring.submission import is_run
from engine.commands._interrupts import STATUS
from engine.errors import ConfigError, ScorerError
from engine.runs.folder import DATABASE
from engine.runs.store import RunStore
from engine.runs.takes import is_of
from engine.settings.config import RunConfig, read_config
from engine.types import Attempt, Outcome, Prompt
from engine.words import command_line
from kernels.files import read_json


def dataset_of(paths: Sequence[Path], given: Path | None) -> Path | None:
    """The dataset that was given, else that of the first run; None where neither is."""
    runs = [path for path in paths if (path / "config.toml").is_file()]
    return given or (read_config(runs[0]).dataset if runs else None)


def only_chosen_are_scored(folder: Path) -> bool:
    """Whether this is a run of which the chosen clips are scored and no others."""
    path = folder / physics_iq.SCORES
    if not (folder / DATABASE).is_file() or not path.is_file():
        return False
    try:
        document = read_json(path)
    except ValueError:
        return False  # whoever reads the scores says what is wrong
    return isinstance(document, dict) and bool(document.get("cases")) and not document.get("attempts")


def read_clips(path: Path, dataset: Path | None) -> ScoredRun:
    """A run, a folder of clips, or a file of `retake score --json`; ScorerError if it cannot be scored.

    ConfigError for a folder of clips without a dataset. What a run's scores.json does not hold, or holds of
    other takes, is scored now; finished cases are in the cache of the scorer.
    """
    document = _document(path, dataset)
    try:
        found = [read_record(entry) for entry in document["cases"]]
        fps = float(document["fps"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScorerError(
            f"the scores of {path} are not what this retake writes: {type(error).__name__}: {error}",
            fix=f"write it again: {command_line('retake', 'score', 'FOLDER', '--json', path)}"
            if path.is_file()
            else f"score it again: {command_line('retake', 'score', path)}",
        ) from error
    return ScoredRun(
        folder=path,
        config=RunConfig(dataset=dataset or path, out=path),
        manifest={},
        fps=fps,
        scenarios={},
        outcomes={record.scenario_id: _outcome(record) for record in found},
        records={(record.scenario_id, 0): record for record in found},
        failed=(),
        clips=True,
    )


def _outcome(record: CaseRecord) -> Outcome:
    prompt = Prompt(text="", negative="", seed=0, revision=0)
    take = Attempt(index=0, prompt=prompt, video_path=Path(f"{record.scenario_id}.mp4"), critique=None)
    return Outcome(scenario_id=record.scenario_id, attempts=(take,), chosen=0)


def _document(path: Path, dataset: Path | None) -> Any:
    if path.is_file():
        return _read(path)
    if (path / DATABASE).is_file() and (path / physics_iq.SCORES).is_file():
        found = _read(path / physics_iq.SCORES)
        with RunStore.open(path, read_only=True) as store:
            if is_of(found, store) and found.get("cases"):
                return found
    if dataset is None:
        raise ConfigError(f"{path} is not a run, so it names no dataset", fix="give --dataset DIR")
    incomplete = [] if is_run(path) else ["--allow-incomplete"]
    with redirect_stdout(sys.stderr):  # its table is not what was asked for
        status, document = physics_iq.scored([str(path), "--dataset", str(dataset), *incomplete])
    if status == STATUS:
        raise KeyboardInterrupt
    if status != 0:
        raise ScorerError(f"{path} could not be scored", fix="see what the scorer says above")
    return document


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise ScorerError(
            f"{path} is not a scores file: {error}", fix="score again, or name a folder"
        ) from error
