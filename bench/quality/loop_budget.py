"""What a GPU second buys on held-out scenes: takes, best-of-N, the paper's loop and scouts at equal cost.

In --work, each phase going on where it was stopped (--shard makes candidates in several processes):
1. scenes are made; 2. the paper's loop runs on them by `retake run --loop paper`, which also gives the plans;
3. of each scene the generator makes every candidate (brief and plan, --seeds noises each) as a whole take and
as looks of --scout-steps steps and of twice as many, both as takes of their own ("whole") and as first steps
of the take ("first"); 4. takes and looks are scored; 5. choosers compare the sets that each arm shows them.

A budget is 1, 2, 4 or 8 times a single take. Costs are seconds, measured here on a GPU; on a CPU they are the
same seconds in denoise steps, and mean little: give --costs FILE, a document of this program or of
bench.perf.end_to_end that was made with the models whose price matters. Which scouts are spent at each budget
is not looked for on the scenes that are measured: it is the default loop's, or that of --tuned FILE, a
document made on tuning scenes (--tuning).

    python -m bench.quality.loop_budget --work W --world wide --tuning --count 120 --out tuned.json
    python -m bench.quality.loop_budget --work V --costs bench/results/end_to_end_h200.json \\
        --tuned tuned.json --out bench/results/loop_budget.json
    python -m bench.quality.loop_budget --work T --count 2 --seeds 2 --steps 3 --scout-steps 1 --out tiny.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.console import page_console, user_error
from bench.files import write_json
from bench.quality.budget_arms import Costs, PaperTake, Scene, ScoutPlan, combinations_of
from bench.quality.budget_costs import gpus_of_costs, measured_costs, read_costs
from bench.quality.budget_figures import best_of, budgets, chosen_plan, rank_prediction, summary, table
from bench.quality.budget_phases import (
    fill_pool,
    paper_takes,
    prepare_dataset,
    run_paper,
    score_pools,
)
from bench.quality.candidate_pool import Key, read_pool
from bench.quality.demo_quality import published_manifest
from bench.quality.set_scores import FILE, SetScores
from bench.scoring.view_metrics import case_score
from engine.build.probing import selector_settings
from engine.datasets.physics_iq import kind_of
from engine.demo.scenes import DEFAULT_WORLD, WORLDS
from engine.denoise.restarts import BACK_TO
from engine.errors import ConfigError, RetakeError
from engine.loop.policy import CRITIC_SCORE
from engine.loop.selection import load_selectors
from engine.machine.device import resolve_device
from engine.runs.store import RunStore
from engine.settings.config import BUNDLED, LoopConfig, RunConfig
from engine.settings.environment import offline, usable_cores
from engine.settings.notation import shard_of
from engine.types import Scenario
from kernels.files import read_json

NOTES = (
    "Scores are Physics-IQ Verified case scores in percent. Intervals: 95 %, percentile bootstrap over "
    "scenes; differences are paired by scene.",
    "single: the brief text's first take. best of: as many takes as the budget, of the brief, the plan or "
    "half of each; plan, choosing and critiques are not counted against it, but are in its cost.",
    "plan first: the loop that begins with the plan's take, judges it and expects nothing of another. It, "
    "paper and scouts pay for plan, critiques, looks, their decoding and choosing. A scout that is finished "
    "is the whole take of its prompt and noise, which was made for the pool.",
    "oracle: chooses by the score itself, a bound and no result. share_of_oracle: of the gain of the best of "
    "8 takes, half of each prompt, over the single one.",
    "scout_minus_best_of: against the best-of-N with the highest mean on these scenes, which flatters it.",
    "again: takes that take their first steps again where looks disagree; the looks are those of all "
    "candidates of the scene, where a loop has fewer.",
    "rank_prediction: Spearman within scenes between looks and the case scores of the takes they become; by "
    "score: by the look's own case score.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that is known of one scenario on the disk."""

    scenario: Scenario
    folder: Path  # of its pool
    category: str
    scene: str
    values: Mapping[Key, float]
    paper: tuple[PaperTake, ...]


