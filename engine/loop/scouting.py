"""The scout loop of one scenario: many looks, the best of them finished, that one judged. Read top to bottom.

Begins tasks and yields those that it waits for, as `engine.loop.scenario`. Invariants: what was stored is
never stored again; at most two batches of looks are in the making, one denoised and one written.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
    differ: Callable[[Sequence[Attempt]], NDArray[np.float32]]
    """How much they differ, [T, y, x] as `engine.video.differences`, from what was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writing:
    """A look whose preview is being written; `scout_s` is its share of what its batch took."""

    look: Scout
    written: Task[Path]
    scout_s: float


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
        writing: list[_Writing] = []
        place = len(self.made)
        for batch in self.by.policy.batches(number, stage, left):
            if number == 0 and batch[0] >= self.by.policy.num_first(2):  # that may be the plan's
                yield from self.loop.planned()
                prompts = self.by.policy.prompts(self.loop.scenario, self.loop.reply)
            asked: list[Scout] = []
            for candidate in batch:
                prompt = self.by.policy.candidate(self.loop.scenario, number, candidate, prompts)
                asked.append(self._look(number, stage, candidate, prompt, place + len(asked)))
            place += len(asked)
            stored = [self._stored(look) for look in asked]
            looks += [look for look in stored if look is not None]
            shown = [index for index, look in enumerate(stored) if look is None]
            if not shown:
                continue
            made = self.begin(self._denoised(asked, shown))
            yield [made, *(one.written for one in writing)]
            looks += self._keep(writing)
            writing = self._written([asked[index] for index in shown], made, made.seconds / len(asked))
        yield [one.written for one in writing]
        looks += self._keep(writing)
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

    def _denoised(self, looks: Sequence[Scout], shown: Sequence[int]) -> Task[Any]:
        """All of a batch, of which `shown` are decoded: company is the same after an interruption."""
        generator, scenario, form = self.by.generator, self.loop.scenario, looks[0].form
        start: Callable[[], Any] = partial(generator.scout, scenario, looks[0].prompt, form)
        if form.together > 1:
            start = partial(generator.scouts, scenario, [look.prompt for look in looks], form, tuple(shown))
        return self.loop.task(GENERATE, "scout", looks[shown[0]].number, start)

    def _written(self, looks: Sequence[Scout], made: Task[Any], seconds: float) -> list[_Writing]:
        """`seconds` of each. Frames are the previews' alone, and freed with them."""
        claimed = made.claim()
        videos: list[Video] = list(claimed) if looks[0].form.together > 1 else [claimed]
        found = []
        for look in looks:
            work = partial(self.by.preview, self.loop.scenario, look.number, videos.pop(0))
            written = self.begin(self.loop.task(ENCODE, "preview", look.number, work))
            found.append(_Writing(look=look, written=written, scout_s=seconds))
        return found

    def _keep(self, writing: Sequence[_Writing]) -> list[Scout]:
        looks = []
        for one in writing:
            timings = {"scout": one.scout_s, one.written.name: one.written.seconds}
            looks.append(replace(one.look, video_path=one.written.claim(), timings=timings))
            self.loop.by.sink.scout(self.loop.scenario.id, looks[-1])
        return looks

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
        also = []
        if there < len(finalists) and self.by.policy.settings.finish_restarts:
            also.append((yield from self._restarts(number)))
        for sample in range(there, len(finalists)):
            look = finalists[sample]
            start = partial(self.by.generator.finish, loop.scenario, look.prompt, look.form, *also)
            yield from loop.take(self.begin, look.prompt, number, sample, start)
        if loop.attempts[-1].round == number:
            yield from loop.compare_and_judge(self.begin)

    def _restarts(self, number: int) -> Waiting:
        """Where the last looks of this round disagree: from their previews, which a later process has too."""
        round_looks = [look for look in self.made if look.round == number]
        last = [look for look in round_looks if look.stage == round_looks[-1].stage]
        work = partial(self.by.differ, [look.as_attempt() for look in last])
        compared: Task[Any] = self.begin(self.loop.task(SELECT, "differ", last[-1].number, work))
        yield [compared]
        return self.by.policy.restarts(compared.claim())


def _place(look: Scout) -> int:
    assert look.place is not None, "it was compared"
    return look.place
