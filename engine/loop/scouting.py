"""The scout loop of one scenario: many looks, the best of them finished, that one judged. Read top to bottom.

Begins tasks and yields those that it waits for, as `engine.loop.scenario`. Invariants: what was stored is
never made again; at most two looks of a scenario are in the making, one denoised and one written.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.loop.lanes import ENCODE, GENERATE, SELECT, Task
from engine.loop.scout_policy import ScoutPolicy
from engine.protocols import ScoutingGenerator
from engine.types import Attempt, Prompt, Scenario, Scout, Stop, Video

if TYPE_CHECKING:
    from engine.loop.scenario import Begin, ScenarioLoop

Waiting = Generator[Sequence[Task[Any]], None, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scouts:
    """Who makes scouts and compares them."""

    policy: ScoutPolicy
    generator: ScoutingGenerator
    preview: Callable[[Scenario, int, Video], Path]
    """Writes what was decoded of a scout and returns its path relative to the run folder."""
    compare: Callable[[Scenario, Sequence[Attempt]], Sequence[Mapping[str, float]]]
    """Scores by chooser of each, from what was written."""


@dataclass(slots=True, kw_only=True, eq=False)
class Scouting:
    """One scenario's, on top of its `loop`, which takes, judges and ends."""

    loop: ScenarioLoop
    by: Scouts
    begin: Begin
    made: list[Scout] = field(default_factory=list)
    """So far, in their order; what is stored is taken from the past when its turn comes."""

    def run(self) -> Waiting:
        """Round by round; returns why there is no further one."""
        loop, policy = self.loop, self.by.policy
        number, prompts = 0, policy.prompts(loop.scenario, None)
        while True:
            finalists = yield from self._finalists(number, prompts)
            yield from self._takes(finalists, number)
            yield from loop.planned()
            so_far = [attempt for attempt in loop.attempts if attempt.round <= number]
            decision = policy.next(loop.scenario, loop.reply, so_far)
            if isinstance(decision, Stop):
                return decision.reason
            number, prompts = number + 1, decision

    def _finalists(self, number: int, prompts: Sequence[Prompt]) -> Waiting:
        """The candidates of this round that are finished, the best one first."""
        left = list(range(self.by.policy.num_in(0)))
        kept: list[Scout] = []
        for stage in range(len(self.by.policy.forms)):
            looks = yield from self._looks(number, stage, left, prompts)
            kept = sorted((look for look in looks if look.kept), key=_place)
            left = sorted(look.candidate for look in kept)
        return kept

    def _looks(self, number: int, stage: int, left: Sequence[int], prompts: Sequence[Prompt]) -> Waiting:
        """Make those of one stage, then compare them."""
        looks: list[Scout] = []
        pending: tuple[Scout, Task[Path], Task[Any]] | None = None
        for candidate in left:
            if number == 0 and candidate >= self.by.policy.num_first(2):  # that may be the plan's
                yield from self.loop.planned()
                prompts = self.by.policy.prompts(self.loop.scenario, self.loop.reply)
            prompt = self.by.policy.candidate(self.loop.scenario, number, candidate, prompts)
            look = self._look(
                number, stage, candidate, prompt, len(self.made) + len(looks) + (pending is not None)
            )
            if (stored := self._stored(look)) is not None:
                looks.append(stored)
                continue
            made: Task[Video] = self.begin(self._denoised(look))
            yield [made] if pending is None else [made, pending[1]]
            if pending is not None:
                looks.append(self._keep(*pending))
            pending = (look, self.begin(self._written(look, made.claim())), made)
        if pending is not None:
            yield [pending[1]]
            looks.append(self._keep(*pending))
        looks = yield from self._compared(sorted(looks, key=lambda look: look.number))
        self.made += looks
        return looks

    def _look(self, number: int, stage: int, candidate: int, prompt: Prompt, place: int) -> Scout:
        return Scout(
            number=place,
            round=number,
            stage=stage,
            candidate=candidate,
            prompt=prompt,
            form=self.by.policy.forms[stage],
            video_path=Path(),
            device=self.loop.by.device,
        )

    def _stored(self, look: Scout) -> Scout | None:
        same = (look.round, look.stage, look.candidate, look.prompt)
        found = (s for s in self.loop.past.scouts if (s.round, s.stage, s.candidate, s.prompt) == same)
        return next(found, None)

    def _denoised(self, look: Scout) -> Task[Video]:
        start = partial(self.by.generator.scout, self.loop.scenario, look.prompt, look.form)
        return self.loop.task(GENERATE, "scout", look.number, start)

    def _written(self, look: Scout, video: Video) -> Task[Path]:
        work = partial(self.by.preview, self.loop.scenario, look.number, video)
        return self.loop.task(ENCODE, "preview", look.number, work)

    def _keep(self, look: Scout, written: Task[Path], made: Task[Any]) -> Scout:
        timings = {task.name: task.seconds for task in (made, written)}
        look = replace(look, video_path=written.claim(), timings=timings)
        self.loop.by.sink.scout(self.loop.scenario.id, look)
        return look

    def _compared(self, looks: list[Scout]) -> Waiting:
        """With scores and places, which are stored together: each is seen beside the others."""
        if all(look.place is not None for look in looks):
            return looks
        work = partial(self.by.compare, self.loop.scenario, [look.as_attempt() for look in looks])
        compared: Task[Any] = self.begin(self.loop.task(SELECT, "rank", looks[-1].number, work))
        yield [compared]
        ranked = self.by.policy.ranked(looks, compared.claim())
        self.loop.by.sink.ranked(self.loop.scenario.id, ranked)
        return ranked

    def _takes(self, finalists: Sequence[Scout], number: int) -> Waiting:
        """Finish them; then one of them is judged."""
        loop = self.loop
        there = sum(attempt.round == number for attempt in loop.attempts)
        for sample in range(there, len(finalists)):
            look = finalists[sample]
            start = partial(self.by.generator.finish, loop.scenario, look.prompt, look.form)
            yield from loop.take(self.begin, look.prompt, number, sample, start)
        if loop.attempts[-1].round == number:
            yield from loop.compare_and_judge(self.begin)


def _place(look: Scout) -> int:
    assert look.place is not None, "it was compared"
    return look.place
