"""Fits what a take is expected to gain from what critic and selectors say of it, on scenes with known scores.

The runs are of tuning scenes, made with `--first-prompt brief --gain none` and scored with `retake score RUN
--all-attempts`, best with several rounds and samples. Least squares over the differences within each
scenario; the covariance of the weights is that of scenes as clusters, so that takes of one scene are not
taken for independent. Then, with each fifth of the scenes left out of the fit in turn, what choosing by it
would have gained there. Beside it stands which share of takes is acceptable by the critic's score of them:
that score calibrated.

    python -m bench.quality.fit_gain --run runs/tuning --out gain.json --report gain_fit.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.bootstrap import mean_ci95
from bench.analysis.scored_run import ScoredRun, read_run
from bench.console import user_error
from bench.files import write_json
from bench.quality.scene_parts import require_not_held_out
from engine.build.choosing import document_of, model_of, read_gain
from engine.build.model_folders import find_critic, find_generator
from engine.demo.training.critic_text import ACCEPT_CASE_SCORE
from engine.errors import ConfigError, RetakeError
from engine.loop.expected_gain import (
    NUM_SHARES,
    OF_CRITIQUE,
    OF_PROMPT,
    RANK,
    GainModel,
    features,
    plans_take,
    share_of,
)
from engine.loop.policy import CRITIC_SCORE, choose_take
from engine.types import Attempt
from engine.words import command_line, counted
from kernels.files import file_digest

DEVIATIONS = 1.0
"""A take must be better than the plan's by one standard deviation of its expected gain: fixed beforehand."""
RIDGE = 1e-3
"""Of the mean square of a feature: only what hardly varies, and would be fitted to chance, is held near 0."""
FOLDS = 5
LEAST_SCENES = 30
PRIOR_TAKES = 20.0
"""Takes of the usual share that each tenth of the critic's score begins with, so that few say little."""

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All takes of one scenario, their features in the order of the weights, and their scores in points."""

    name: str
    attempts: tuple[Attempt, ...]
    rows: Values  # [takes, features]
    scores: Values  # [takes]


def scenes_of(runs: Sequence[ScoredRun], names: Sequence[str]) -> list[Scene]:
    """Scenarios of at least two takes, all of them scored."""
    selectors = [name.removeprefix(RANK) for name in names if name.startswith(RANK)]
    found = []
    for run in runs:
        for scenario_id, outcome in run.outcomes.items():
            takes = outcome.attempts
            if len(takes) < 2 or any((scenario_id, take.index) not in run.records for take in takes):
                continue
            records = [run.records[scenario_id, take.index] for take in takes]
            rows = [[row[name] for name in names] for row in features(takes, selectors)]
            found.append(
                Scene(
                    name=records[0].scene,
                    attempts=takes,
                    rows=np.array(rows, dtype=np.float64),
                    scores=np.array([record.score for record in records], dtype=np.float64),
                )
            )
    return found


def fit(scenes: Sequence[Scene], names: Sequence[str], deviations: float = DEVIATIONS) -> GainModel:
    """Weights of least squares within scenes, and their covariance with scenes as clusters."""
    centred = [(s.rows - s.rows.mean(axis=0), s.scores - s.scores.mean()) for s in scenes]
    rows = np.concatenate([x for x, _ in centred])
    gram = rows.T @ rows
    bread = np.linalg.inv(gram + RIDGE * np.diag(np.diag(gram) + 1e-12) + 1e-9 * np.eye(len(names)))
    weights = bread @ (rows.T @ np.concatenate([y for _, y in centred]))
    pushes: dict[str, Values] = {}  # by scene, whose takes are not independent, also of several runs
    for scene, (x, y) in zip(scenes, centred, strict=True):
        pushes[scene.name] = pushes.get(scene.name, 0.0) + x.T @ (y - x @ weights)
    pushed = np.array(list(pushes.values()))
    covariance = bread @ (pushed.T @ pushed) @ bread * len(pushes) / max(len(pushes) - 1, 1)
    return GainModel(
        weights=dict(zip(names, map(float, weights), strict=True)),
        covariance=tuple(tuple(map(float, row)) for row in covariance),
        deviations=deviations,
    )


def acceptable_shares(scenes: Sequence[Scene]) -> tuple[float, ...]:
    """Of takes by tenths of the critic's score, and of 100, the share with an acceptable case score."""
    said = [
        (share_of(take.critique.score), score >= ACCEPT_CASE_SCORE)
        for scene in scenes
        for take, score in zip(scene.attempts, scene.scores, strict=True)
        if take.critique is not None and take.critique.score is not None
    ]
    if not said:
        return ()
    usual = sum(good for _, good in said) / len(said)
    found = []
    for place in range(NUM_SHARES):
        goods = [good for at, good in said if at == place]
        found.append((sum(goods) + PRIOR_TAKES * usual) / (len(goods) + PRIOR_TAKES))
    return tuple(found)