def scout_plans(options: argparse.Namespace, choosers: Sequence[str]) -> list[ScoutPlan]:
    """Every way to spend scouts that is compared, that of the default loop first."""
    default = LoopConfig()
    plans = [
        ScoutPlan(
            steps=steps,
            whole=whole,
            halvings=halvings,
            finalists=finalists,
            choosers=by,
            kept=kept,
            again=again,
            again_steps=options.again_steps - BACK_TO if again else 0,
            shrink=options.shrink,
        )
        for steps in options.scout_steps
        for whole in ((True, False) if options.shrink == 1 else (True,))
        for halvings in (1, 0)
        for finalists in (1, 2)
        for kept, again in (
            *((kept, 0) for kept in (0.0, *(options.kept if whole else ()))),
            *((0.0, again) for again in options.again),
        )
        for by in combinations_of(choosers)
    ]
    asked = (default.scout_form == "whole", default.scout_halvings, default.finalists, default.scout_kept, 0)
    return sorted(
        plans, key=lambda one: (one.whole, one.halvings, one.finalists, one.kept, one.again) != asked
    )


def choosing(task: tuple[Measured, Sequence[str], Any, Costs, Sequence[str], Sequence[ScoutPlan]]) -> str:
    """Ask choosers for every set of a scenario that an arm or figure needs; what they say is kept on disk."""
    one, names, settings, costs, choosers, plans = task
    scene, asked = scene_of(one, names, settings)
    table([scene], costs, choosers, plans)
    rank_prediction([scene], [name for name in choosers if name != CRITIC_SCORE])
    asked.keep()
    return one.scenario.id


def scene_of(one: Measured, names: Sequence[str], settings: Any) -> tuple[Scene, SetScores]:
    pool = read_pool(one.folder)
    asked = SetScores(pool, one.scenario, load_selectors(names, settings), one.folder / FILE)
    scene = Scene(
        name=one.scene,
        category=one.category,
        kind=kind_of(one.scene),
        num_prompts=pool.num_prompts,
        values=one.values,
        looks=tuple(key for key in pool.clips if key.is_look),
        scores=asked,
        paper=one.paper,
    )
    return scene, asked


def measure(options: argparse.Namespace) -> dict[str, Any] | None:
    """All phases; the document, or None where only candidates of a shard were to be made."""
    work: Path = options.work
    dataset, run = work / "dataset", work / "paper"
    prepare_dataset(options, dataset)
    config = run_paper(options, dataset, run)
    folders = fill_pool(options, config, run, work)
    if options.shard is not None:
        return None
    found = in_pools(config, folders, run, options.jobs)
    with RunStore.open(run, read_only=True) as store:
        missing = {"num_missing": len(store.scenarios()) - len(found)}
    return {
        **figures(options, config, run, found),
        **missing,
        "manifest": published_manifest(run),
        "notes": NOTES,
    }


def in_pools(config: RunConfig, folders: Mapping[str, Path], run: Path, jobs: int | None) -> list[Measured]:
    """Of the scenarios whose candidates could all be scored. ConfigError: there is none."""
    cases, paper = score_pools(config, folders, jobs), paper_takes(run, jobs)
    known = [name for name in folders if name in cases]
    if not known:
        raise ConfigError("no scenario has candidates that are scored", fix="see what the runs above say")
    with RunStore.open(run, read_only=True) as store:
        scenarios = {one.id: one for one in store.scenarios()}
    return [
        Measured(
            scenario=scenarios[name],
            folder=folders[name],
            category=scenarios[name].category,
            scene=next(iter(cases[name].values())).scene,
            values={key: case_score(case.metrics).score for key, case in cases[name].items()},
            paper=paper.get(name, ()),
        )
        for name in known
    ]


