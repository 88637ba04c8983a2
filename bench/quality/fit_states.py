"""Fits the probe by which the selector "states" chooses, on takes whose scores are known, and says how well.

The runs are of tuning scenes, made with --keep-states and several takes a scene, and scored with
`retake score RUN --all-attempts`. It stands here beside fit_gain and not in the engine: no module of a run
may read a score. Takes of one scenario are compared across the runs; all must be of the same weights and
steps. In place of runs, a list of takes with their scores:

    {"generator": "DIR", "loras": [], "takes": [{"states": "a.mp4.states.safetensors", "score": 41.5,
     "scenario": "0001_perspective-left", "scene": "0001", "prompt": "A ball ..."}]}

Every figure is of scenes that the fit has not seen, beside that of the same procedure on scores that were
permuted within their scenario.

    python -m bench.quality.fit_states --run runs/tuning --out DIR/states.probe --report states_fit.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis.scored_run import ScoredRun, read_run
from bench.console import user_error
from bench.files import write_json
from bench.quality import state_fit
from bench.quality.demo_quality import published_manifest
from bench.quality.scene_parts import require_not_held_out
from bench.quality.state_figures import auc, figure, groups_of, rank_correlation, share_of_oracle
from bench.quality.state_fit import Candidate, Site, Takes, cross_fitted, fitted, permuted
from engine.build.model_folders import find_generator
from engine.build.probing import made_with, made_with_of
from engine.denoise.lora import lora_files, lora_marks
from engine.errors import ConfigError, RetakeError
from engine.loop.state_probe import PROBE_FILE, StateProbe, write_probe
from engine.runs.manifest import weight_digests
from engine.runs.states import read_states, with_states
from engine.types import States, StateSites
from engine.words import command_line, counted
from kernels.files import file_digest, read_json

LEAST_SCENES = 30
PERMUTATIONS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One take of known score, in points. Takes of one scene are never on both sides of a fold."""

    scene: str
    scenario: str
    prompt: str
    score: float
    states: Path


def takes_of_run(run: ScoredRun) -> Iterator[Take]:
    """Those that are scored and have states; of a run without states, ConfigError."""
    found = 0
    for scenario_id, outcome in run.outcomes.items():
        for attempt in with_states(run.folder, outcome.attempts):
            record = run.records.get((scenario_id, attempt.index))
            if record is not None and attempt.states is not None:
                found += 1
                yield Take(
                    scene=record.scene,
                    scenario=scenario_id,
                    prompt=attempt.prompt.text,
                    score=record.score,
                    states=attempt.states,
                )
    if not found:
        raise ConfigError(
            f"no scored take of {run.folder} has hidden states", fix="make the run with --keep-states"
        )


