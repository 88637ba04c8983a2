"""The scout loop as pure functions: candidates of a round, who goes on, another round or why there is none.

Knows no model and no clock. A candidate is a prompt with a seed; it is looked at in stages, each of twice the
steps of the one before and for half as many. Invariants: candidates depend on scenario, seed and what was
said of earlier rounds, never on the order of scenarios; of equals the earlier candidate is before the later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.loop.policy import (
    ACCEPTED,
    CRITIC_UNREADABLE,
    LOOPS,
    NO_GAIN,
    NO_IMPROVEMENT,
    PROMPT_UNCHANGED,
    RefinementPolicy,
    accepted,
    critic_score,
    scenario_seed,
    told_plan,
    winners,
)
from engine.loop.prompting import text_distance
from engine.loop.ranking import mean_ranks
from engine.types import (
    Attempt,
    Critique,
    Fault,
    PlanReply,
    Prompt,
    Restarts,
    Scenario,
    Scout,
    ScoutForm,
    Stop,
    Verdict,
)
from engine.words import counted

if TYPE_CHECKING:
    from engine.settings.config import LoopConfig

NOT_CALIBRATED = "gain of a round not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoutPolicy:
    """`refinement` has the settings of the loop, chooses among takes and knows what a round gains."""

    refinement: RefinementPolicy

    @property
    def settings(self) -> LoopConfig:
        return self.refinement.settings

    @property
    def forms(self) -> tuple[ScoutForm, ...]:
        """Of each stage."""
        return forms_of(self.settings)

    def num_in(self, stage: int) -> int:
        """How many candidates a stage looks at; behind the last one, how many become takes."""
        if stage == len(self.forms):
            return self.settings.finalists
        return math.ceil(self.settings.scouts / (1 << stage))

    def num_first(self, num_prompts: int) -> int:
        """How many candidates have the first prompt of a round; the others have the second."""
        return math.ceil(self.settings.scouts / num_prompts)

    def batches(self, number: int, stage: int, left: Sequence[int]) -> list[list[int]]:
        """Which candidates of a stage share a forward. Company may change the last bits of a look, so it
        follows from the scenario alone, and not from what is stored already; sizes differ by one at most.

        The first ones of the brief text share none with those that wait for the plan.
        """
        border = self.num_first(2) if number == stage == 0 else 0
        parts = [candidate for candidate in left if candidate < border], [c for c in left if c >= border]
        return [batch for part in parts for batch in _evenly(part, self.settings.scout_batch)]

    def restarts(self, differ: NDArray[np.float32]) -> Restarts:
        """Of a take whose last scouts `differ` so much."""
        given = self.settings
        return Restarts(
            times=given.finish_restarts, steps=given.restart_steps, share=given.restart_share, differ=differ
        )

    def prompts(self, scenario: Scenario, plan: PlanReply | None) -> tuple[Prompt, ...]:
        """Of the first round: the brief text, and the plan's unless it says the same. None: not known yet."""
        brief = self.refinement.first(scenario)
        if plan is None or plan.plan is None:
            return (brief,)
        planned = told_plan(brief, scenario, plan.plan, revision=1)
        return (brief, planned) if self._differ(brief, planned) else (brief,)

    def candidate(self, scenario: Scenario, number: int, place: int, prompts: Sequence[Prompt]) -> Prompt:
        """Candidate `place` of round `number`. Both prompts have the same seeds, each round has its own."""
        num_first = self.num_first(len(prompts))
        which, sample = divmod(place, num_first)
        run_seed = self.settings.seed
        seed = scenario_seed(run_seed if sample == 0 else f"{run_seed}/{sample}", scenario.id)
        return replace(prompts[which], seed=seed + (number + 1 if number else 0))

    def ranked(self, scouts: Sequence[Scout], scores: Sequence[Mapping[str, float]]) -> list[Scout]:
        """Those of one stage with scores, places, and whether each goes on."""
        ranks = mean_ranks(scores)
        order = sorted(
            range(len(scouts)), key=lambda i: (ranks[i] is None, ranks[i] or 0.0, scouts[i].candidate)
        )
        places = {position: place for place, position in enumerate(order)}
        num_kept = self.num_in(scouts[0].stage + 1)
        return [
            replace(scout, scores=dict(entry), place=places[position], kept=places[position] < num_kept)
            for position, (scout, entry) in enumerate(zip(scouts, scores, strict=True))
        ]

    def next(
        self, scenario: Scenario, plan: PlanReply, attempts: Sequence[Attempt]
    ) -> tuple[Prompt, ...] | Stop:
        """The prompts of another round, the revised one and the champion's, or why there is none.

        attempts: those so far, of which each round's winner is critiqued.
        """
        rounds = winners(attempts)
        last, champion = rounds[-1], self.refinement.choose(attempts)
        score = critic_score(last)
        if accepted(last) and score is not None and score >= self.settings.accept_score:
            return Stop(reason=ACCEPTED)
        if len(rounds) > self.settings.loops:
            return Stop(reason=LOOPS)
        if last.round - attempts[champion].round >= self.settings.patience:
            return Stop(reason=NO_IMPROVEMENT)
        if last.critique is None or last.critique.verdict is Verdict.UNREADABLE:
            return Stop(reason=CRITIC_UNREADABLE)
        if self.refinement.gain is None:
            return Stop(reason=NOT_CALIBRATED)
        if self.refinement.gain.of_another(attempts, champion) <= 0.0:
            return Stop(reason=NO_GAIN)
        return self._revised(scenario, last.critique, rounds, attempts[champion].prompt)

    def _revised(
        self, scenario: Scenario, critique: Critique, rounds: Sequence[Attempt], champion: Prompt
    ) -> tuple[Prompt, ...] | Stop:
        if critique.revised is not None:
            revision = max(a.prompt.revision for a in rounds) + 1
            revised = told_plan(champion, scenario, critique.revised, revision=max(revision, 2))
            if all(self._differ(a.prompt, revised) for a in rounds):
                return revised, champion
        if critique.fault in (Fault.MODEL, Fault.NONE):
            return (champion,)
        return Stop(reason=PROMPT_UNCHANGED)

    def _differ(self, one: Prompt, other: Prompt) -> bool:
        return text_distance(one.text, other.text) >= max(self.settings.distance_threshold, 1e-9)


