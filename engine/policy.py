"""The refinement loop as pure functions: the first prompt, the next one or the reason to stop, the champion.

Knows no model and no clock. Invariants: at most `loops` + 1 takes; a later, worse take never replaces the
champion; a missing score is never treated as a number; seeds do not depend on the order of scenarios.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.prompting import compile_prompt, text_distance
from engine.types import Attempt, Critique, Fault, PhysicsPlan, PlanReply, Prompt, Scenario, Stop, Verdict

ACCEPTED = "accepted"
LOOPS = "loops"
NO_IMPROVEMENT = "no improvement"
PROMPT_UNCHANGED = "prompt unchanged"
PROMPT_COMPLETE = "prompt complete"
CRITIC_UNREADABLE = "critic unreadable"
NO_PLAN = "no readable plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinementPolicy:
    """Attempt 0 is the brief text, attempt 1 the physics-aware plan, later ones follow the last critique."""

    seed: int
    negative: str
    loops: int = 4  # refinement rounds after the first take
    patience: int = 2  # rounds without a better take before the loop ends
    # Share of words below which two prompts count as equal. One corrected word ("left" to "right") in a
    # prompt of 80 words is 0.0125 and must count as a change, so the threshold is one word in 200.
    distance_threshold: float = 0.005
    accept_score: float = 90.0  # an accepted take ends the loop from this score of the critic on; 0: always
    only_incomplete: bool = False  # refine only where the critic says that the prompt lacks physical clues

    def first(self, scenario: Scenario) -> Prompt:
        """The brief text of the benchmark with the scenario's own seed."""
        return Prompt(
            text=scenario.text,
            negative=self.negative,
            seed=scenario_seed(self.seed, scenario.id),
            revision=0,
        )

    def next(self, scenario: Scenario, plan: PlanReply, attempts: Sequence[Attempt]) -> Prompt | Stop:
        """The prompt of attempt `len(attempts)`, or why there is none. Needs at least attempt 0.

        An accepted first take ends nothing yet: the physics-aware prompt is step 1 of the method, so its take
        is always made and compared. After a take that is accepted with a low score another one is made.
        """
        assert attempts, "the first prompt comes from `first`"
        critique = attempts[-1].critique
        if self._settled(attempts, plan):
            return Stop(reason=ACCEPTED)
        if len(attempts) > self.loops:
            return Stop(reason=LOOPS)
        if len(attempts) - 1 - self.choose(attempts) >= self.patience:
            return Stop(reason=NO_IMPROVEMENT)
        if critique is None or critique.verdict is Verdict.UNREADABLE:
            return self._without_critique(scenario, plan, attempts)
        if self.only_incomplete and critique.fault is not Fault.MISSING_CLUES:
            return Stop(reason=PROMPT_COMPLETE)
        return self._revise(scenario, plan, critique, attempts)

    def _settled(self, attempts: Sequence[Attempt], plan: PlanReply) -> bool:
        if not _accepted(attempts[-1]):
            return False
        if self.only_incomplete:
            return True
        score = _score(attempts[-1])
        sure = score is not None and score >= self.accept_score
        return sure and (len(attempts) > 1 or plan.plan is None)

    def choose(self, attempts: Sequence[Attempt]) -> int:
        """The champion: accepted, then critic's score, selectors' mean rank, a plan's prompt, the earlier.

        Where nothing was scored, the last take of a plan's prompt; where there is none of those, attempt 0.
        """
        assert attempts, "a champion needs at least one attempt"
        ranks = _mean_ranks(attempts)
        keys = [_champion_key(attempt, rank) for attempt, rank in zip(attempts, ranks, strict=True)]
        if any(key > _UNSCORED for key in keys):
            return max(range(len(attempts)), key=lambda index: (keys[index], -index))
        return max((a.index for a in attempts if a.prompt.plan is not None), default=0)

    def _without_critique(
        self, scenario: Scenario, plan: PlanReply, attempts: Sequence[Attempt]
    ) -> Prompt | Stop:
        """An unreadable critique says nothing of the prompt: try the plan's prompt once, then end."""
        if self.only_incomplete or len(attempts) > 1 or plan.plan is None:
            return Stop(reason=CRITIC_UNREADABLE)
        prompt = _compiled(scenario, attempts, plan.plan)
        return Stop(reason=PROMPT_UNCHANGED) if self._known(prompt, attempts) else prompt

    def _revise(
        self, scenario: Scenario, plan: PlanReply, critique: Critique, attempts: Sequence[Attempt]
    ) -> Prompt | Stop:
        """The plan's prompt in round 1, then the revised plan's; a new seed if the prompt is not at fault."""
        source = plan.plan if len(attempts) == 1 and plan.plan is not None else critique.revised
        if source is not None:
            prompt = _compiled(scenario, attempts, source)
            if not self._known(prompt, attempts):
                return replace(prompt, seed=self._seed(scenario, attempts))
        elif len(attempts) == 1:
            return Stop(reason=NO_PLAN)
        if critique.fault not in (Fault.MODEL, Fault.NONE):
            return Stop(reason=PROMPT_UNCHANGED)
        return replace(attempts[-1].prompt, seed=self._seed(scenario, attempts))

    def _seed(self, scenario: Scenario, attempts: Sequence[Attempt]) -> int:
        """The scenario's seed for the brief text and the plan, to compare these two; then one for each take.

        A generator may read only the first tokens of a prompt: without a seed of its own, a revision of the
        tail would be the same take again.
        """
        base = scenario_seed(self.seed, scenario.id)
        return base if len(attempts) == 1 else base + len(attempts)

    def _known(self, prompt: Prompt, attempts: Sequence[Attempt]) -> bool:
        """Whether a take already had (nearly) this text."""
        return any(
            text_distance(a.prompt.text, prompt.text) < max(self.distance_threshold, 1e-9) for a in attempts
        )


