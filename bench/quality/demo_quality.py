"""Measures the bundled models on held-out scenes: baselines, first take, plan's prompt, chosen take, critic.

Makes the scenes, starts the command-line program on them as a user would, and scores every take. It is no
part of the loop: truth records and reference clips are read only here, after the run.

    python -m bench.quality.demo_quality --out bench/results/demo_quality.json --count 120 [--resume]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.analysis.bootstrap import RESAMPLES, mean_ci95
from bench.analysis.scored_run import require_finished
from bench.console import user_error
from bench.files import write_json
from bench.quality.critic_controls import judge_controls
from bench.quality.critic_faults import fault_figures, fault_takes
from bench.quality.critic_figures import (
    TruthLabel,
    critic_figures,
    judged_takes,
    motion_truth,
    read_labels,
    read_plans,
    read_truths,
)
from bench.quality.critic_reliability import calibrated, reliability, stated_takes
from bench.quality.scene_parts import require_held_out
from bench.quality.trivial import BASELINES, write_baseline
from bench.scoring.physics_iq import score_folder
from bench.scoring.score_document import Scores
from bench.scoring.view_metrics import Case, case_score, original_score
from engine.build.choosing import choosing
from engine.build.model_folders import find_critic, find_generator
from engine.build.prepare import load_critic
from engine.commands._console import make_console
from engine.datasets.physics_iq import VIEWS, kind_of
from engine.demo.layout import write_dataset
from engine.demo.scenes import DEFAULT_WORLD, WORLDS, choose_kinds, make_scene
from engine.demo.scenes.base import FAILURE_TYPES, FPS, Labels
from engine.demo.scenes.seeds import first_held_out
from engine.errors import RetakeError, ScorerError
from engine.loop.expected_gain import plans_take
from engine.machine.device import resolve_device, resolve_dtype
from engine.runs.store import RunStore
from engine.settings.config import RunConfig, read_config
from engine.types import Outcome
from engine.words import command_line
from kernels.files import file_digest

ARMS = (*BASELINES, "first_take", "plan_prompt", "chosen")
NOTES = (
    "Scores are Physics-IQ Verified case scores in percent; physics_iq is the original, dataset-level score.",
    f"Intervals: percentile bootstrap over scenes, {RESAMPLES} resamples.",
    "oracle chooses by the benchmark score itself: a bound for choosers, not a result.",
    "plan_prompt is the first take that was told the plan; where there is none, the first take.",
    "A take is truly acceptable when its motion agrees with the true answer (windows.py of the demo).",
    "faults: of takes whose case score is not acceptable; the true one follows from the plan that the take "
    "was told (bench/quality/critic_faults.py).",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One scenario with its case in every arm."""

    scenario_id: str
    scene: str
    kind: str
    arms: dict[str, Case]

    def score(self, arm: str) -> float:
        return case_score(self.arms[arm].metrics).score


def make_dataset(
    out: Path,
    *,
    seed0: int,
    count: int,
    views: Sequence[str],
    workers: int,
    world: str = DEFAULT_WORLD,
) -> None:
    """Write `count` held-out scenes, seeds from `seed0` on. ConfigError for seeds that are not."""
    kinds = choose_kinds([], world)
    scenes = [make_scene(seed, kinds) for seed in range(seed0, seed0 + count)]
    require_held_out(scene.name for scene in scenes)
    write_dataset(out, scenes, fps=FPS, views=views, workers=workers)