def left_out(
    scenes: Sequence[Scene], names: Sequence[str], deviations: float = DEVIATIONS
) -> dict[str, list[float]]:
    """By way of choosing: the scores of the takes chosen, one a scenario in their order.

    A scene is not in the fit that chooses there.
    """
    folds = {name: place % FOLDS for place, name in enumerate(sorted({s.name for s in scenes}))}
    models = [fit([s for s in scenes if folds[s.name] != fold], names, deviations) for fold in range(FOLDS)]
    return {name: [way(scene, models[folds[scene.name]]) for scene in scenes] for name, way in WAYS.items()}


def _by_gain(scene: Scene, model: GainModel) -> float:
    return float(scene.scores[choose_take(model.noted(scene.attempts), ())])


def _by_rules(scene: Scene, model: GainModel) -> float:
    named = (*model.selectors, CRITIC_SCORE)
    return float(scene.scores[choose_take(scene.attempts, tuple(dict.fromkeys(named)))])


WAYS: Mapping[str, Callable[[Scene, GainModel], float]] = {
    "first": lambda scene, model: float(scene.scores[0]),
    "plan": lambda scene, model: float(scene.scores[plans_take(scene.attempts)]),
    "random": lambda scene, model: float(scene.scores.mean()),
    "rules": _by_rules,
    "gain": _by_gain,
    "oracle": lambda scene, model: float(scene.scores.max()),
}
"""first, plan: the takes of the brief text and of the plan; rules: those of the loop without a fit."""


def report(scenes: Sequence[Scene], names: Sequence[str], model: GainModel) -> dict[str, Any]:
    """Mean scores with intervals, paired differences, and each weight with its standard deviation."""
    ways = left_out(scenes, names, model.deviations)
    pairs = {"gain_minus_plan": "plan", "gain_minus_first": "first", "gain_minus_rules": "rules"}
    deviation = np.sqrt(np.diag(np.array(model.covariance)))
    where = [scene.name for scene in scenes]
    return {
        "num_scenes": len(set(where)),
        "num_takes": sum(len(scene.attempts) for scene in scenes),
        "folds": FOLDS,
        "ways": {name: mean_ci95(values, where) for name, values in ways.items()},
        "differences": {
            name: mean_ci95([a - b for a, b in zip(ways["gain"], ways[other], strict=True)], where)
            for name, other in pairs.items()
        },
        "weights": {
            name: {"points": weight, "deviation": float(deviation[place])}
            for place, (name, weight) in enumerate(model.weights.items())
        },
    }


def names_of(runs: Sequence[ScoredRun]) -> tuple[str, ...]:
    """Features that all these runs can have: of critique, prompt, and each selector that looked at takes."""
    common = set.intersection(*(set(run.config.loop.selectors) for run in runs))
    looked = sorted(common - {CRITIC_SCORE})
    return (*OF_CRITIQUE, *OF_PROMPT, *(RANK + name for name in looked))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality.fit_gain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, action="append", required=True, help="scored; may be repeated")
    parser.add_argument("--out", type=Path, required=True, help="a file, or the critic's folder")
    parser.add_argument("--report", type=Path, help="also write figures there, as JSON")
    parser.add_argument(
        "--weights-of",
        type=Path,
        metavar="FILE",
        help="keep the weights of this file: only shares are fitted",
    )
    options = parser.parse_args(arguments)
    try:
        runs = [read_run(folder) for folder in options.run]
        names = names_of(runs)
        scenes = scenes_of(runs, names)
        require_not_held_out(scene.name for scene in scenes)
        num_scenes = len({scene.name for scene in scenes})  # each is there once for every run
        if num_scenes < LEAST_SCENES:
            raise ConfigError(
                f"{counted(num_scenes, 'scene has', 'scenes have')} two scored takes or more; "
                f"{LEAST_SCENES} are needed",
                fix="make and score longer runs: retake run --first-prompt brief --gain none, "
                "retake score --all-attempts",
            )
        kept = None if options.weights_of is None else read_gain(options.weights_of)
        model = fit(scenes, names) if kept is None else model_of(kept)
        model = replace(model, acceptable=acceptable_shares(scenes))
        first = runs[0].config
        said = f"{counted(num_scenes, 'scene')}, {counted(sum(len(s.attempts) for s in scenes), 'take')}"
        document = document_of(
            model,
            generator=find_generator(first.generator.name).path,
            critic=find_critic(first.critic.name).path,
            fitted_on=said if kept is None else f"{kept['fitted_on']}; shares on {said}",
            digest=file_digest,
        )
    except RetakeError as error:
        return user_error(error)
    out = options.out / "gain.json" if options.out.is_dir() else options.out
    write_json(out, document)
    found = report(scenes, names, model)
    if options.report is not None:
        write_json(options.report, {"kind": "gain_fit", "command": _command(options), **found})
    for name, value in (*found["ways"].items(), *found["differences"].items()):
        print(f"{name:18s} {value['mean']:7.2f} ({value['ci95'][0]:.2f} to {value['ci95'][1]:.2f})")
    for name, value in found["weights"].items():
        print(f"{name:18s} {value['points']:7.2f} points, deviation {value['deviation']:.2f}")
    print(f"wrote {out}")
    return 0


def _command(options: argparse.Namespace) -> str:
    runs = chain.from_iterable(("--run", run.name) for run in options.run)
    return command_line("python", "-m", "bench.quality.fit_gain", *runs, "--out", options.out.name)


if __name__ == "__main__":
    sys.exit(main())
