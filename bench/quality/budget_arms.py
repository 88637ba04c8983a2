"""What each way to spend a budget would have chosen of one scene's candidates, and what it would have cost.

Pure functions over known scores: opens no file. A budget is a multiple of the cost of a single take. A scout
that is finished is the take of its candidate, so a loop of scouts ends at a score that is known. Best-of-N
has N takes for N budgets and is given plan, choosing and critiques for nothing: what is compared with it is
not flattered. The paper's loop, the take of the plan alone and the scouts pay for all they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from bench.quality.candidate_pool import Key
from engine.denoise.beginnings import steps_kept
from engine.loop.policy import CRITIC_SCORE
from engine.loop.ranking import mean_ranks
from engine.types import ScoutForm
from engine.words import counted

BUDGETS: Final = (1, 2, 4, 8)
BOTH, BRIEF, PLAN = "both", "brief", "plan"
PLAN_FIRST: Final = "plan first"
"""The loop that begins with the plan and expects nothing of a second take: one take, judged."""
ORACLE_TAKES: Final = 8
"""Of the bound that shares are of: the best of so many takes, half of them of each prompt."""
Choosers = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds. `start_s`: encoding texts and prefix; `chooser_s`: by chooser, of one take or look;
    `look_step_s`: of looks that are smaller than takes, None: there are none."""

    take_steps: int
    start_s: float
    step_s: float
    decode_s: float
    look_decode_s: float
    plan_s: float
    critique_s: float
    chooser_s: Mapping[str, float]
    look_step_s: float | None = None

    @property
    def take_s(self) -> float:
        return self.start_s + self.take_steps * self.step_s + self.decode_s

    def choosing_s(self, choosers: Choosers) -> float:
        """Of one take or look."""
        return sum(self.chooser_s.get(name, 0.0) for name in choosers)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTake:
    """Of the paper's loop: its score, and which of the takes so far the loop would choose."""

    value: float
    chosen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """`values`: case scores in percent, of takes and of looks that can be scored. `scores`: of these clips by
    chooser, each seen beside the others."""

    name: str
    category: str
    kind: str
    num_prompts: int
    values: Mapping[Key, float]
    looks: tuple[Key, ...]
    scores: Callable[[tuple[Key, ...]], Sequence[Mapping[str, float]]]
    paper: tuple[PaperTake, ...] = ()

    @property
    def num_samples(self) -> int:
        return 1 + max(key.sample for key in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoutPlan:
    """How scouts are spent; how many there are follows from the budget."""

    steps: int
    whole: bool
    halvings: int
    finalists: int
    choosers: Choosers
    kept: float = 0.0  # share of a take's steps that its last look stands for
    again: int = 0  # how often a take takes its first steps again
    again_steps: int = 0  # that each time takes
    shrink: int = 1  # what the sides of a take are divided by for looks

    @property
    def name(self) -> str:
        form = ("whole" if self.whole else "first") + (f" 1/{self.shrink}" if self.shrink > 1 else "")
        halved = f" halved {self.halvings}x" if self.halvings else ""
        ends = f" {self.finalists} finished" if self.finalists > 1 else ""
        kept = f" kept {round(100 * self.kept)} %" if self.kept else ""
        again = f" {self.again}x {counted(self.again_steps, 'step')} again" if self.again else ""
        return f"scouts {self.steps} {form}{halved}{kept}{again}{ends} by {'+'.join(self.choosers)}"

    def stages(self, num: int) -> list[tuple[int, int]]:
        """Of so many scouts, (steps, looks) of each stage."""
        return [(self.steps << stage, math.ceil(num / (1 << stage))) for stage in range(self.halvings + 1)]

    def cost_s(self, num: int, costs: Costs) -> float:
        """With the plan, all looks and what compares them, the takes, and one critique."""
        total, known = costs.plan_s + costs.critique_s, 0
        for steps, looks in self.stages(num):
            taken = steps if self.whole else steps - known
            each = costs.start_s + taken * self._look_step_s(costs) + costs.look_decode_s
            total += looks * (each + costs.choosing_s(self.choosers))
            known = steps
        form = ScoutForm(steps=known, whole=self.whole, kept=self.kept)
        taken = steps_kept(form, costs.take_steps) if self.whole else known
        left = costs.take_s + (self.again * self.again_steps - taken) * costs.step_s
        compared = costs.choosing_s(self.choosers) if self.finalists > 1 else 0.0
        return total + self.finalists * (left + compared)

    def _look_step_s(self, costs: Costs) -> float:
        if self.shrink == 1:
            return costs.step_s
        assert costs.look_step_s is not None, "costs are of looks of another size"
        return costs.look_step_s

    def num_affordable(self, budget_s: float, costs: Costs, most: int) -> int:
        """The most scouts within it, at least twice the finalists behind each halving; 0: there are none."""
        least = 2 * self.finalists << self.halvings
        found = 0
        for num in range(least, most + 1, 2):
            if self.cost_s(num, costs) <= budget_s:
                found = num
        return found

    def is_said(self, scene: Scene, steps: int) -> bool:
        """Whether every chooser has something to say of looks of so many steps: a probe of hidden states is
        of the steps that it was fitted on."""
        (said,) = scene.scores((Key(0, 0, steps, self.whole),))
        return all(name in said for name in self.choosers)

    def chosen(self, scene: Scene, num: int) -> float:
        """The score of the take that comes of so many scouts."""
        left = candidates(scene, num, BOTH)
        stages = self.stages(num)
        for stage, (steps, _) in enumerate(stages):
            looks = tuple(Key(key.which, key.sample, steps, self.whole) for key in left)
            kept = stages[stage + 1][1] if stage + 1 < len(stages) else self.finalists
            order = ranked(scene, looks, self.choosers)[:kept]
            left = sorted((look.take for look in order), key=left.index)
        takes = tuple(left)
        if self.kept or self.again:
            behind = stages[-1][0], self.whole, round(100 * self.kept), self.again
            takes = tuple(Key(key.which, key.sample, *behind) for key in left)
        return scene.values[takes[0] if len(takes) == 1 else ranked(scene, takes, self.choosers)[0]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What an arm came to: the score of its take, its cost in single takes, and of how many it was chosen."""

    value: float
    cost: float
    num: int


def combinations_of(names: Sequence[str]) -> list[Choosers]:
    """Every one alone, every pair, and all together."""
    sizes = sorted({1, 2, len(names)} & set(range(1, len(names) + 1)))
    return [chosen for size in sizes for chosen in combinations(names, size)]


def candidates(scene: Scene, num: int, prompts: str) -> list[Key]:
    """The first `num` takes of these prompts, as the loops make them; of both, half of each."""
    if scene.num_prompts == 1 or prompts == BRIEF:
        return [Key(0, sample) for sample in range(min(num, scene.num_samples))]
    if prompts == PLAN:
        return [Key(1, sample) for sample in range(min(num, scene.num_samples))]
    first = math.ceil(num / 2)
    found = [Key(0, sample) for sample in range(first)] + [Key(1, sample) for sample in range(num - first)]
    return [key for key in found if key in scene.values]


def ranked(scene: Scene, keys: tuple[Key, ...], choosers: Choosers) -> list[Key]:
    """The best first, by the mean of the ranks; of equals the earlier."""
    scores = [{name: entry[name] for name in choosers if name in entry} for entry in scene.scores(keys)]
    ranks = mean_ranks(scores)
    order = sorted(range(len(keys)), key=lambda i: (ranks[i] is None, ranks[i] or 0.0, i))
    return [keys[i] for i in order]


def oracle(scene: Scene, num: int = ORACLE_TAKES) -> float:
    return max(scene.values[key] for key in candidates(scene, num, BOTH))


def arms(
    scene: Scene, budget: int, costs: Costs, choosers: Sequence[str], plans: Sequence[ScoutPlan]
) -> dict[str, Spent]:
    """Of one scene by name: single, best of N, the paper's loop, scouts and the oracle at this budget."""
    single = scene.values[Key(0, 0)]
    found = {"single": Spent(value=single, cost=1.0, num=1)}
    for prompts in (BRIEF, PLAN, BOTH):
        takes = tuple(candidates(scene, budget, prompts))
        for by in combinations_of(choosers):
            if not all(name in scene.scores((Key(0, 0),))[0] for name in by):
                continue  # it says nothing of whole takes
            value = scene.values[ranked(scene, takes, by)[0]]
            judging = costs.critique_s if CRITIC_SCORE in by else 0.0
            extra = len(takes) * (costs.choosing_s(by) + judging) + (prompts != BRIEF) * costs.plan_s
            cost = (len(takes) * costs.take_s + extra) / costs.take_s
            found[f"best of {prompts} by {'+'.join(by)}"] = Spent(value=value, cost=cost, num=len(takes))
    if scene.paper:
        found["paper"] = paper(scene, budget, costs)
    opened = 1.0 + (costs.plan_s + costs.critique_s) / costs.take_s
    if opened <= budget:
        take = Key(1, 0) if scene.num_prompts > 1 else Key(0, 0)
        found[PLAN_FIRST] = Spent(value=scene.values[take], cost=opened, num=1)
    for plan in plans:
        most = scene.num_samples * scene.num_prompts
        num = plan.num_affordable(budget * costs.take_s, costs, most)
        if num and all(plan.is_said(scene, steps) for steps, _ in plan.stages(num)):
            cost = plan.cost_s(num, costs) / costs.take_s
            found[plan.name] = Spent(value=plan.chosen(scene, num), cost=cost, num=num)
    found["oracle"] = Spent(value=oracle(scene, budget), cost=float(budget), num=budget)
    return found


def paper(scene: Scene, budget: int, costs: Costs) -> Spent:
    """As many takes of the loop as the budget has room for, at least the first; each is judged."""
    each = costs.take_s + costs.critique_s
    room = int((budget * costs.take_s - costs.plan_s) / each + 1e-9)
    num = max(1, min(room, len(scene.paper)))
    chosen = scene.paper[scene.paper[num - 1].chosen]
    return Spent(value=chosen.value, cost=(costs.plan_s + num * each) / costs.take_s, num=num)
