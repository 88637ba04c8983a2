"""The refinement loop of one scenario, from its plan to its outcome: the method, read from top to bottom.

Begins tasks and yields those that it waits for; knows no lane's mechanics, no stream, no thread and no other
scenario. Invariants: what was stored is never computed again, and what is finished is stored at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from engine.loop.lanes import CRITIQUE, ENCODE, GENERATE, SELECT, Task
from engine.loop.scouting import Scouting, Scouts
from engine.protocols import Critic, Policy, Sink
from engine.protocols import Generator as TakeGenerator
from engine.types import (
    SKIPPED,
    Attempt,
    Critique,
    History,
    Outcome,
    PlanReply,
    Prompt,
    Scenario,
    Stop,
    Video,
)

T = TypeVar("T")

Waits = Generator[Sequence[Task[Any]], None, Any]
"""The tasks that must be over before the loop goes on."""


class Begin(Protocol):
    """Queues a task; it is carried out whether or not anyone waits for it."""

    def __call__(self, task: Task[T]) -> Task[T]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Who works on a scenario. `select` and `read` are there where takes are chosen by looking at them."""

    generator: TakeGenerator
    critic: Critic
    policy: Policy
    sink: Sink
    encode: Callable[[Scenario, int, Video], Path]
    """Writes the video of one attempt and returns its path relative to the run folder."""
    select: Callable[[Scenario, Sequence[Attempt]], Sequence[Mapping[str, float]]] | None = None
    """Selector scores by name of each attempt, from the stored videos."""
    read: Callable[[Attempt], Video] | None = None
    """The stored video of an attempt."""
    scouts: Scouts | None = None
    """Of the scout loop; None for the paper's."""
    device: str | None = None
    """What the takes are made on, by its name."""

    def __post_init__(self) -> None:
        looks = self.select is not None and self.read is not None
        assert self.policy.judges_every_take or looks, "winners are chosen by looking at the takes"


