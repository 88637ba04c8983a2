"""The controls of a finished run: the same scenarios under prompts that hold no fact of theirs.

A control is the run's dataset with other texts. The command-line program takes one take of each, with the
run's seed, and what the loop chose is compared with the best control: only what it gains above that counts.
The plans are those that the run's critic read, and another scene's plan is one of these too.

    python -m bench.quality.loop_controls --run RUN --work WORK --out controls.json
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.analysis.bootstrap import mean_ci95
from bench.analysis.scored_run import require_finished
from bench.console import page_console, user_error
from bench.files import write_json
from bench.quality.critic_figures import read_plans
from bench.quality.demo_quality import published_manifest, run_loop
from bench.quality.prompt_kinds import CONTROLS, Asked, prompt_texts
from bench.scoring.physics_iq import score_folder
from bench.scoring.view_metrics import Case, case_score
from engine.datasets.physics_iq import benchmark_tree, descriptions_path, kind_of, read_descriptions
from engine.demo.layout import TREE
from engine.demo.scenes import origin_of
from engine.errors import RetakeError, ScorerError
from engine.loop.expected_gain import plans_take
from engine.runs.store import RunStore
from engine.settings.config import RunConfig, read_config
from engine.types import PlanReply

COMMAND = "python -m bench.quality.loop_controls --run RUN --work WORK --out loop_controls.json"
AGAIN = {"--finish-restarts": "finish_restarts", "--restart-steps": "restart_steps"}
"""Of the run's takes, which controls have too."""
ARMS = ("first_take", "plan_prompt", "chosen")
NOTES = (
    "Scores are Physics-IQ Verified case scores in percent; intervals 95 %, bootstrap over scenes, paired.",
    "Controls have one take under the run's seed, as the first take has.",
    "best_control: the control of the largest mean over these scenes. above_best_control: an arm less that.",
)


