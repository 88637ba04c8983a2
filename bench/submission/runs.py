"""What run folders and folders of clips tell for a submission card: clips, models, times, scores.

Reads headers and records, decodes one frame. Invariants: a value is known only where every run says the same
(times are averaged), and each comes with its source; a score counts only when it is of all cases on the
verified ground truth.
"""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.submission.card import Known
from engine.datasets.physics_iq import NUM_CASES, TREES, benchmark_tree, descriptions_path
from engine.errors import ConfigError, StoreError, VideoError
from engine.runs.folder import DATABASE
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.store import RunStore
from engine.runs.takes import is_of
from engine.settings.config import read_config
from engine.video.files import probe
from engine.words import counted
from kernels.files import file_digest, read_json

VERIFIED_TREE: Final = TREES[1]
PROMPT_DIGESTS: Final = {
    "66dbe342affda20d4abb76579a36d985cb7e221b5b6eae571069f50f155c37fc": "op",
    "d66e9b2c726c2d954362c560436dbb688239eca1e329dc578ff57ea0ae83d22c": "op",
    "9b69c48d796bc0e26a4e0fe3d19142ba41336163b7792d275c4d66fb6243f4f0": "op",
    "20ffd208acc0b0f50d4638d1da69218168e78336e96118244a53d0ae046729c8": "bpp",
}
"""Published descriptions.csv by sha256: three states of the original prompts, and the base templater's."""

