"""What many GPUs would make of many scenarios: a simulation, from times that were measured on one.

    python -m bench.perf.cluster_simulation --workers 800 --scenarios 198000
    python -m bench.perf.cluster_simulation --check scaling_h200x2.json

Of each worker the lane that makes takes is simulated, critiques beside it, losses and starts; who gets which
scenario decides the hand-out that real runs use. Not simulated: the network, disks that are shared, and more
than one lane's share of a card. --check simulates the runs of a measurement of `bench.perf.scaling` by the
times of its one worker, and says how far off the others are.

Failures by default: 419 unexpected interruptions in 54 days of 16384 H100 (Llama Team, The Llama 3 Herd of
Models, arXiv 2407.21783, section 3.3.4), which is one in some 50,000 hours of a GPU, taken as exponential.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.files import write_json
from engine.cluster.handout import HandOut
from engine.types import Clip, History, Scenario
from kernels.files import read_json

MEASURED = Path(__file__).parents[1] / "results" / "end_to_end_h200.json"
HOURS_TO_FAILURE = 16384 * 54 * 24 / 419
"""Of one GPU with its share of a machine."""
AHEAD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds. `take_s`: of the lane that makes takes, for one; `beside_s`: from a take's end to the next one
    of its scenario, while other scenarios have the lane; `start_s`: of a worker, until it is warm."""

    take_s: float
    beside_s: float
    start_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    makespan_s: float
    num_takes: int
    num_lost_takes: int
    num_losses: int
    busy_share: float
    num_given_up: int


@dataclass(slots=True)
class _Worker:
    """`life` tells events of a life that has ended. `ready`: scenarios whose next take may begin."""

    life: int = 0
    is_up: bool = False
    is_busy: bool = False
    ready: deque[str] = field(default_factory=deque)


class Simulation:
    """Events in the order of their times; of equal times in the order in which they were planned."""

    def __init__(
        self,
        times: Times,
        *,
        num_workers: int,
        num_scenarios: int,
        takes: Callable[[random.Random], int],
        hours_to_failure: float | None,
        warm: bool = False,
        seed: int = 0,
    ) -> None:
        """takes: how many a scenario has. hours_to_failure: of one worker; None: none fails. warm: all
        workers are up at the start."""
        self._times, self._failures = times, hours_to_failure
        self._draw = random.Random(seed)
        scenarios = [_scenario(number) for number in range(num_scenarios)]
        self._takes = {one.id: takes(self._draw) for one in scenarios}
        self._done = dict.fromkeys(self._takes, 0)
        self._workers = [_Worker() for _ in range(num_workers)]
        self._handout = HandOut(
            scenarios,
            lambda name: History(),
            num_takes=max(self._takes.values()),
            most_each=AHEAD,
            num_workers=num_workers,
        )
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._num_events = 0
        self._now_s = self._end_s = self._busy_s = 0.0
        self._num_takes = self._num_lost = self._num_losses = self._num_given_up = 0
        for number in range(num_workers):
            self._plan(0.0 if warm else times.start_s, number, self._up)

    def run(self) -> Found:
        while not self._handout.over:
            self._now_s, _, happen = heapq.heappop(self._events)
            happen()
        return Found(
            makespan_s=self._end_s,
            num_takes=self._num_takes,
            num_lost_takes=self._num_lost,
            num_losses=self._num_losses,
            busy_share=self._busy_s / (self._end_s * len(self._workers)),
            num_given_up=self._num_given_up,
        )

    def _plan(self, in_s: float, number: int, happen: Callable[[int], None]) -> None:
        """Unless the worker is lost before."""
        life = self._workers[number].life

        def unless_lost() -> None:
            if self._workers[number].life == life:
                happen(number)

        self._num_events += 1
        heapq.heappush(self._events, (self._now_s + in_s, self._num_events, unless_lost))

    def _up(self, number: int) -> None:
        self._workers[number].is_up = True
        if self._failures is not None:
            self._plan(self._draw.expovariate(1 / (self._failures * 3600)), number, self._lose)
        self._fill(number)

    def _fill(self, number: int) -> None:
        while (scenario := self._handout.next(number)) is not None:
            self._workers[number].ready.append(scenario.id)
        self._begin(number)

    def _begin(self, number: int) -> None:
        worker = self._workers[number]
        if worker.is_busy or not worker.ready:
            return
        name = worker.ready.popleft()
        worker.is_busy = True
        self._plan(self._times.take_s, number, lambda who: self._taken(who, name))

    def _taken(self, number: int, name: str) -> None:
        self._workers[number].is_busy = False
        self._busy_s += self._times.take_s
        self._plan(self._times.beside_s, number, lambda who: self._judged(who, name))
        self._begin(number)

    def _judged(self, number: int, name: str) -> None:
        """The take is stored: nothing that comes later can lose it."""
        self._num_takes += 1
        self._done[name] += 1
        self._end_s = self._now_s
        if self._done[name] < self._takes[name]:
            self._workers[number].ready.append(name)
            self._begin(number)
            return
        self._handout.finished(number, name)
        self._fill(number)

    def _lose(self, number: int) -> None:
        worker = self._workers[number]
        self._num_losses += 1
        self._num_lost += worker.is_busy
        self._workers[number] = _Worker(life=worker.life + 1)
        self._num_given_up += len(self._handout.lost(number, for_good=False))
        self._plan(self._times.start_s, number, self._up)
        for other, one in enumerate(self._workers):
            if one.is_up:
                self._fill(other)