def run_loop(dataset: Path, run: Path, *, resume: bool, extra: Sequence[str]) -> None:
    """Start `retake run` or `retake resume` and wait. ScorerError when it leaves no usable run folder.

    Status 1, after failed scenarios, is not an error here: they are counted in the result.
    """
    started = (run / "run.sqlite").is_file()
    if started and not resume:
        raise ScorerError(f"{run} already holds a run", fix="give --resume, or another folder with --work")
    verb = ["resume", str(run)] if started else ["run", str(dataset), "--out", str(run), *extra]
    command = [sys.executable, "-m", "engine.cli", *verb]
    status = subprocess.run(command, check=False).returncode  # nosec B603 # our own interpreter
    if status not in (0, 1) or not (run / "run.sqlite").is_file():
        raise ScorerError(
            f"`{command_line('retake', *verb)}` ended with status {status} and left no usable run in {run}",
            fix="run it by hand and mend what it names",
        )


def measure(
    run: Path, baselines: Path, *, partial: bool = False, label: TruthLabel = motion_truth
) -> dict[str, Any]:
    """The JSON document for a finished run on simulated scenes; baseline clips go below `baselines`.

    With `partial`, of the finished scenarios of a run that is not; `num_pending` says how many are missing.
    """
    dataset = read_config(run).dataset
    with RunStore.open(run, read_only=True) as store:
        outcomes, plans, pending = store.outcomes(), read_plans(store), store.pending()
        if not partial:
            require_finished(store)
    plans = {scenario_id: reply for scenario_id, reply in plans.items() if scenario_id in outcomes}
    loop = score_folder(run, dataset, all_attempts=True)
    trivial: dict[str, Scores] = {}
    for name in BASELINES:
        write_baseline(name, dataset, baselines / name, loop.fps)
        trivial[name] = score_folder(baselines / name, dataset)
    cases = paired_cases(loop, trivial, outcomes)
    if not cases:
        raise ScorerError(
            f"no scenario of {run} has a score in every arm", fix="finish the run with `retake resume`"
        )
    truths = read_truths(dataset, list(outcomes))
    takes = judged_takes(run, dataset, outcomes, loop.fps, label)
    stated = stated_takes(outcomes, loop.attempts)
    shares = acceptable_shares(read_config(run))
    return {
        **summary(cases),
        "oracle": oracle(cases, loop.attempts),
        "num_pending": len(pending),
        "num_failed": sum(outcome.failure is not None for outcome in outcomes.values()),
        "num_takes": sum(len(outcome.attempts) for outcome in outcomes.values()),
        "stopped": Counter(outcome.stopped or "failed" for outcome in outcomes.values()),
        "critic": {
            **critic_figures(takes, plans, truths),
            "by_case_score": reliability(stated),
            **({"calibrated": reliability(calibrated(stated, shares))} if shares else {}),
            "faults": fault_figures(fault_takes(outcomes, loop.attempts, truths)),
        },
        "by_category": _groups(cases, lambda case: case.arms["chosen"].category),
        "by_kind": _groups(cases, lambda case: case.kind),
        **by_labels(cases, read_labels(dataset, list(outcomes))),
        "manifest": published_manifest(run),
        "unscored": [entry.reason for entry in loop.unscored if entry.scenario_id in outcomes],
        "notes": NOTES,
    }


def acceptable_shares(config: RunConfig) -> tuple[float, ...]:
    """By which the run tells how probable it is that a take is acceptable; empty where nothing was fitted."""
    found = choosing(
        config.loop.gain,
        generator=find_generator(config.generator.name).path,
        critic=find_critic(config.critic.name).path,
        selectors=config.loop.selectors,
        digest=file_digest,
    )
    return () if found.gain is None else found.gain.acceptable


def controls(
    run: Path, *, count: int, label: TruthLabel = motion_truth, world: str = DEFAULT_WORLD
) -> dict[str, Any]:
    """Accuracy of the run's critic on true, planted and swapped takes of its scenes."""
    config = read_config(run)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    critic = load_critic(config, find_critic(config.critic.name), device, dtype, with_weights=True)
    with RunStore.open(run, read_only=True) as store:
        ids = [scenario.id for scenario in store.scenarios()]
    return judge_controls(
        critic,
        config.dataset,
        read_truths(config.dataset, ids),
        count=count,
        period=len(choose_kinds([], world)),
        fps=FPS,
        label=label,
        progress=lambda done, total: print(f"critic controls {done}/{total}", flush=True),
    )


