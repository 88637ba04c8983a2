"""The critic measured against truth: its verdicts, the facts in its plans, and its unreadable replies.

Reads the run's store and the truth records of simulated scenes; scores no video by the benchmark. What counts
as an acceptable take is a callable, so that another definition needs no change here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.scoring.references import references
from engine.critics.qwen_vl.plan_match import matched_share
from engine.datasets.physics_iq import open_dataset, read_descriptions
from engine.demo.scenes.base import Labels
from engine.demo.training.windows import ACCEPT_SCORE, agreement_score, motion_windows
from engine.errors import ScorerError
from engine.runs.store import RunStore
from engine.types import Critique, Frames, Outcome, PhysicsPlan, PlanReply, Verdict
from engine.video.files import read_frames

TruthLabel = Callable[[Frames, Frames, Frames], Verdict]
"""(last prefix frame [1, H, W, 3], take [T, H, W, 3], true answer [T, H, W, 3]) -> ACCEPT or REVISE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedTake:
    scenario_id: str
    critique: Critique
    truth: Verdict


def motion_truth(last_prefix: Frames, take: Frames, answer: Frames) -> Verdict:
    """ACCEPT when the take moves where, when and as much as the true answer does; see `motion_windows`."""
    seen, expected = (motion_windows(np.concatenate([last_prefix, clip])) for clip in (take, answer))
    return Verdict.ACCEPT if agreement_score(seen, expected) >= ACCEPT_SCORE else Verdict.REVISE


def read_truths(dataset: Path, scenario_ids: Sequence[str]) -> dict[str, PhysicsPlan]:
    """The truth plans that `retake scenes` wrote. Raises ScorerError when one is missing."""
    truths = {}
    for scenario_id in scenario_ids:
        path = dataset / "truth" / f"{scenario_id}.json"
        if not path.is_file():
            raise ScorerError(f"{path} does not exist", fix="measure on a dataset made by `retake scenes`")
        truths[scenario_id] = PhysicsPlan.from_dict(json.loads(path.read_text(encoding="utf-8"))["truth"])
    return truths


def read_labels(dataset: Path, scenario_ids: Sequence[str]) -> dict[str, Labels]:
    """How hard each scene is, of those whose truth record says so; scenes of the plain world do not."""
    found = {}
    for scenario_id in scenario_ids:
        path = dataset / "truth" / f"{scenario_id}.json"
        told = json.loads(path.read_text(encoding="utf-8")).get("labels") if path.is_file() else None
        if told is not None:
            found[scenario_id] = Labels(simple=told["simple"], failures=tuple(told["failures"]))
    return found


def read_plans(store: RunStore) -> dict[str, PlanReply]:
    """The critic's reading of each prefix, where there is one."""
    replies = {scenario.id: store.history(scenario.id).plan for scenario in store.scenarios()}
    return {scenario_id: reply for scenario_id, reply in replies.items() if reply is not None}


def critic_figures(
    takes: Sequence[JudgedTake], plans: Mapping[str, PlanReply], truths: Mapping[str, PhysicsPlan]
) -> dict[str, Any]:
    """Three figures in [0, 1], null where nothing was judged, with what they are shares of.

    `verdict_accuracy`: verdicts equal to the truth, unreadable ones count as wrong; `balanced_accuracy`
    weighs both truths equally. `true_attributes`: truth attributes held by the plan of a critique (an
    unreadable reply holds none), `true_attributes_plan` by the one read from the prefix. `unreadable`: of all
    replies.
    """
    right = [take.critique.verdict is take.truth for take in takes]
    by_truth = [
        [hit for hit, take in zip(right, takes, strict=True) if take.truth is truth]
        for truth in (Verdict.ACCEPT, Verdict.REVISE)
    ]
    revising = [
        take for take in takes if take.critique.revised or take.critique.verdict is not Verdict.ACCEPT
    ]
    revised = [_held(truths[take.scenario_id], take.critique.revised) for take in revising]
    planned = [_held(truths[scenario_id], reply.plan) for scenario_id, reply in plans.items()]
    unreadable = [take.critique.verdict is Verdict.UNREADABLE for take in takes]
    unreadable += [reply.plan is None for reply in plans.values()]
    return {
        "verdict_accuracy": _mean(right),
        "balanced_accuracy": _mean([float(np.mean(hits)) for hits in by_truth if hits]),
        "true_attributes": _mean(revised),
        "true_attributes_plan": _mean(planned),
        "unreadable": _mean(unreadable),
        "num_critiques": len(takes),
        "num_plans": len(plans),
        "num_truly_acceptable": len(by_truth[0]),
    }


def judged_takes(
    run: Path, dataset: Path, outcomes: Mapping[str, Outcome], fps: float, label: TruthLabel
) -> list[JudgedTake]:
    """Every critiqued take with its true verdict."""
    prefixes = {scenario.id: scenario.prefix for scenario in open_dataset(dataset).scenarios(fps)}
    answers = references(dataset, read_descriptions(dataset), fps)
    takes = []
    for scenario_id, outcome in outcomes.items():
        last = read_frames(prefixes[scenario_id])[-1:]
        answer = read_frames(answers[scenario_id].takes[0])
        for attempt in outcome.attempts:
            if attempt.critique is not None:
                truth = label(last, read_frames(run / attempt.video_path), answer)
                takes.append(JudgedTake(scenario_id=scenario_id, critique=attempt.critique, truth=truth))
    return takes


def _held(truth: PhysicsPlan, found: PhysicsPlan | None) -> float:
    return 0.0 if found is None else matched_share(truth, found)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
