"""The refinement loop as pure functions: takes of a round, next prompt or reason to stop, the champion.

Knows no model and no clock. A round is one prompt text, its samples differ in their seed. Invariants: at most
`loops` + 1 rounds; a take of lower order never replaces the champion; a missing score is never treated as a
number; seeds do not depend on the order of scenarios.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from engine.loop.expected_gain import EXPECTED_GAIN, GainModel, plans_take
from engine.loop.prompting import compile_prompt, text_distance
from engine.loop.ranking import mean_ranks
from engine.types import (
    Attempt,
    Critique,
    Fault,
    PhysicsPlan,
    PlanReply,
    Prompt,
    Restarts,
    Scenario,
    Stop,
    Verdict,
)
from engine.words import counted

if TYPE_CHECKING:
    from engine.settings.config import LoopConfig

ACCEPTED = "accepted"
LOOPS = "loops"
NO_IMPROVEMENT = "no improvement"
PROMPT_UNCHANGED = "prompt unchanged"
PROMPT_COMPLETE = "prompt complete"
CRITIC_UNREADABLE = "critic unreadable"
NO_PLAN = "no readable plan"
NO_GAIN = "no gain expected"

CRITIC_SCORE = "critic_score"
"""The one selector that needs no look at the take: the critique is there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinementPolicy:
    """Round 0 is the brief text, round 1 the physics-aware plan, later ones follow the last critique.

    A loop that begins with the plan has no round 0.
    """

    settings: LoopConfig
    negative: str
    gain: GainModel | None = None
    """Chooses the champion, and says whether another round is worth its take, where it was fitted for these
    models; else `choose_take`'s rules do, and rounds are made until one of the limits is reached."""

    @property
    def video_selectors(self) -> tuple[str, ...]:
        """The selectors that look at the takes. Where there is one, takes are chosen by ranks."""
        return _video_selectors(self.settings.compared_by)

    @property
    def judges_every_take(self) -> bool:
        """Whether each take is critiqued. Else selectors choose the winner of a round, and only it is."""
        return self.settings.takes_a_round == 1 or not self.video_selectors

    @property
    def restarts(self) -> Restarts | None:
        """Of takes that no scouts were made of, in all of the picture and its time."""
        given = self.settings
        if not given.finish_restarts:
            return None
        everywhere = np.ones((1, 1, 1), np.float32)
        return Restarts(times=given.finish_restarts, steps=given.restart_steps, share=1.0, differ=everywhere)

    @property
    def begins_with_plan(self) -> bool:
        """Whether `opening` says what is told first, once the plan is there."""
        return first_prompt(self.settings, self.gain) == "plan"

    def opening(self, scenario: Scenario, plan: PlanReply) -> tuple[int, Prompt]:
        """Number and prompt of the round that a loop begins with: the plan's, with the seed of the brief
        text's take; of a plan that cannot be read, the brief text's."""
        brief = self.first(scenario)
        if plan.plan is None:
            return 0, brief
        return 1, told_plan(brief, scenario, plan.plan, revision=1)

    def first(self, scenario: Scenario) -> Prompt:
        """The brief text of the benchmark with the scenario's own seed."""
        return Prompt(
            text=scenario.text,
            negative=self.negative,
            seed=scenario_seed(self.settings.seed, scenario.id),
            revision=0,
        )

    def sample(self, scenario: Scenario, attempts: Sequence[Attempt]) -> Prompt | None:
        """The prompt of the next take of the round under way; None once the round is full.

        Sample 0 has the seed of a run with one sample. Each other one has a seed of its own, which the brief
        text and the plan share, as they share sample 0's.
        """
        if not attempts:
            return self.first(scenario)
        begun = [attempt for attempt in attempts if attempt.round == attempts[-1].round]
        if len(begun) >= self.settings.takes_a_round:
            return None
        base = scenario_seed(f"{self.settings.seed}/{len(begun)}", scenario.id)
        return replace(begun[0].prompt, seed=base + seed_offset(begun[0].round))

    def next(self, scenario: Scenario, plan: PlanReply, attempts: Sequence[Attempt]) -> Prompt | Stop:
        """The prompt of the next round, or why there is none. Needs at least round 0, complete and critiqued.

        An accepted take of the brief text ends nothing yet: the physics-aware prompt is step 1 of the method,
        so its take is always made and compared. After a take that is accepted with a low score another one
        is made.
        """
        assert attempts, "the first prompt comes from `sample`"
        rounds = winners(attempts)
        critique = rounds[-1].critique
        if self._settled(rounds, plan):
            return Stop(reason=ACCEPTED)
        if len(rounds) > self.settings.loops:
            return Stop(reason=LOOPS)
        champion = self.choose(attempts)
        if rounds[-1].round - attempts[champion].round >= self.settings.patience:
            return Stop(reason=NO_IMPROVEMENT)
        if self._no_gain(attempts, champion):
            return Stop(reason=NO_GAIN)
        if critique is None or critique.verdict is Verdict.UNREADABLE:
            return self._without_critique(scenario, plan, rounds)
        if self.settings.only_incomplete and critique.fault is not Fault.MISSING_CLUES:
            return Stop(reason=PROMPT_COMPLETE)
        return self._revise(scenario, plan, critique, rounds)

    def _no_gain(self, attempts: Sequence[Attempt], champion: int) -> bool:
        """Whether a revised prompt is not expected to beat the champion. The plan's take is always made."""
        if self.gain is None or all(attempt.prompt.plan is None for attempt in attempts):
            return False
        return self.gain.of_another(self.scored(attempts), champion) <= 0.0

    def _settled(self, rounds: Sequence[Attempt], plan: PlanReply) -> bool:
        if not accepted(rounds[-1]):
            return False
        if self.settings.only_incomplete:
            return True
        score = critic_score(rounds[-1])
        sure = score is not None and score >= self.settings.accept_score
        return sure and (rounds[-1].round > 0 or plan.plan is None)

    def winner(self, attempts: Sequence[Attempt]) -> int:
        """The take of the last round to be critiqued: the best mean rank there, of equals the earlier."""
        positions = [i for i, attempt in enumerate(attempts) if attempt.round == attempts[-1].round]
        looked = [
            {
                name: score
                for name, score in attempts[i].selector_scores.items()
                if name in self.video_selectors
            }
            for i in positions
        ]
        ranks = mean_ranks(looked)
        keys = [(rank is None, rank or 0.0, i) for rank, i in zip(ranks, positions, strict=True)]
        return min(keys)[-1]

    def scored(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """With all scores by name, the critic's and the expected gain among them; a missing one is absent."""
        names = self.settings.compared_by
        found = [replace(attempt, selector_scores=_scores(attempt, names)) for attempt in attempts]
        return found if self.gain is None else self.gain.noted(found)

    def no_choice(self, attempts: Sequence[Attempt]) -> str | None:
        """Why none of a finished scenario's takes is to be chosen, None where `choose` says which one is."""
        unread = all(a.critique is None or a.critique.verdict is Verdict.UNREADABLE for a in attempts)
        looked = any(name in self.video_selectors for a in attempts for name in a.selector_scores)
        if self.settings.unreadable != "leave" or looked or not unread:
            return None
        problems = [a.critique.problem for a in attempts if a.critique is not None and a.critique.problem]
        why = f", the last one for: {problems[-1]}" if problems else ""
        return (
            f"no reply of the critic could be read{why}; so none of {counted(len(attempts), 'take')} was "
            "judged: choose one with `retake choose`"
        )

    def choose(self, attempts: Sequence[Attempt]) -> int:
        """The champion, see `choose_take`."""
        return choose_take(self.scored(attempts), self.settings.compared_by)

    def _without_critique(
        self, scenario: Scenario, plan: PlanReply, rounds: Sequence[Attempt]
    ) -> Prompt | Stop:
        """An unreadable critique says nothing of the prompt: try the plan's prompt once, then end."""
        if self.settings.only_incomplete or rounds[-1].round > 0 or plan.plan is None:
            return Stop(reason=CRITIC_UNREADABLE)
        prompt = self._compiled(scenario, rounds, plan.plan)
        return Stop(reason=PROMPT_UNCHANGED) if self._known(prompt, rounds) else prompt

    def _revise(
        self, scenario: Scenario, plan: PlanReply, critique: Critique, rounds: Sequence[Attempt]
    ) -> Prompt | Stop:
        """The plan's prompt in round 1, then the revised plan's; a new seed if the prompt is not at fault."""
        is_brief = rounds[-1].round == 0
        source = plan.plan if is_brief and plan.plan is not None else critique.revised
        if source is not None:
            prompt = self._compiled(scenario, rounds, source)
            if not self._known(prompt, rounds):
                return prompt
        elif is_brief:
            return Stop(reason=NO_PLAN)
        if critique.fault not in (Fault.MODEL, Fault.NONE):
            return Stop(reason=PROMPT_UNCHANGED)
        return replace(rounds[-1].prompt, seed=self._seed(scenario, rounds))

    def _compiled(self, scenario: Scenario, rounds: Sequence[Attempt], plan: PhysicsPlan) -> Prompt:
        like = replace(rounds[-1].prompt, seed=self._seed(scenario, rounds))
        return told_plan(like, scenario, plan, revision=max(a.prompt.revision for a in rounds) + 1)

    def _seed(self, scenario: Scenario, rounds: Sequence[Attempt]) -> int:
        """The scenario's seed for the brief text and the plan, to compare these two; then one for each round.

        A generator may read only the first tokens of a prompt: without a seed of its own, a revision of the
        tail would be the same take again.
        """
        return scenario_seed(self.settings.seed, scenario.id) + seed_offset(rounds[-1].round + 1)

    def _known(self, prompt: Prompt, rounds: Sequence[Attempt]) -> bool:
        """Whether a round already had (nearly) this text."""
        threshold = max(self.settings.distance_threshold, 1e-9)
        return any(text_distance(a.prompt.text, prompt.text) < threshold for a in rounds)


def told_plan(like: Prompt, scenario: Scenario, plan: PhysicsPlan, *, revision: int) -> Prompt:
    """The prompt of a plan, in all else as the one that it is `like`."""
    return replace(like, text=compile_prompt(scenario.text, plan), revision=revision, plan=plan)


def first_prompt(settings: LoopConfig, gain: GainModel | None) -> str:
    """brief or plan; by itself the plan's only where it is surely the better one, since else both are made
    and compared."""
    if settings.first_prompt != "auto":
        return settings.first_prompt
    return "plan" if gain is not None and gain.of_plan() > 0.0 else "brief"


def choose_take(attempts: Sequence[Attempt], selectors: Sequence[str]) -> int:
    """The champion: accepted, then critic's score, mean rank, a plan's prompt, the earlier.

    Where takes have an expected gain, the largest comes before all that; it has these others in it.
    Where a named selector looks at the takes, the mean rank over all named ones comes before the rest. A
    take that lacks a score which others have has no rank and stands behind those: where `critic_score` is
    named among them, one of the critiqued takes is chosen.
    Where nothing was scored, the last round of a plan's prompt; where there is none of those, attempt 0.
    """
    assert attempts, "a champion needs at least one attempt"
    if any(EXPECTED_GAIN in attempt.selector_scores for attempt in attempts):
        gains = [attempt.selector_scores.get(EXPECTED_GAIN, -math.inf) for attempt in attempts]
        return max(range(len(attempts)), key=lambda i: (gains[i], i == plans_take(attempts), -i))
    keys = _champion_keys(attempts, selectors)
    if keys:
        return max(range(len(attempts)), key=lambda index: (keys[index], -index))
    told = [attempt for attempt in attempts if attempt.prompt.plan is not None]
    return max(told, key=lambda a: (a.round, -a.sample, a.index)).index if told else 0


def why_chosen(attempts: Sequence[Attempt], chosen: int) -> str:
    """In what the champion of a finished scenario was better than the next best take, in words.

    The selectors are those whose scores the takes carry. Of a take that other rules chose it says so.
    """
    selectors = tuple(dict.fromkeys(name for attempt in attempts for name in attempt.selector_scores))
    if len(attempts) == 1:
        return "the only take"
    if EXPECTED_GAIN in selectors:
        return _why_expected(attempts, chosen)
    keys = _champion_keys(attempts, selectors or (CRITIC_SCORE,))
    if not keys:
        told = attempts[chosen].prompt.plan is not None
        return f"no take was scored: {'the last of a plan' if told else 'the first'}"
    best = max(key for index, key in enumerate(keys) if index != chosen)
    ranked = f"best mean rank by {', '.join(selectors)}"
    reasons = [
        "the only one accepted",
        "the only one scored",
        "best critic score",
        ranked,
        ranked,
        "the plan's prompt",
    ]
    if _video_selectors(selectors):
        reasons = [ranked, ranked, *reasons]
    if keys[chosen] < best:
        return "by rules of another version"
    pairs = zip(reasons, keys[chosen], best, strict=True)
    return next((reason for reason, own, other in pairs if own != other), "the earliest of equals")


def _why_expected(attempts: Sequence[Attempt], chosen: int) -> str:
    if chosen != choose_take(attempts, ()):
        return "by rules of another version"
    gain = attempts[chosen].selector_scores[EXPECTED_GAIN]
    base = "the plan's take" if any(attempt.prompt.plan for attempt in attempts) else "the first take"
    if chosen == plans_take(attempts):
        return f"{base}, and no other is surely better"
    return f"expected to score {gain:.1f} points or more above {base}"


def _champion_keys(attempts: Sequence[Attempt], selectors: Sequence[str]) -> list[_Key]:
    """Of each attempt; none where nothing was scored."""
    ranks = mean_ranks([_scores(attempt, selectors) for attempt in attempts])
    keys = [_champion_key(attempt, rank) for attempt, rank in zip(attempts, ranks, strict=True)]
    if not any(key > _UNSCORED for key in keys):
        return []
    if not _video_selectors(selectors):
        return keys
    return [(*_rank_key(rank), *key) for rank, key in zip(ranks, keys, strict=True)]


def winners(attempts: Sequence[Attempt]) -> list[Attempt]:
    """One take of each round: the critiqued one, the best of these where all were, else the first."""
    found = []
    for _, group in groupby(attempts, key=lambda attempt: attempt.round):
        takes = list(group)
        judged = [take for take in takes if take.critique is not None] or takes[:1]
        found.append(max(judged, key=lambda take: (_champion_key(take, None), -take.sample)))
    return found


def scenario_seed(run_seed: int | str, scenario_id: str) -> int:
    """32 bits of sha256 over both: the same for every order, subset and resumption of the scenarios."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}:{scenario_id}".encode()).digest()[:4])


def seed_offset(round_number: int) -> int:
    return 0 if round_number <= 1 else round_number


_Key = tuple[float, ...]
_UNSCORED: _Key = (False, False, 0.0, False, 0.0, True)


def _champion_key(attempt: Attempt, mean_rank: float | None) -> _Key:
    """Larger is better. Each score is preceded by whether it exists: a missing one is below every number."""
    score = critic_score(attempt)
    return (
        accepted(attempt),
        score is not None,
        0.0 if score is None else score,
        *_rank_key(mean_rank),
        attempt.prompt.plan is not None,  # of equals, the take that was told the physics
    )


def _rank_key(mean_rank: float | None) -> _Key:
    return (mean_rank is not None, 0.0 if mean_rank is None else -mean_rank)


def _video_selectors(selectors: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in selectors if name != CRITIC_SCORE)


def _scores(attempt: Attempt, selectors: Sequence[str]) -> dict[str, float]:
    own = critic_score(attempt) if CRITIC_SCORE in selectors else None
    return {**attempt.selector_scores, **({} if own is None else {CRITIC_SCORE: own})}


def critic_score(attempt: Attempt) -> float | None:
    return None if attempt.critique is None else attempt.critique.score


def accepted(attempt: Attempt) -> bool:
    return attempt.critique is not None and attempt.critique.verdict is Verdict.ACCEPT
