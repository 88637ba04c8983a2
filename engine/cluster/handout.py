"""Who works at which scenario: longest expected first, to whoever has room; what a lost one held comes back.

Knows neither processes nor a store. Each call costs the logarithm of the number of scenarios at most.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence, Set
from statistics import fmean

from engine.types import Attempt, History, Scenario

MOST_LOSSES = 3
"""Workers that may be lost with a scenario in hand: from then on it is taken for the cause of it."""


Rank = tuple[float, float, int]
"""The lowest is next: minus the seconds expected, minus those of the prefix, the place in the dataset."""


def expected_s(scenario: Scenario, past: History, *, num_takes: int, take_s: float) -> float:
    """Seconds that a scenario still takes at most, as far as one knows: the takes that are left, each as long
    as its own so far, or else as `take_s`."""
    own = [seconds_of(attempt) for attempt in past.attempts if attempt.timings]
    return max(0, num_takes - len(past.attempts)) * (fmean(own) if own else take_s)


def seconds_of(attempt: Attempt) -> float:
    return sum(attempt.timings.values())


class HandOut:
    """The scenarios of a run that are not finished: those that wait, and those that a worker holds."""

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        history: Callable[[str], History],
        *,
        num_takes: int,
        most_each: int,
        num_workers: int,
    ) -> None:
        """history: what is stored of a scenario at the moment. num_takes: of a scenario, at most.
        most_each: scenarios that one worker holds at a time; of few, no more than its share of them."""
        self._all = {scenario.id: scenario for scenario in scenarios}
        self._order = {name: place for place, name in enumerate(self._all)}
        self._history = history
        self._num_takes, self._most_each, self._num_workers = num_takes, most_each, num_workers
        self._held: dict[int, set[str]] = {}
        self._num_held = 0
        self._losses: Counter[str] = Counter()
        self._waiting: list[tuple[Rank, str]] = []  # a heap
        past = {name: history(name) for name in self._all}
        known = [seconds_of(take) for one in past.values() for take in one.attempts if take.timings]
        self._take_s = fmean(known) if known else 1.0
        for name, one in past.items():
            self._line_up(name, one)

    @property
    def over(self) -> bool:
        return not self._waiting and not self._num_held

    def next(self, worker: int, paused: Set[str] = frozenset()) -> Scenario | None:
        """One more for this worker; None where none waits, or it has no room.

        paused: scenarios that are not handed out, and take no room where they were.
        """
        held = self._held.setdefault(worker, set())
        share = math.ceil((len(self._waiting) + self._num_held) / self._num_workers)
        if len(held - paused) >= min(self._most_each, share):
            return None
        left = []
        while self._waiting and self._waiting[0][1] in paused:
            left.append(heapq.heappop(self._waiting))
        found = heapq.heappop(self._waiting)[1] if self._waiting else None
        for one in left:
            heapq.heappush(self._waiting, one)
        if found is None:
            return None
        held.add(found)
        self._num_held += 1
        return self._all[found]

    def finished(self, worker: int, scenario_id: str) -> None:
        self._held[worker].remove(scenario_id)
        self._num_held -= 1

    def lost(self, worker: int, *, for_good: bool) -> tuple[str, ...]:
        """Its scenarios wait again, but for those that were held by too many that were lost: these are
        returned, and nobody works at them any more."""
        held = self._held.pop(worker, set())
        self._num_held -= len(held)
        self._num_workers = max(1, self._num_workers - for_good)
        self._losses.update(held)
        given_up = {name for name in held if self._losses[name] >= MOST_LOSSES}
        for name in held - given_up:
            self._line_up(name, self._history(name))
        return tuple(sorted(given_up, key=self._order.__getitem__))

    def _line_up(self, name: str, past: History) -> None:
        """Of equally long ones the longer prefix is first: it is read for longer."""
        scenario = self._all[name]
        left_s = expected_s(scenario, past, num_takes=self._num_takes, take_s=self._take_s)
        heapq.heappush(self._waiting, ((-left_s, -scenario.prefix.seconds, self._order[name]), name))