def control_dataset(dataset: Path, out: Path, texts: Mapping[str, str]) -> None:
    """`dataset` with other texts, by scene: its files as hard links where the disk has them, else copies.

    Files that are there already are kept, so that a killed call is resumed by repeating it.
    """
    tree = benchmark_tree(dataset)
    for source in sorted(path for path in tree.rglob("*") if path.is_file()):
        target = out / TREE / source.relative_to(tree)
        if source == descriptions_path(dataset) or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another disk, or one without links
            shutil.copy2(source, target)
    with descriptions_path(dataset).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), reader.fieldnames or ()
    described = read_descriptions(dataset)
    for row, known in zip(rows, described, strict=True):
        row["description"] = texts[known.scene]
    (out / TREE).mkdir(parents=True, exist_ok=True)
    with (out / TREE / "descriptions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def asked_of(dataset: Path, plans: Mapping[str, PlanReply]) -> dict[str, Asked]:
    """By scene: its text, and the plan that the run's critic read from the first of its views.

    Scenes are grouped by their kind where they are simulated (KIND-SEED), else by category. Raises
    ScorerError for a scene without a readable plan: a control as long as nothing would not be one.
    """
    found: dict[str, Asked] = {}
    for row in read_descriptions(dataset):
        reply = plans.get(row.scenario_id)
        if row.scene in found or reply is None or reply.plan is None:
            continue
        group = kind_of(row.scene) if origin_of(row.scene) else row.category
        found[row.scene] = Asked(brief=row.text, plan=reply.plan, group=group)
    if not found:
        raise ScorerError("the run holds no readable plan", fix="give a finished run with at least one loop")
    return found


def run_controls(
    config: RunConfig, work: Path, asked: Mapping[str, Asked], kinds: Sequence[str] = CONTROLS
) -> dict[str, list[Case]]:
    """The cases of each control. Datasets and runs go below `work`, and are resumed there."""
    brief = {row.scene: row.text for row in read_descriptions(config.dataset)}
    found = {}
    for kind in kinds:
        texts = brief | dict(zip(asked, prompt_texts(kind, list(asked.values())), strict=True))
        dataset, run = work / kind / "dataset", work / kind / "run"
        control_dataset(config.dataset, dataset, texts)
        run_loop(dataset, run, resume=True, extra=settings_of(config))
        found[kind] = score_folder(run, dataset).cases
    return {kind: list(cases) for kind, cases in found.items()}


def settings_of(config: RunConfig) -> list[str]:
    """One take of each scenario by the run's own generator."""
    given = {
        "--loops": 0,
        "--first-prompt": "brief",
        "--seed": config.loop.seed,
        "--generator": config.generator.name,
        "--critic": config.critic.name,
        "--device": config.device,
        "--preset": config.denoise.preset,
    }
    if config.loop.finish_restarts:
        given |= {name: getattr(config.loop, key) for name, key in AGAIN.items()}
    steps = {} if config.generator.steps is None else {"--steps": config.generator.steps}
    limit = {} if config.limit is None else {"--limit": config.limit}
    return [text for key, value in {**given, **steps, **limit}.items() for text in (key, str(value))]


def compare(arms: Mapping[str, Mapping[str, Case]], controls: Mapping[str, Sequence[Case]]) -> dict[str, Any]:
    """Arms and controls over the scenarios that all of them have, by scenario id."""
    cases = {**arms, **{kind: {case.scenario_id: case for case in found} for kind, found in controls.items()}}
    common = sorted(set.intersection(*(set(found) for found in cases.values())))
    if not common:
        raise ScorerError("no scenario has a score in every arm and control", fix="finish the run first")
    scenes = [cases["chosen"][scenario_id].scene for scenario_id in common]
    scores = {
        name: [case_score(found[scenario_id].metrics).score for scenario_id in common]
        for name, found in cases.items()
    }
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    best = max(CONTROLS, key=lambda kind: means[kind])

    def less(one: str, other: str) -> dict[str, Any]:
        return mean_ci95([a - b for a, b in zip(scores[one], scores[other], strict=True)], scenes)

    return {
        "n": len(common),
        **{name: mean_ci95(values, scenes) for name, values in scores.items()},
        "minus_first": {kind: less(kind, "first_take") for kind in CONTROLS},
        "best_control": best,
        "above_best_control": {arm: less(arm, best) for arm in ("plan_prompt", "chosen")},
    }


def make_control(run: Path, work: Path, kind: str) -> None:
    """Only run and score one control, for a later `measure`; ScorerError for a run that is not finished."""
    config = read_config(run)
    with RunStore.open(run, read_only=True) as store:
        require_finished(store)
        plans = read_plans(store)
    run_controls(config, work, asked_of(config.dataset, plans), (kind,))


def measure(run: Path, work: Path) -> dict[str, Any]:
    """The document of a finished run, else ScorerError; its controls are run and scored now."""
    config = read_config(run)
    with RunStore.open(run, read_only=True) as store:
        require_finished(store)
        outcomes, plans = store.outcomes(), read_plans(store)
    loop = score_folder(run, config.dataset, all_attempts=True)
    takes = {(case.scenario_id, index): case for index, case in loop.attempts}
    planned = {key: plans_take(outcome.attempts) for key, outcome in outcomes.items() if outcome.attempts}
    arms = {
        "first_take": {key: takes[key, 0] for key in outcomes if (key, 0) in takes},
        "plan_prompt": {key: takes[key, at] for key, at in planned.items() if (key, at) in takes},
        "chosen": {case.scenario_id: case for case in loop.cases},
    }
    controls = run_controls(config, work, asked_of(config.dataset, plans))
    head = {"schema": 1, "kind": "loop_controls", "command": COMMAND}
    return {**head, **compare(arms, controls), "manifest": published_manifest(run), "notes": NOTES}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality.loop_controls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="a finished run over simulated scenes")
    parser.add_argument("--work", type=Path, required=True, help="gets datasets and runs of the controls")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument(
        "--only", choices=CONTROLS, help="only run this control, beside others: no file is written"
    )
    options = parser.parse_args(arguments)
    console = page_console()
    try:
        if options.only is not None:
            make_control(options.run, options.work, options.only)
            return 0
        document = measure(options.run, options.work)
    except RetakeError as error:
        return user_error(error)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, document)
    for name in (*ARMS, *CONTROLS):
        console.print(f"{name:12s} {document[name]['mean']:.1f}", markup=False, highlight=False)
    gain = document["above_best_control"]["chosen"]
    console.print(
        f"chosen above {document['best_control']}: {gain['mean']:+.1f} {gain['ci95']}", markup=False
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