def read_takes(path: Path) -> tuple[list[Take], dict[str, Any]]:
    """A list of takes, and what their states are of. ConfigError for what is none."""
    try:
        document = read_json(path)
        takes = [
            Take(
                scene=str(entry["scene"]),
                scenario=str(entry["scenario"]),
                prompt=str(entry.get("prompt", "")),
                score=float(entry["score"]),
                states=path.parent / str(entry["states"]),
            )
            for entry in document["takes"]
        ]
        generator, loras = str(document["generator"]), [str(entry) for entry in document.get("loras", [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no list of takes: {error!r}", fix="see python -m bench.quality.fit_states --help"
        ) from error
    marks = lora_marks(loras, [file_digest(lora) for lora in lora_files(loras)])
    return takes, made_with(weight_digests(find_generator(generator).path), marks)


def gathered(takes: Sequence[Take]) -> Takes:
    """With their states read, those of scenarios of two or more. ConfigError where takes were looked at
    elsewhere than others, or there are too few scenes."""
    number: dict[str, list[Take]] = {}
    for take in takes:
        number.setdefault(take.scenario, []).append(take)
    kept = [take for of_one in number.values() if len(of_one) > 1 for take in of_one]
    if (num_scenes := len({take.scene for take in kept})) < LEAST_SCENES:
        raise ConfigError(
            f"{counted(num_scenes, 'scene has', 'scenes have')} two scored takes with states or more; "
            f"{LEAST_SCENES} are needed",
            fix="make and score longer runs: retake run --keep-states --samples, retake score --all-attempts",
        )
    read = [read_states(take.states) for take in kept]
    sites = read[0].sites
    for take, states in zip(kept, read, strict=True):
        if states.sites != sites:
            raise ConfigError(
                f"{take.states} is of {states.sites}, and {kept[0].states} of {sites}",
                fix="give takes of the same steps and layers: runs of equal settings",
            )
    place = {scenario: index for index, scenario in enumerate(dict.fromkeys(take.scenario for take in kept))}
    return Takes(
        sites=sites,
        features=_features(read, sites),
        scores=np.array([take.score for take in kept], np.float64),
        groups=np.array([place[take.scenario] for take in kept]),
        scenes=tuple(take.scene for take in kept),
        prompts=tuple(take.prompt for take in kept),
    )


def probe_of(takes: Takes, of: Mapping[str, Any], found: Mapping[str, Any]) -> StateProbe:
    """Fitted on all of them."""
    best, weights, _ = fitted(takes)
    shape = (len(best.steps), len(best.layers), -1, takes.sites.width)
    values = np.stack([weights[site] for site in best.sites]).reshape(shape).astype(np.float32)
    probe = StateProbe(
        sites=sites_at(takes.sites, best),
        weights=values,
        offset=0.0,
        made_with=of,
        fitted_on=f"{counted(len(set(takes.scenes)), 'scene')}, {counted(len(takes), 'take')}",
        found=found,
    )
    read = [takes.features[site].astype(np.float64) @ weights[site] for site in best.sites]
    return replace(probe, offset=float(np.sum(read, axis=0).mean()))


def report(takes: Takes, permutations: int = PERMUTATIONS) -> dict[str, Any]:
    """Out-of-fold figures: of the whole procedure, by layer and by step, each beside its control."""
    labels = permuted(takes, permutations)
    made = cross_fitted(takes, labels)
    groups = groups_of([int(group) for group in takes.groups], takes.scenes)
    prompts = groups_of(list(zip(takes.groups.tolist(), takes.prompts, strict=True)), takes.scenes)
    return {
        "num_scenes": len(set(takes.scenes)),
        "num_scenarios": len(groups),
        "num_takes": len(takes),
        "folds": state_fit.FOLDS,
        "permutations": permutations,
        "rank_correlation": figure(rank_correlation, made.chosen, labels, groups),
        "rank_correlation_within_prompt": figure(rank_correlation, made.chosen, labels, prompts),
        "auc": figure(auc, made.chosen, labels, groups),
        "share_of_oracle": share_of_oracle(made.chosen[:, 0], takes.scores, groups),
        "read_by_fold": [_described(takes.sites, candidate) for candidate in made.picked],
        "by_site": [
            {
                **_described(takes.sites, candidate),
                "rank_correlation": figure(rank_correlation, predicted, labels, groups),
                "auc": figure(auc, predicted, labels, groups),
            }
            for candidate, predicted in made.single.items()
        ],
        "notes": NOTES,
    }


NOTES = (
    "Case scores in percent. Every figure is of scenes left out of the fit, and of the choice where to look "
    "and how strongly to shrink; those by site are of that site alone.",
    "Intervals: 95 %, percentile bootstrap over scenes.",
    "control: the same on scores permuted within their scenario; p: how often one of these did as well.",
    "rank_correlation: Spearman, within scenarios of three takes or more. auc: of telling a take above the "
    "median of its scenario from one below. within_prompt: takes of one scenario and prompt.",
    "share_of_oracle: (chosen - random) / (oracle - random), of the sums.",
)


def sites_at(sites: StateSites, candidate: Candidate) -> StateSites:
    return StateSites(
        steps=tuple(sites.steps[step] for step in candidate.steps),
        timesteps=tuple(sites.timesteps[step] for step in candidate.steps),
        layers=tuple(sites.layers[layer] for layer in candidate.layers),
        width=sites.width,
    )


def _features(read: Sequence[States], sites: StateSites) -> dict[Site, np.ndarray[Any, Any]]:
    return {
        (step, layer): np.stack([states.values[step, layer].ravel() for states in read])
        for step in range(len(sites.steps))
        for layer in range(len(sites.layers))
    }


def _described(sites: StateSites, candidate: Candidate) -> dict[str, Any]:
    """As a user counts, from 1."""
    at = sites_at(sites, candidate)
    return {
        "steps": [step + 1 for step in at.steps],
        "timesteps": list(at.timesteps),
        "layers": [layer + 1 for layer in at.layers],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality.fit_states",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--run", type=Path, action="append", help="scored; may be repeated")
    given.add_argument("--takes", type=Path, help="a list of takes with their scores, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="a file, or the generator's folder")
    parser.add_argument("--report", type=Path, help="also write figures there, as JSON")
    parser.add_argument("--permutations", type=int, default=PERMUTATIONS, help="of the control")
    options = parser.parse_args(arguments)
    try:
        takes, of = _given(options.run, options.takes)
        require_not_held_out(takes.scenes)
        found = report(takes, options.permutations)
        probe = probe_of(takes, of, {name: found[name] for name in ("rank_correlation", "auc")})
    except RetakeError as error:
        return user_error(error)
    out = options.out / PROBE_FILE if options.out.is_dir() else options.out
    write_probe(out, probe)
    if options.report is not None:
        of_runs = {"manifest": published_manifest(options.run[0])} if options.run else {}
        head = {"schema": 1, "kind": "state_fit", "command": _command(options)}
        write_json(options.report, {**head, **found, **of_runs})
    _print(found)
    print(f"wrote {out}: it reads {_words(_described(probe.sites, _all_of(probe.sites)))}")
    return 0


def _given(runs: Sequence[Path] | None, takes: Path | None) -> tuple[Takes, dict[str, Any]]:
    if takes is not None:
        listed, of = read_takes(takes)
        return gathered(listed), of
    read = [read_run(folder) for folder in runs or ()]
    made = [made_with_of(replace(run.config, out=run.folder), run.manifest) for run in read]
    for run, other in zip(read, made, strict=True):
        if other != made[0]:
            raise ConfigError(
                f"{run.folder} was made by other weights than {read[0].folder}",
                fix="give runs of one generator, with the same LoRA files",
            )
    return gathered([take for run in read for take in takes_of_run(run)]), made[0]


def _all_of(sites: StateSites) -> Candidate:
    return Candidate(steps=tuple(range(len(sites.steps))), layers=tuple(range(len(sites.layers))))


def _words(place: Mapping[str, Any]) -> str:
    steps, layers = (", ".join(map(str, place[name])) for name in ("steps", "layers"))
    return f"step {steps} layer {layers}"


def _print(found: Mapping[str, Any]) -> None:
    print(
        f"{counted(found['num_takes'], 'take')} of {counted(found['num_scenarios'], 'scenario')}, "
        f"{counted(found['num_scenes'], 'scene')}"
    )
    for name in ("rank_correlation", "rank_correlation_within_prompt", "auc"):
        print(f"{name:32s} {_shown(found[name])}")
    share = found["share_of_oracle"]
    if share["value"] is not None:
        low, high = share["ci95"]
        print(f"{'share_of_oracle':32s} {share['value']:6.2f} ({low:.2f} to {high:.2f})")
    for entry in found["by_site"]:
        print(f"{_words(entry):32s} {_shown(entry['rank_correlation'])}")
    control = found["rank_correlation"]["control"]
    if control is None or found["rank_correlation"]["mean"] <= control["p95"]:
        print("it tells takes apart no better than fits to permuted scores do: choose by something else")


def _shown(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return "no scenario can say"
    control, (low, high) = value["control"], value["ci95"]
    beside = "" if control is None else f"; permuted {control['mean']:.3f}, 95 % below {control['p95']:.3f}"
    return f"{value['mean']:6.3f} ({low:.3f} to {high:.3f}){beside}"


def _command(options: argparse.Namespace) -> str:
    given = [("--run", run.name) for run in options.run or ()] or [("--takes", options.takes.name)]
    words = ("bench.quality.fit_states", *chain.from_iterable(given), "--out", options.out.name)
    return command_line("python", "-m", *words)


if __name__ == "__main__":
    sys.exit(main())