def published_manifest(run: Path) -> dict[str, Any]:
    """What the run recorded of its machine, versions, weights and settings, without paths and seeds.

    A published result names no folder of the machine that made it; seeds follow from the run's seed.
    """
    path = run / "manifest.json"
    if not path.is_file():
        raise ScorerError(f"{path} does not exist", fix="measure a run made by `retake run`, which writes it")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config = {
        key: value for key, value in manifest.get("config", {}).items() if key not in ("dataset", "out")
    }
    digests = {role: model["sha256"] for role, model in manifest.get("models", {}).items()}
    dropped = ("argv", "seeds", "config", "models")
    kept = {key: value for key, value in manifest.items() if key not in dropped}
    return {**kept, "config": without_folders(config), "models": digests}


def without_folders(value: Any) -> Any:
    """Of a folder its name: whose machine it is on is nobody's business."""
    if isinstance(value, dict):
        return {key: without_folders(entry) for key, entry in value.items()}
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def paired_cases(
    loop: Scores, trivial: Mapping[str, Scores], outcomes: Mapping[str, Outcome]
) -> list[Measured]:
    """Scenarios that have a case in every arm, so that all arms are means over the same scenarios."""
    attempts = {(case.scenario_id, index): case for index, case in loop.attempts}
    chosen = {case.scenario_id: case for case in loop.cases}
    frozen = {name: {case.scenario_id: case for case in scores.cases} for name, scores in trivial.items()}
    measured = []
    for scenario_id, outcome in outcomes.items():
        planned = plans_take(outcome.attempts) if outcome.attempts else 0
        arms = {
            **{name: cases.get(scenario_id) for name, cases in frozen.items()},
            "first_take": attempts.get((scenario_id, 0)),
            "plan_prompt": attempts.get((scenario_id, planned)),
            "chosen": chosen.get(scenario_id),
        }
        complete = {name: case for name, case in arms.items() if case is not None}
        if len(complete) == len(ARMS):
            scene = complete["chosen"].scene
            measured.append(
                Measured(scenario_id=scenario_id, scene=scene, kind=kind_of(scene), arms=complete)
            )
    return measured


def summary(cases: Sequence[Measured]) -> dict[str, Any]:
    """Mean and interval of each arm and of the paired difference between chosen and first take."""
    scenes = [case.scene for case in cases]
    arms: dict[str, Any] = {}
    for arm in ARMS:
        original = original_score([case.arms[arm] for case in cases])
        arms[arm] = {**mean_ci95([case.score(arm) for case in cases], scenes), "physics_iq": original}

    def less(arm: str, other: str) -> Any:
        return mean_ci95([case.score(arm) - case.score(other) for case in cases], scenes)

    return {
        "n": len(cases),
        **arms,
        "chosen_minus_first": less("chosen", "first_take"),
        "plan_minus_first": less("plan_prompt", "first_take"),
        "chosen_minus_plan": less("chosen", "plan_prompt"),
    }


def oracle(cases: Sequence[Measured], attempts: Sequence[tuple[int, Case]]) -> dict[str, Any]:
    """The best take of each scenario by the benchmark's own score: no chooser of these takes exceeds it."""
    best: dict[str, float] = {}
    for _, case in attempts:
        score = case_score(case.metrics).score
        best[case.scenario_id] = max(score, best.get(case.scenario_id, score))
    return mean_ci95([best[case.scenario_id] for case in cases], [case.scene for case in cases])


