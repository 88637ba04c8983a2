"""How often facts of a critic's plans are true by how sure it was of them, on tuning scenes, without takes.

For each threshold of `--sure`, what would stay and how much of that is true: the value for a critic's
retake.json is chosen by this table. Asks the critic for plans alone, of prefixes as a run reads them.

    python -m bench.quality.plan_confidence --critic DIR --count 30 --out confidence.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.analysis.bootstrap import RESAMPLES, mean_ci95
from bench.console import page_console, user_error
from bench.files import write_json
from bench.quality.measured_models import manifest_of
from bench.quality.take_statistics import SIZE_PX, tuning_scenes
from engine.api.takes import finish
from engine.build.model_folders import find_critic
from engine.build.prepare import load_critic
from engine.critics.qwen_vl.confidence import StatedFact, without_unsure
from engine.critics.qwen_vl.plan_match import is_true, matched_share
from engine.demo.scenes import WIDE, WORLDS
from engine.demo.scenes.base import FPS, SWITCH, Scene
from engine.demo.scenes.seeds import TUNING
from engine.errors import RetakeError
from engine.machine.device import resolve_device, resolve_dtype
from engine.settings.config import BUNDLED, CriticConfig, RunConfig
from engine.settings.environment import offline
from engine.types import PhysicsPlan, Scenario
from engine.video.files import probe, write_mp4
from engine.words import command_line

THRESHOLDS: Final = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
EDGES: Final = (0.0, 0.3, 0.5, 0.7, 0.85, 0.95, 1.0)
KINDS: Final = ("event", "event what", "motion", "speed", "rest")
NOTES: Final = (
    f"Intervals: 95 %, percentile bootstrap over scenes, {RESAMPLES} resamples.",
    "event: the truth has the same words within half a second; event what: at any time. motion: object and "
    "direction; speed: object and speed. rest: within half a second, or that there is none.",
    "probability: joint, of the tokens of an event's words, a motion's object and direction, its speed, a "
    "rest's time. stays: of the facts without a threshold. held: mean share of the truth that a plan holds.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """A plan as the critic wrote it, None if unreadable, how sure it was of each fact, and the truth."""

    scene: str
    plan: PhysicsPlan | None
    stated: Sequence[StatedFact]
    truth: PhysicsPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One fact, of one of KINDS."""

    scene: str
    kind: str
    probability: float | None
    true: bool


def judged(plan: ReadPlan, sure: float = 0.0) -> list[Judged]:
    """The facts that stay of a plan."""
    if plan.plan is None:
        return []
    kept = without_unsure(plan.plan, plan.stated, sure)
    facts = {*kept.motion, *kept.events, *kept.rest}
    return [
        Judged(
            scene=plan.scene,
            kind=kind,
            probability=one.speed if kind == "speed" else one.probability,
            true=true,
        )
        for one in plan.stated
        if one.fact in facts
        for kind, true in is_true(one.fact, plan.truth).items()
    ]


def document(plans: Sequence[ReadPlan]) -> dict[str, Any]:
    """Figures in [0, 1]; null where there is nothing to take them of."""
    whole = [fact for plan in plans for fact in judged(plan)]
    return {
        "num_scenes": len(plans),
        "unreadable": sum(plan.plan is None for plan in plans),
        "by_kind": {kind: _by_probability([fact for fact in whole if fact.kind == kind]) for kind in KINDS},
        "by_threshold": [_at(plans, whole, sure) for sure in THRESHOLDS],
    }


def _by_probability(facts: Sequence[Judged]) -> dict[str, Any]:
    bins = []
    for low, high in pairwise(EDGES):
        inside = [
            fact
            for fact in facts
            if fact.probability is not None
            and low <= fact.probability
            and (fact.probability < high or high == EDGES[-1])
        ]
        if inside:
            stated = float(np.mean([fact.probability for fact in inside]))
            bins.append({"from": low, "to": high, "num": len(inside), "stated": stated, **_true(inside)})
    unknown = sum(fact.probability is None for fact in facts)
    return {"num": len(facts), "unknown": unknown, **_true(facts), "bins": bins}


def _at(plans: Sequence[ReadPlan], whole: Sequence[Judged], sure: float) -> dict[str, Any]:
    """What a run with `--sure` has of these plans."""
    kept = [fact for plan in plans for fact in judged(plan, sure)]
    by_kind = {}
    for kind in KINDS:
        mine = [fact for fact in kept if fact.kind == kind]
        total = sum(fact.kind == kind for fact in whole)
        by_kind[kind] = {"num": len(mine), "stays": len(mine) / total if total else None, **_true(mine)}
    held = [
        (matched_share(one.truth, without_unsure(one.plan, one.stated, sure)), one.scene)
        for one in plans
        if one.plan is not None
    ]
    shares, scenes = [share for share, _ in held], [scene for _, scene in held]
    return {"sure": sure, "held": mean_ci95(shares, scenes) if held else None, "by_kind": by_kind}