_SUB_SCORES = {
    "spatial_iou": "spatial",
    "weighted_spatial_iou": "weighted_spatial",
    "spatiotemporal_iou": "spatiotemporal",
    "mse": "mse",
}
_AVERAGED = ("public_info.generation_time", "public_info.upsample_time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One set of clips; `scores_path` need not exist."""

    name: str
    clips: Path
    record: Path | None  # the run folder, if Retake made it
    scores_path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Reported scores by their name on the card, or why there are none."""

    values: dict[str, float]
    why_not: str | None


def find_runs(folders: Sequence[Path], scores: Sequence[Path]) -> list[Run]:
    """Raises ConfigError for a folder that is none, two of one name, or another number of score files."""
    if scores and len(scores) != len(folders):
        raise ConfigError(
            f"{counted(len(scores), 'file')} with --scores for {counted(len(folders), 'run')}",
            fix="give one for each run, in order",
        )
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder", fix="give run folders, or folders of clips")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"the folders are named {', '.join(names)}; the package needs a name of its own for each",
            fix="rename them apart",
        )
    files = list(scores) or [folder / "scores.json" for folder in folders]
    return [_run(folder, name, file) for folder, name, file in zip(folders, names, files, strict=True)]


def known_fields(runs: Sequence[Run], dataset: Path, prompts: str | None) -> dict[str, Known]:
    """By card field. `prompts` is "op" or "bpp" as the user said, None to tell by the file."""
    per_run = [_clip_facts(run) | _record_facts(run) for run in runs]
    known: dict[str, Known] = {}
    for key in per_run[0]:
        facts = [entry[key] for entry in per_run if key in entry]
        if len(facts) < len(runs):
            continue
        values = [fact.value for fact in facts]
        if key in _AVERAGED:
            known[key] = Known(value=round(statistics.fmean(values), 2), source=facts[0].source)
        elif all(value == values[0] for value in values):
            known[key] = facts[0]
    known["public_info.date"] = Known(value=datetime.date.today().isoformat(), source="the day of this form")
    found = prompts or prompt_variant(dataset)
    if found is not None:
        source = "as told with --descriptions" if prompts else "by the sha256 of descriptions.csv"
        known["public_info.descriptions"] = Known(value=found, source=source)
    scores = reported_scores(runs).values
    spread = f"{counted(len(runs), 'run')}" if len(runs) > 1 else "1 run, which has no deviation"
    known |= {
        f"reported_scores.{name}": Known(value=round(value, 4), source=f"by scores.json, {spread}")
        for name, value in scores.items()
    }
    return known


def prompt_variant(dataset: Path) -> str | None:
    """ "op" or "bpp" when descriptions.csv is one that the benchmark published."""
    return PROMPT_DIGESTS.get(file_digest(descriptions_path(dataset)))


def is_verified(dataset: Path) -> bool:
    return benchmark_tree(dataset).resolve().name == VERIFIED_TREE


def reported_scores(runs: Sequence[Run]) -> Scored:
    """Mean and sample deviation in percent over the runs; a single run's deviation is not a number."""
    found: list[dict[str, Any]] = []
    for run in runs:
        document, why_not = _scores(run)
        if document is None:
            return Scored(values={}, why_not=f"{run.scores_path} {why_not}")
        found.append(document)
    values = {}
    for name, key in {"physiq": None, **_SUB_SCORES}.items():
        scores = [
            float(document["physics_iq_verified"] if key is None else document["sub_scores"][key])
            for document in found
        ]
        values[f"{name}_mean"] = statistics.fmean(scores)
        values[f"{name}_std"] = statistics.stdev(scores) if len(scores) > 1 else float("nan")
    return Scored(values=values, why_not=None)


def _run(folder: Path, name: str, scores_path: Path) -> Run:
    is_record = (folder / DATABASE).is_file()
    clips = folder / "chosen" if is_record else folder
    return Run(name=name, clips=clips, record=folder if is_record else None, scores_path=scores_path)


def _scores(run: Run) -> tuple[dict[str, Any] | None, str]:
    """The document, or why it cannot be reported."""
    path = run.scores_path
    if not path.is_file():
        return None, "does not exist: make it with `retake score`"
    try:
        document = read_json(path)
        tree, num_cases = document["dataset"]["tree"], document["num_cases"]
        numbers = [
            document["physics_iq_verified"],
            *(document["sub_scores"][key] for key in _SUB_SCORES.values()),
        ]
        finite = num_cases == 0 or all(math.isfinite(number) for number in numbers)
    except (ValueError, KeyError, TypeError) as error:
        return None, f"is not of `retake score`, or of an older one ({error!r}): score again"
    if tree != VERIFIED_TREE:
        return None, f"was scored on {tree}: the card wants scores on {VERIFIED_TREE}"
    if num_cases != NUM_CASES or not finite:
        return None, f"holds {num_cases} of {NUM_CASES} cases"
    if run.record is not None:
        with RunStore.open(run.record, read_only=True) as store:
            if not is_of(document, store):
                return None, "is of other takes than the run has now: score again"
    return document, ""


def _clip_facts(run: Run) -> dict[str, Known]:
    """Frame rate and size of the first readable clip; whether all agree is the validation's question."""
    for path in sorted(run.clips.glob("*.mp4")):
        try:
            clip = probe(path)
        except VideoError:
            continue  # the validation names it
        fps = int(clip.fps) if clip.fps == int(clip.fps) else clip.fps
        return {
            "public_info.fps": Known(value=fps, source="of the clips"),
            "public_info.resolution": Known(value=f"{clip.width}x{clip.height}", source="of the clips"),
        }
    return {}


def _record_facts(run: Run) -> dict[str, Known]:
    """What the records of a run by Retake tell."""
    if run.record is None:
        return {}
    config = read_config(run.record)
    takes, generate_s, rewrite_s = _work(run.record)
    by_hand = _chosen_by_hand(run.record)
    rewrites = config.loop.loops > 0
    facts: dict[str, Any] = {
        "input_type": "v2v",
        "model_version": Path(config.generator.name).name,
        "bon_sampling": takes,
        "prompt_upsampling": rewrites,
    }
    if takes > 1:
        names = config.loop.selectors
        facts["bon_sampling_method"] = (
            ", ".join(names) if len(names) == 1 else f"rank sum of {', '.join(names)}"
        ) + (f"; {counted(by_hand, 'clip')} chosen by hand" if by_hand else "")
    if rewrites:
        facts["prompt_upsampling_method"] = f"Retake loop with the critic {Path(config.critic.name).name}"
    gpu = _gpu(run.record)
    if gpu is not None:
        facts |= {"generation_gpu": gpu, "generation_ngpu": 1}
        facts |= {} if generate_s is None else {"generation_time": generate_s}
        if rewrites:
            facts |= {"upsample_gpu": gpu, "upsample_ngpu": 1}
            facts |= {} if not rewrite_s else {"upsample_time": rewrite_s}
    sources = {
        "input_type": "Retake gives the 3 s prefix",
        "bon_sampling": "the most takes of a scenario",
        "generation_time": "mean seconds of a take by the run's record",
        "upsample_time": "mean seconds of the critic for a scenario by the run's record",
    }
    return {
        f"public_info.{name}": Known(value=value, source=sources.get(name, "by the run's record"))
        for name, value in facts.items()
    }


def _chosen_by_hand(folder: Path) -> int:
    """Clips that the user chose, as `retake choose` does: a card must not call them the selectors'."""
    with RunStore.open(folder, read_only=True) as store:
        return sum(outcome.overruled is not None for outcome in store.outcomes().values())


def _work(folder: Path) -> tuple[int, float | None, float | None]:
    """The most takes of a scenario, mean seconds of a take, mean seconds of the critic for a scenario."""
    with RunStore.open(folder, read_only=True) as store:
        finished = [key for key, outcome in store.outcomes().items() if outcome.chosen is not None]
        histories = [store.history(scenario_id) for scenario_id in finished]
    attempts = [attempt for history in histories for attempt in history.attempts]
    if not attempts:
        raise StoreError(f"{folder} holds no finished scenario", fix="finish it with `retake resume`")
    generate_s = [attempt.timings["generate"] for attempt in attempts if "generate" in attempt.timings]
    rewrite_s = [
        (0.0 if history.plan is None else history.plan.seconds)
        + sum(attempt.timings.get("critique", 0.0) for attempt in history.attempts)
        for history in histories
    ]
    return (
        max(len(history.attempts) for history in histories),
        statistics.fmean(generate_s) if generate_s else None,
        statistics.fmean(rewrite_s),
    )


def _gpu(folder: Path) -> str | None:
    """The GPU of the manifest, if the run was on one."""
    manifest = read_manifest(folder / MANIFEST)
    if manifest.get("resolved", {}).get("device") != "cuda":
        return None
    names = {str(gpu["name"]) for gpu in manifest.get("machine", {}).get("gpus", [])}
    return names.pop() if len(names) == 1 else None  # of several kinds, which one worked is not on record