def scenario_seed(run_seed: int, scenario_id: str) -> int:
    """32 bits of sha256 over both: the same for every order, subset and resumption of the scenarios."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}:{scenario_id}".encode()).digest()[:4])


def _compiled(scenario: Scenario, attempts: Sequence[Attempt], plan: PhysicsPlan) -> Prompt:
    return replace(
        attempts[-1].prompt,
        text=compile_prompt(scenario.text, plan),
        revision=max(a.prompt.revision for a in attempts) + 1,
        plan=plan,
    )


_Key = tuple[bool, bool, float, bool, float, bool]
_UNSCORED: _Key = (False, False, 0.0, False, 0.0, True)


def _champion_key(attempt: Attempt, mean_rank: float | None) -> _Key:
    """Larger is better. Each score is preceded by whether it exists: a missing one is below every number."""
    score = _score(attempt)
    return (
        _accepted(attempt),
        score is not None,
        0.0 if score is None else score,
        mean_rank is not None,
        0.0 if mean_rank is None else -mean_rank,
        attempt.prompt.plan is not None,  # of equals, the take that was told the physics
    )


def _score(attempt: Attempt) -> float | None:
    return None if attempt.critique is None else attempt.critique.score


def _accepted(attempt: Attempt) -> bool:
    return attempt.critique is not None and attempt.critique.verdict is Verdict.ACCEPT


def _mean_ranks(attempts: Sequence[Attempt]) -> list[float | None]:
    """Mean over the selectors of each take's rank, 0 is best, equal scores share a rank; None: not scored."""
    names = sorted({name for attempt in attempts for name in attempt.selector_scores})
    ranks: list[float | None] = []
    for attempt in attempts:
        own = [
            sum(other.selector_scores.get(name, score) > score for other in attempts)
            for name, score in attempt.selector_scores.items()
        ]
        ranks.append(sum(own) / len(names) if names and len(own) == len(names) else None)
    return ranks
