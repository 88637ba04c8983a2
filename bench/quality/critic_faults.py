"""Whether the critic names the right fault of a take that is not acceptable: its prompt's, or the model's.

The true fault follows from the plan that the take was told and the scene's truth, as the critic's training
labels follow from the prompt that was made (`engine.demo.training.prompts.poor_prompt`):

- no plan, the brief alone: missing physical clues;
- a plan that states something the truth does not, or otherwise: wrong fact, whatever it lacks beside that;
- else a plan that lacks something of the truth: missing physical clues;
- else, a plan that says what the truth says: model.

Words must agree up to case and punctuation, times within half a second (`plan_match`); one wrong fact is
enough. A loop compiles its prompts from plans, so that none is too complex or too abstract.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.analysis.bootstrap import balanced_ci95, mean_ci95
from bench.scoring.view_metrics import Case, case_score
from engine.critics.qwen_vl.confidence import facts_of
from engine.critics.qwen_vl.plan_match import is_true, words
from engine.demo.training.critic_text import case_verdict
from engine.types import Fault, Outcome, PhysicsPlan, Verdict

UNREADABLE: Final = str(Verdict.UNREADABLE)
WHOLE: Final = ("event", "motion", "speed", "rest")
"""What must hold of a fact, by the names of `is_true`: an event with its time, a motion with its speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTake:
    """A take that is not acceptable. stated: None where the reply is unreadable."""

    scene: str
    true: Fault
    stated: Fault | None

    @property
    def is_right(self) -> bool:
        return self.stated is self.true

    @property
    def is_named(self) -> bool:
        """Whether the critic said at all that something is at fault."""
        return self.stated not in (None, Fault.NONE)


def true_fault(told: PhysicsPlan | None, truth: PhysicsPlan) -> Fault:
    """Of a take whose prompt was made of the plan `told`; None is the brief alone."""
    if told is None:
        return Fault.MISSING_CLUES
    if _states_more(told, truth):
        return Fault.WRONG_FACT
    return Fault.MISSING_CLUES if _states_more(truth, told) else Fault.MODEL


def _states_more(plan: PhysicsPlan, other: PhysicsPlan) -> bool:
    """Whether `plan` states something that `other` does not state."""
    return (
        any(not is_true(fact, other).get(key, True) for fact in facts_of(plan) for key in WHOLE)
        or not _things(plan) <= _things(other)
        or words(plan.camera) != words(other.camera)
    )


def _things(plan: PhysicsPlan) -> set[tuple[str, str]]:
    """What is there and what stays still."""
    there = {("there", words(f"{thing.trait} {thing.name}")) for thing in plan.objects}
    return there | {("still", words(name)) for name in plan.still}


def fault_takes(
    outcomes: Mapping[str, Outcome],
    attempts: Sequence[tuple[int, Case]],
    truths: Mapping[str, PhysicsPlan],
) -> list[FaultTake]:
    """Every critiqued take whose case score is not acceptable."""
    cases = {(case.scenario_id, index): case for index, case in attempts}
    found = []
    for scenario_id, outcome in outcomes.items():
        for attempt in outcome.attempts:
            case, critique = cases.get((scenario_id, attempt.index)), attempt.critique
            if case is None or critique is None:
                continue
            if case_verdict(case_score(case.metrics).score) is Verdict.ACCEPT:
                continue
            true = true_fault(attempt.prompt.plan, truths[scenario_id])
            stated = None if critique.verdict is Verdict.UNREADABLE else critique.fault
            found.append(FaultTake(scene=case.scene, true=true, stated=stated))
    return found


def fault_figures(takes: Sequence[FaultTake]) -> dict[str, Any]:
    """Shares in [0, 1] as {"mean", "ci95"}, null where there is nothing to take them of.

    `fault_accuracy`: faults named right; none at all and an unreadable reply are wrong. `balanced` weighs
    the true faults equally, `named` is of takes of which the critic named a fault. `pairs`: numbers of takes
    by true and then stated fault.
    """
    named = [take for take in takes if take.is_named]
    pairs: dict[str, Counter[str]] = {}
    for take in takes:
        stated = UNREADABLE if take.stated is None else str(take.stated)
        pairs.setdefault(str(take.true), Counter())[stated] += 1
    right, scenes = [float(take.is_right) for take in takes], [take.scene for take in takes]
    kinds = [str(take.true) for take in takes]
    return {
        "num": len(takes),
        "num_named": len(named),
        "fault_accuracy": mean_ci95(right, scenes) if takes else None,
        "fault_accuracy_balanced": balanced_ci95(right, kinds, scenes) if takes else None,
        "fault_accuracy_named": mean_ci95([take.is_right for take in named], [take.scene for take in named])
        if named
        else None,
        "pairs": pairs,
    }