def _scenario(number: int) -> Scenario:
    clip = Clip(path=Path("none.mp4"), fps=24.0, num_frames=72, width=8, height=8)
    name = f"{number:09d}"
    return Scenario(id=name, text="", prefix=clip, category="", output_name=name)


def measured(document: Any) -> Times:
    """From the part `fast` of a measurement of whole runs."""
    (part,) = [one for one in document["parts"] if one["variant"] == "fast" and one["num_done"] > 1]
    num_takes = sum(len(one["takes"]) for one in part["scenarios"].values())
    lane_s = sum(part["idle"]["parts_s"][key] for key in ("working_s", "slowed_s"))
    before = part["seconds_before"]
    return Times(
        take_s=lane_s / num_takes,
        beside_s=part["idle"]["parts_s"]["after_last_s"],  # the last critique, beside which nothing is made
        start_s=before["prepare"] + before["load"] + before["warm_up"],
    )


def check(document: Any) -> dict[str, Any]:
    """The runs of `bench.perf.scaling` simulated by the pace of its one worker, beside what was measured."""
    one, several, _ = document["parts"]
    num_takes = document["settings"]["loops"] + 1
    number = len(one["ended_s"])
    pace_s = one["makespan_s"] / (number * num_takes)
    times = Times(take_s=pace_s, beside_s=0.0, start_s=several["startup_s"])
    found = Simulation(
        times,
        num_workers=several["num_workers"],
        num_scenarios=number,
        takes=lambda draw: num_takes,
        hours_to_failure=None,
        warm=True,
    ).run()
    return {
        "predicted_s": found.makespan_s,
        "measured_s": several["makespan_s"],
        "off_by": found.makespan_s / several["makespan_s"] - 1,
        "predicted_speedup": one["makespan_s"] / found.makespan_s,
        "measured_speedup": document["speedup"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.check is not None:
        document = check(read_json(options.check))
    else:
        times = measured(read_json(options.measured))
        found = Simulation(
            times,
            num_workers=options.workers,
            num_scenarios=options.scenarios,
            takes=lambda draw: draw.randint(options.least_takes, options.most_takes),
            hours_to_failure=options.hours_to_failure,
        ).run()
        hours = found.makespan_s / 3600
        document = {
            "workers": options.workers,
            "scenarios": options.scenarios,
            "takes_a_scenario": [options.least_takes, options.most_takes],
            "take_s": times.take_s,
            "beside_s": times.beside_s,
            "start_s": times.start_s,
            "hours_to_failure_of_a_gpu": options.hours_to_failure,
            "hours": hours,
            "gpu_hours": hours * options.workers,
            "gpu_seconds_a_scenario": found.makespan_s * options.workers / options.scenarios,
            "busy_share": found.busy_share,
            "workers_lost": found.num_losses,
            "takes_lost": found.num_lost_takes,
            "scenarios_given_up": found.num_given_up,
            "takes_stored_a_second": found.num_takes / found.makespan_s,
        }
    print(json.dumps(document, indent=1))
    if options.out is not None:
        write_json(options.out, document)
    return 0


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m bench.perf.cluster_simulation", description=__doc__, formatter_class=plain
    )
    parser.add_argument("--workers", type=int, default=800, metavar="N", help="GPUs; 800, 8 in 100 machines")
    parser.add_argument("--scenarios", type=int, default=198_000, metavar="N", help="Physics-IQ times 1000")
    parser.add_argument("--least-takes", type=int, default=2, metavar="N", help="of a scenario")
    parser.add_argument(
        "--most-takes", type=int, default=5, metavar="N", help="of a scenario, evenly between"
    )
    parser.add_argument("--hours-to-failure", type=float, default=HOURS_TO_FAILURE, metavar="H")
    parser.add_argument("--measured", type=Path, default=MEASURED, metavar="FILE.json", help="on one GPU")
    parser.add_argument("--check", type=Path, metavar="FILE.json", help="of bench.perf.scaling")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