@dataclass(slots=True, kw_only=True, eq=False)
class ScenarioLoop:
    """One scenario in the making. `past` is what earlier processes stored of it."""

    scenario: Scenario
    by: Components
    past: History = field(default_factory=History)
    attempts: list[Attempt] = field(default_factory=list)
    planning: Task[PlanReply] | None = None
    outcome: Outcome | None = None
    num_compared: int = 0

    def run(self, begin: Begin) -> Waits:
        """Round by round until the policy stops. A first round of the brief text is made while the critic
        still reads the prefix."""
        self.attempts = list(self.past.attempts)
        if self.past.plan is None:
            self.planning = self._plan(begin)
        scouts = self.by.scouts
        stopped = yield from (
            self._refined(begin) if scouts is None else Scouting(loop=self, by=scouts, begin=begin).run()
        )
        policy = self.by.policy
        self.attempts[:] = policy.scored(self.attempts)
        if (why := policy.no_choice(self.attempts)) is not None:
            self._end(failure=why, stopped=stopped)
        else:
            self._end(chosen=policy.choose(self.attempts), stopped=stopped)

    def _refined(self, begin: Begin) -> Waits:
        """The paper's loop; returns why it stopped."""
        policy, scenario, attempts = self.by.policy, self.scenario, self.attempts
        if not attempts and policy.begins_with_plan:
            yield from self.planned()
            number, prompt = policy.opening(scenario, self.reply)
            yield from self.take(begin, prompt, number, 0)
        while True:
            while (asked := policy.sample(scenario, attempts)) is not None:
                last = attempts[-1] if attempts else None
                place = (last.round, last.sample + 1) if last else (0, 0)
                yield from self.take(begin, asked, *place)
            yield from self.compare_and_judge(begin)
            yield from self.planned()
            decision = policy.next(scenario, self.reply, attempts)
            if isinstance(decision, Stop):
                return decision.reason
            yield from self.take(begin, decision, attempts[-1].round + 1, 0)

    def compare_and_judge(self, begin: Begin) -> Waits:
        """Selectors look at all takes so far, unless they did; the winner of the last round is judged."""
        if self.by.select is not None and self.num_compared < len(self.attempts):
            yield from self._compare(begin)
            self.num_compared = len(self.attempts)
        if not any(a.critique is not None for a in self.attempts if a.round == self.attempts[-1].round):
            yield from self._judge_winner(begin)

    def fail(self, failure: str) -> None:
        """End here; the attempts that are stored stay, and a later process may go on from them."""
        self._end(failure=failure)

    def skip(self) -> None:
        """End here since the user asks for it: the best of the takes that are stored is chosen."""
        policy, stopped = self.by.policy, SKIPPED
        self.attempts = attempts = policy.scored(self.attempts or list(self.past.attempts))
        if not attempts:
            self._end(failure="skipped by the user before a take was stored", stopped=stopped)
        elif (why := policy.no_choice(attempts)) is not None:
            self._end(failure=f"skipped by the user: {why}", stopped=stopped)
        else:
            self._end(chosen=policy.choose(attempts), stopped=stopped)

    def close(self) -> Outcome:
        """Store the outcome. An error of the store ends the run: nothing more could be kept."""
        assert self.outcome is not None, f"{self.scenario.id} has not ended"
        self.by.sink.outcome(self.outcome)
        return self.outcome

    def _plan(self, begin: Begin) -> Task[PlanReply]:
        start = partial(self.by.critic.plan, self.scenario)
        keep = partial(self.by.sink.plan, self.scenario.id)
        return begin(self.task(CRITIQUE, "plan", len(self.attempts), start, keep))

    def planned(self) -> Waits:
        """Until the plan is there."""
        if self.planning is not None and not self.planning.over:
            yield [self.planning]

    @property
    def reply(self) -> PlanReply:
        reply = self.past.plan if self.planning is None else self.planning.result
        assert reply is not None, "the plan was stored, or is over"
        return reply

    def take(
        self,
        begin: Begin,
        prompt: Prompt,
        round_number: int,
        sample: int,
        start: Callable[[], Any] | None = None,
    ) -> Waits:
        """Generate, by `start` where it is given; then encode and critique side by side; then store it."""
        index = len(self.attempts)
        start = start or self._start_of(prompt)
        generated: Task[Video] = begin(self.task(GENERATE, "generate", index, start))
        yield [generated]
        video = generated.claim()
        tasks = [self._encode(begin, index, video)]
        if self.by.policy.judges_every_take:
            yield from self.planned()
            tasks.append(self._critique(begin, index, prompt, video))
        del video  # freed with its last consumer
        yield tasks
        encoded, *judged = tasks
        attempt = Attempt(
            index=index,
            prompt=prompt,
            video_path=encoded.claim(),
            critique=judged[0].claim() if judged else None,
            round=round_number,
            sample=sample,
            timings={task.name: task.seconds for task in (generated, *tasks)},
            device=self.by.device,
        )
        self.by.sink.attempt(self.scenario.id, attempt)
        self.attempts.append(attempt)

    def _start_of(self, prompt: Prompt) -> Callable[[], Any]:
        generator: Any = self.by.generator  # one that takes steps again, where that is asked for
        restarts = self.by.policy.restarts
        given = {} if restarts is None else {"restarts": restarts}
        return partial(generator.start, self.scenario, prompt, **given)

    def _encode(self, begin: Begin, index: int, video: Video) -> Task[Any]:
        work = partial(self.by.encode, self.scenario, index, video)
        return begin(self.task(ENCODE, "encode", index, work))

    def _compare(self, begin: Begin) -> Waits:
        """Selector scores of all takes so far: each is seen beside the others."""
        assert self.by.select is not None, "there are selectors"
        work = partial(self.by.select, self.scenario, tuple(self.attempts))
        compared: Task[Any] = begin(self.task(SELECT, "select", self.attempts[-1].index, work))
        yield [compared]
        scores: Sequence[Mapping[str, float]] = compared.claim()
        assert all(math.isfinite(v) for entry in scores for v in entry.values()), f"selector gave {scores}"
        pairs = zip(self.attempts, scores, strict=True)
        self.attempts[:] = [replace(attempt, selector_scores=dict(entry)) for attempt, entry in pairs]

    def _judge_winner(self, begin: Begin) -> Waits:
        """The critic sees the stored take, as after an interruption: the takes of a round are not kept."""
        assert self.by.read is not None, "checked at construction"
        index = self.by.policy.winner(self.attempts)
        take = self.attempts[index]
        stored: Task[Video] = begin(self.task(SELECT, "read", index, partial(self.by.read, take)))
        yield [stored]
        yield from self.planned()
        judged = self._critique(begin, index, take.prompt, stored.claim())
        yield [judged]
        timings = {**take.timings, "critique": judged.seconds}
        take = replace(take, critique=judged.claim(), timings=timings)
        self.by.sink.judged(self.scenario.id, take)
        self.attempts[index] = take

    def _critique(self, begin: Begin, index: int, prompt: Prompt, video: Video) -> Task[Critique]:
        """It may say what it changes of the plan that the prompt was made of, at first the one of step 1."""
        plan = prompt.plan or self.reply.plan
        start = partial(self.by.critic.start, self.scenario, prompt, video, plan)
        return begin(self.task(CRITIQUE, "critique", index, start))

    def task(
        self,
        lane: str,
        name: str,
        attempt: int,
        start: Callable[[], Any],
        then: Callable[[Any], None] | None = None,
    ) -> Task[Any]:
        task: Task[Any] = Task(
            lane=lane, name=name, scenario_id=self.scenario.id, attempt=attempt, start=start
        )
        if then is not None:
            task.then = then
        return task

    def _end(
        self, *, chosen: int | None = None, failure: str | None = None, stopped: str | None = None
    ) -> None:
        self.outcome = Outcome(
            scenario_id=self.scenario.id,
            attempts=tuple(self.attempts),
            chosen=chosen,
            failure=failure,
            stopped=stopped,
        )