def figures(
    options: argparse.Namespace, config: RunConfig, run: Path, found: Sequence[Measured]
) -> dict[str, Any]:
    """The document of what lies in the pools."""
    names = [name for name in options.choosers if name != CRITIC_SCORE]
    device = "cpu" if options.jobs != 1 else resolve_device(config.device)
    settings = selector_settings(run, device, names, probe=options.states_probe)
    first, asked = scene_of(found[0], names, settings)
    chooser_s = asked.seconds(tuple(key for key in first.values if not key.steps))
    pools = [read_pool(one.folder) for one in found]
    costs = measured_costs(run, pools, chooser_s, options.steps, shrink=options.shrink)
    if options.costs is not None:
        costs = read_costs(options.costs, options.steps)
        if options.shrink > 1 and costs.look_step_s is None:
            raise ConfigError(f"{options.costs} has no costs of small looks", fix="make it with --shrink")
    plans = scout_plans(options, names)
    tasks = [(one, names, settings, costs, options.choosers, plans) for one in found]
    if options.jobs == 1:
        for task in tasks:
            choosing(task)
    else:
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as processes:
            for done, name in enumerate(processes.map(choosing, tasks)):
                print(f"choosers {done + 1}/{len(tasks)}: {name}", flush=True)
    scenes = [scene_of(one, names, settings)[0] for one in found]
    rows = table(scenes, costs, options.choosers, plans)
    by_budget = budgets(scenes, rows)
    chosen = {budget: _plan(options, by_budget, plans, budget) for budget in rows}
    spent = chosen["2x"]
    on_h200 = "H200" in str(_gpus(options, run))
    seconds = None
    if spent is not None and on_h200:
        seconds = by_budget["2x"][spent.name]["cost"] * costs.take_s
    return {
        "schema": 1,
        "kind": "loop_budget",
        "num_scenarios": len(found),
        "num_scenes": len({one.scene for one in found}),
        "summary": summary(scenes, rows, by_budget, chosen, seconds),
        "scouts": {budget: None if plan is None else asdict(plan) for budget, plan in chosen.items()},
        "scouts_by_name": {budget: None if plan is None else plan.name for budget, plan in chosen.items()},
        "best_of": {budget: best_of(by_budget, budget) for budget in rows},
        "best_scouts": {budget: _best(by_budget[budget], plans) for budget in rows},
        "budgets": by_budget,
        "rank_prediction": rank_prediction(scenes, names),
        "costs": asdict(costs) | {"take_s": costs.take_s, "gpus": _gpus(options, run)},
        "costs_in_steps": {
            name: value / costs.step_s
            for name, value in asdict(costs).items()
            if name.endswith("_s") and isinstance(value, float)
        },
    }


def _plan(
    options: argparse.Namespace,
    found: Mapping[str, Mapping[str, Any]],
    plans: Sequence[ScoutPlan],
    budget: str,
) -> ScoutPlan | None:
    default = plans[0]
    if options.tuned is not None:
        named = read_json(options.tuned).get("best_scouts", {}).get(budget)
        default = next((plan for plan in plans if plan.name == named), default)
    return chosen_plan(found, plans, budget, default)


def _best(found: Mapping[str, Any], plans: Sequence[ScoutPlan]) -> str | None:
    """The scouts with the highest mean here: for --tuned of a measurement on other scenes."""
    there = [plan.name for plan in plans if plan.name in found]
    return max(there, key=lambda name: found[name]["mean"]) if there else None