def by_labels(cases: Sequence[Measured], labels: Mapping[str, Labels]) -> dict[str, Any]:
    """Arms by simple or not and by failure type, of the scenes that have labels; nothing where none has."""
    known = [case for case in cases if case.scenario_id in labels]
    if not known:
        return {}

    def told(case: Measured) -> str:
        return "simple" if labels[case.scenario_id].simple else "not simple"

    failures = {
        name: [case for case in known if name in labels[case.scenario_id].failures] for name in FAILURE_TYPES
    }
    return {
        "by_simple": _groups(known, told),
        "by_failure": {name: summary(found) for name, found in failures.items() if found},
    }


def _groups(cases: Sequence[Measured], key: Callable[[Measured], str]) -> dict[str, dict[str, Any]]:
    names = sorted({key(case) for case in cases})
    return {name: summary([case for case in cases if key(case) == name]) for name in names}


def print_table(document: dict[str, Any], console: Console) -> None:
    table = Table("scenarios of", "n", *ARMS, "chosen - first", title="Held-out scenes, Verified score, 95 %")
    for name, group in {"all": document, **document["by_category"], **document["by_kind"]}.items():
        cells = [_cell(group[arm]) for arm in (*ARMS, "chosen_minus_first")]
        table.add_row(name, str(group["n"]), *cells)
    console.print(table)
    figures = {**document["critic"]}
    for group in ("controls", "by_case_score", "faults"):
        figures |= {f"{group} {name}": value for name, value in figures.pop(group, {}).items()}
    for name in ("by_case_score bins", "faults pairs"):  # for the page
        figures.pop(name, None)
    for name, value in figures.items():
        value = value["mean"] if isinstance(value, dict) and "mean" in value else value
        shown = "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
        console.print(f"critic {name}: {shown}", markup=False)


def _cell(entry: dict[str, Any]) -> str:
    return f"{entry['mean']:.1f} ({entry['ci95'][0]:.1f} to {entry['ci95'][1]:.1f})"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.demo_quality", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--count", type=int, default=120, help="number of scenes")
    parser.add_argument("--seed0", type=int, help="seed of the first scene; default: the held-out ones")
    parser.add_argument("--world", choices=tuple(WORLDS), default=DEFAULT_WORLD)
    parser.add_argument("--views", nargs="+", choices=VIEWS, default=["perspective-center"])
    parser.add_argument(
        "--work", type=Path, default=Path("runs/demo_quality"), help="scenes, run and baselines"
    )
    parser.add_argument("--run", type=Path, help="measure this finished run instead of making one")
    parser.add_argument(
        "--partial", action="store_true", help="measure the finished scenarios of a run that is not finished"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what --work already holds")
    parser.add_argument(
        "--controls", type=int, default=60, help="scenes on which the critic judges true and planted takes"
    )
    parser.add_argument("--loops", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device")
    parser.add_argument("--workers", type=int, default=1, help="processes that render scenes")
    options = parser.parse_args(arguments)
    console = make_console()
    try:
        run = options.run
        if run is None:
            dataset, run = options.work / "scenes", options.work / "run"
            make_dataset(
                dataset,
                seed0=first_held_out(options.world) if options.seed0 is None else options.seed0,
                count=options.count,
                views=options.views,
                workers=options.workers,
                world=options.world,
            )
            run_loop(dataset, run, resume=options.resume, extra=_loop_options(options))
        document = measure(run, options.work / "baselines", partial=options.partial)
        if options.controls:
            found = controls(run, count=options.controls, world=options.world)
            document["critic"]["controls"] = found
    except RetakeError as error:
        return user_error(error)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, document)
    print_table(document, console)
    console.print(f"wrote {options.out}", markup=False)
    return 0


def _loop_options(options: argparse.Namespace) -> list[str]:
    """Settings of the loop, as the arguments of `retake run`; a take of the brief text is one of the arms."""
    given = {name: getattr(options, name) for name in ("loops", "steps", "device")}
    extra = [text for name, value in given.items() if value is not None for text in (f"--{name}", str(value))]
    return ["--first-prompt", "brief", *extra]


if __name__ == "__main__":
    sys.exit(main())