def _evenly(candidates: Sequence[int], most: int) -> list[list[int]]:
    num = math.ceil(len(candidates) / most)
    ends = [index * len(candidates) // num for index in range(num + 1)] if num else []
    return [list(candidates[start:end]) for start, end in pairwise(ends)]


def forms_of(settings: LoopConfig) -> tuple[ScoutForm, ...]:
    """Of each stage: twice the steps of the one before."""
    return tuple(
        ScoutForm(
            steps=settings.scout_steps << stage,
            whole=settings.scout_form == "whole",
            stills=settings.scout_decode == "stills",
            kept=settings.scout_kept,
            together=settings.scout_batch,
            shrink=settings.scout_shrink,
        )
        for stage in range(settings.scout_halvings + 1)
    )


def finished_from(scouts: Sequence[Scout], attempt: Attempt) -> list[Scout]:
    """The looks at the candidate that became this take, the first one first; nothing where none did."""
    looks = [s for s in scouts if s.round == attempt.round and s.prompt == attempt.prompt]
    return sorted(looks, key=lambda scout: scout.stage)


def why_finished(scouts: Sequence[Scout], attempt: Attempt) -> str:
    """Why it was this candidate that became the take, in words; empty where it was none."""
    said = []
    for look in finished_from(scouts, attempt):
        if look.place is None:
            continue
        beside = [s for s in scouts if (s.round, s.stage) == (look.round, look.stage)]
        names = ", ".join(f"{name} {value:.3g}" for name, value in look.scores.items()) or "no chooser"
        said.append(
            f"place {look.place + 1} of {len(beside)} after {counted(look.form.steps, 'step')} by {names}"
        )
    return f"scout {finished_from(scouts, attempt)[0].candidate}: {'; '.join(said)}" if said else ""