def _true(facts: Sequence[Judged]) -> dict[str, Any]:
    """{"true": share, "ci95": its interval}."""
    if not facts:
        return {"true": None, "ci95": None}
    found = mean_ci95([fact.true for fact in facts], [fact.scene for fact in facts])
    return {"true": found["mean"], "ci95": found["ci95"]}


def read_plans(
    critic: Any, scenes: Iterable[Scene], folder: Path, told: Callable[[str], object]
) -> list[ReadPlan]:
    """Each scene's plan by its prefix of take 1, centre view, which is written to `folder`."""
    found = []
    for scene in scenes:
        job = critic.plan(_scenario(scene, folder))
        reply = finish(job)
        found.append(
            ReadPlan(
                scene=scene.name,
                plan=reply.plan,
                stated=job.answer.facts(critic.tokenizer),
                truth=scene.truth,
            )
        )
        told(scene.name)
    return found


def _scenario(scene: Scene, folder: Path) -> Scenario:
    path = folder / f"{scene.name}.mp4"
    write_mp4(path, scene.render(1, "center", SIZE_PX)[:SWITCH], FPS)
    return Scenario(
        id=scene.name,
        text=scene.brief,
        prefix=probe(path),
        category=scene.category,
        output_name=path.name,
    )


def print_tables(found: dict[str, Any], console: Console) -> None:
    bins = Table("fact", "n", "true", *(f"{a:g} to {b:g}" for a, b in pairwise(EDGES)))
    for kind, entry in found["by_kind"].items():
        cells = {one["from"]: f"{one['true']:.0%} of {one['num']}" for one in entry["bins"]}
        bins.add_row(kind, str(entry["num"]), _cell(entry), *(cells.get(edge, "-") for edge in EDGES[:-1]))
    console.print("True by stated probability:", bins)
    kept = Table("sure", *KINDS, "truth held")
    for at in found["by_threshold"]:
        shown = [
            "-" if one["true"] is None else f"{one['stays']:.0%} stay, {one['true']:.0%} true"
            for one in at["by_kind"].values()
        ]
        kept.add_row(f"{at['sure']:g}", *shown, "-" if at["held"] is None else f"{at['held']['mean']:.0%}")
    console.print("What stays, and how much of it is true:", kept)


def _cell(entry: dict[str, Any]) -> str:
    if entry["true"] is None:
        return "-"
    low, high = entry["ci95"]
    return f"{entry['true']:.0%} ({low:.0%} to {high:.0%})"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.plan_confidence", description=__doc__)
    parser.add_argument("--critic", default=BUNDLED, help='"demo" or a folder')
    parser.add_argument("--world", choices=tuple(WORLDS), default=WIDE)
    parser.add_argument("--count", type=int, default=TUNING.count, help="number of tuning scenes")
    parser.add_argument(
        "--plan-samples", type=int, help="as critic.plan_samples; default: as the folder says"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args(arguments)
    console = page_console()
    offline()
    try:
        scenes = tuning_scenes(options.world, options.count)
        model, device = find_critic(options.critic), resolve_device(options.device)
        with TemporaryDirectory() as work:
            asked = CriticConfig(sure=0.0, plan_samples=options.plan_samples)
            config = RunConfig(dataset=Path(work), out=Path(work) / "run", critic=asked)
            dtype = resolve_dtype(config.dtype, device)
            critic = load_critic(config, model, device, dtype, with_weights=True)
            plans = read_plans(critic, scenes, Path(work), partial(print, file=sys.stderr, flush=True))
        settings = {"world": options.world, "count": options.count, "device": device, "dtype": dtype}
        words = ["bench.quality.plan_confidence", "--critic", model.path.name, "--count", options.count]
        words += ["--plan-samples", options.plan_samples] if options.plan_samples else []
        command = command_line("python", "-m", *words)
        head = {"schema": 1, "kind": "plan_confidence", "command": command, "settings": settings}
        found = head | document(plans)
        found |= {"measured_on": manifest_of({"critic": model.path}), "notes": list(NOTES)}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, found)
    except RetakeError as error:
        return user_error(error)
    print_tables(found, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