def _gpus(options: argparse.Namespace, run: Path) -> Any:
    """On what the costs were measured."""
    if options.costs is not None:
        return gpus_of_costs(options.costs)
    return published_manifest(run).get("machine", {}).get("gpus", [])


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality.loop_budget",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="scenes, runs and candidates; taken up again")
    add("--out", type=Path, required=True, help="the JSON file to write")
    add("--count", type=int, default=240, help="number of scenes")
    add("--seed0", type=int, help="seed of the first; default: where held-out scenes begin")
    add("--tuning", action="store_true", help="tuning scenes in place of held-out ones, to choose scouts by")
    add("--world", choices=tuple(WORLDS), default=DEFAULT_WORLD)
    add("--views", default="perspective-center")
    add("--generator", default=BUNDLED, help='"demo" or a folder')
    add("--critic", default=BUNDLED, help='"demo" or a folder')
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="of the run, of all takes and looks")
    add("--steps", type=int, default=16, help="denoise steps of a whole take")
    add("--seed", type=int, default=0, help="of the run: noises follow from it")
    add("--seeds", type=int, default=16, help="noises of each prompt: twice as many candidates a scene")
    add(
        "--scout-steps",
        type=int,
        nargs="+",
        default=[2, 4],
        help="of a first look; a second has twice as many",
    )
    add(
        "--decode",
        choices=("frames", "stills"),
        default="frames",
        help="stills: cheaper looks, without a score",
    )
    add("--loops", type=int, help="of the paper's loop; default: as the largest budget has room for")
    add(
        "--choosers", type=lambda text: text.split(","),
        default=["consensus", "geometry", "vjepa", CRITIC_SCORE],
        metavar="NAME,...", help="files of engine/selectors; critic_score judges whole takes alone",
    )  # fmt: skip
    add("--states-probe", type=Path, metavar="FILE", help="of the chooser states; scouts of its steps alone")
    add("--costs", type=Path, metavar="JSON", help="costs of another document, not those of here")
    add("--tuned", type=Path, metavar="JSON", help="scouts as was best in this one, of other scenes")
    _add_processes(parser)
    _add_finishes(parser)
    return parser


def _add_processes(parser: argparse.ArgumentParser) -> None:
    """What several processes do at once."""
    add = parser.add_argument
    add("--jobs", type=int, default=usable_cores(), help="processes that score and choose")
    add(
        "--shard",
        metavar="K/N",
        help="only make the candidates of the K-th of N parts, of a run that is finished: several processes "
        "at once, on one GPU or on several; the same command without it goes on",
    )
    add("--partial", action="store_true", help="only scenes whose candidates are there; no more are made")


def _add_finishes(parser: argparse.ArgumentParser) -> None:
    """Other takes of scouts than those from their noise."""
    add = parser.add_argument
    add("--kept", type=float, nargs="*", default=[], help="also takes that keep such shares of their scout")
    add(
        "--again", type=int, nargs="*", default=[], metavar="TIMES",
        help="also takes that take their first --again-steps so often again where looks of all candidates "
        "disagree",
    )  # fmt: skip
    add("--shrink", type=int, default=1, help="looks are whole ones, as loop.scout_shrink, without a score")
    add("--again-steps", type=int, default=LoopConfig().restart_steps, help="as loop.restart_steps")
    add("--again-share", type=float, default=LoopConfig().restart_share, help="as loop.restart_share")


def _command(arguments: Sequence[str] | None) -> str:
    """As it was typed; of a path its name, since a published command names no folder of a machine."""
    words = [Path(word).name if "/" in word else word for word in arguments or sys.argv[1:]]
    return " ".join(["python -m bench.quality.loop_budget", *words])


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    console = page_console()
    offline()
    try:
        if options.shard is not None:
            options.shard = shard_of(options.shard)
        found = measure(options)
        if found is None:
            console.print("candidates of this part are there; go on without --shard", highlight=False)
            return 0
        document = {**found, "command": _command(arguments)}
        write_json(options.out, document)
    except RetakeError as error:
        return user_error(error)
    for budget, of_arms in document["budgets"].items():
        shown = ("single", document["best_of"][budget], "paper", document["best_scouts"][budget], "oracle")
        for name in shown:
            if name in of_arms:
                one = of_arms[name]
                console.print(
                    f"{budget} {name}: {one['mean']:.1f} ({one['ci95'][0]:.1f} to {one['ci95'][1]:.1f})"
                    f" for {one['cost']:.2f} takes",
                    markup=False, highlight=False,
                )  # fmt: skip
    console.print(f"wrote {options.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
