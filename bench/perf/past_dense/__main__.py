"""What leaves dense attention behind: sparse attention for a prefix, a prefix computed once, a kept library.

Four groups, each timed warm and alternating in one process, correctness first: attention alone, forwards of
a full-size Wan with 8 of 21 latent frames as prefix, all steps of its takes, element-wise passes. Random
weights and inputs: speed alone, which does not depend on values here, since as many keys are chosen for any
of them. What is in --out already is not measured again, so that a run that its budget stopped goes on.

    python -m bench.perf.past_dense --out past_dense_h200.json --budget 560
"""

from __future__ import annotations

import argparse
import functools
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.perf import ceilings, resumed
from bench.perf.document import this_machine
from bench.perf.past_dense import attention, forwards, passes, takes
from bench.perf.past_dense.case import Case
from engine.errors import RetakeError
from engine.runs.manifest import write_manifest
from engine.settings.environment import cache_folder
from kernels import dispatch, timing
from kernels.files import read_json

COMMAND = "python -m bench.perf.past_dense"
NOTES = (
    "random weights and inputs: times, and errors to the formula of each kernel, not what sparsity costs: "
    "that is bench.quality.policy_calibration and bench.quality.denoiser_quality",
    "an attention is checked against its own formula on queries spread over the sequence; error_to_exact is "
    "of noise, in which no key matters more than another",
    "of a forward relative_error is behind the prefix: where attentions are exchanged against the first, "
    "where the prefix is kept against the same transformer without that; those are not compiled",
)


OTHERS_ROUNDS = 5
SPENT = "the budget was spent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Cases that are timed in turn. `seconds`: about what it takes, of which none begins without."""

    name: str
    seconds: float
    cases: Callable[[], Iterable[Case]]
    most_rounds: int | None = None
    """Of cases that take seconds, whose first call warms them up."""


def groups(*, small: bool, cache: Path) -> list[Group]:
    """The most telling first. `small`: sizes for a CPU, of whose times nothing follows."""
    first, *others = (
        Group(
            name=f"attention {problem}",
            seconds=50.0,
            cases=functools.partial(attention.cases, problem, cache),
        )
        for problem in attention.problems(small=small)
    )
    of_forwards = [
        Group(name=name, seconds=seconds, cases=functools.partial(cases, small=small, cache=cache))
        for name, (seconds, cases) in forwards.GROUPS.items()
    ]
    of_takes = Group(
        name=takes.NAME,
        seconds=takes.SECONDS,
        cases=functools.partial(takes.cases, small=small, cache=cache),
        most_rounds=takes.ROUNDS,
    )
    of_others = [
        Group(
            name=f"forwards of {other}, attention exchanged",
            seconds=300.0,
            cases=functools.partial(forwards.of_attentions, small=small, cache=cache, other=other),
            most_rounds=OTHERS_ROUNDS,
        )
        for other in list(forwards.OTHERS)[: 1 if small else None]
    ]
    of_passes = Group(name="passes", seconds=15.0, cases=functools.partial(passes.cases, small=small))
    return [first, *of_forwards, *others, of_passes, of_takes, *of_others]


def measure(group: Group, rounds: int, deadline_s: float) -> list[dict[str, Any]]:
    """A row for each case: error, times, or the reason why it was not timed. None is made ready behind
    `deadline_s` of `perf_counter`; those that are, are timed all the same, once at least."""
    rows: list[dict[str, Any]] = []
    functions: dict[str, timing.Function] = {}
    with torch.inference_mode():
        for case in group.cases():
            row: dict[str, Any] = {"name": case.name, "of": case.of}
            rows.append(row)
            start_s = time.perf_counter()
            if start_s > deadline_s:
                row["reason"] = SPENT
                continue
            try:
                function = case.make()
                found = function()
                _wait()
                row["first_call_s"] = time.perf_counter() - start_s
                row |= case.check(found)
            except dispatch.failures(RetakeError, AssertionError) as fault:
                traceback.print_exc(limit=-4)
                row["reason"] = f"{type(fault).__name__}: {str(fault).strip()[:300]}"
                continue
            error = row.get("relative_error", 0.0)
            if not error <= case.allowed:
                row["reason"] = f"relative error {error:.3g}, allowed {case.allowed:g}: not timed"
                continue
            functions[case.name] = function
        if not functions:
            times = {}
        elif group.most_rounds is None:
            times = timing.alternate(functions, rounds, warmup=2)
        else:
            times = _rounds(functions, min(rounds, group.most_rounds), deadline_s)
    for row in rows:
        if row["name"] in times:
            row["ms"] = times[row["name"]]
            row["summary"] = asdict(timing.summary(row["ms"]))
    return rows


def _rounds(
    functions: Mapping[str, timing.Function], rounds: int, deadline_s: float
) -> dict[str, list[float]]:
    """As `timing.alternate`, but no further round is begun that would end behind `deadline_s`."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    for _ in range(rounds):
        began_s = time.perf_counter()
        for name, found in timing.alternate({name: functions[name] for name in order}, 1, warmup=0).items():
            times[name] += found
        order.reverse()  # nobody always follows the same neighbour
        ended_s = time.perf_counter()
        if 2 * ended_s - began_s > deadline_s:
            break
    return times


def is_whole(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the budget left nothing out."""
    return all(row.get("reason") != SPENT for row in rows)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _say(row: Mapping[str, Any]) -> None:
    said = f"{row['summary']['median']:9.3f} ms" if "summary" in row else str(row["reason"])
    error = f" error {row['relative_error']:.4f}" if "relative_error" in row else ""
    first = f", first call {row['first_call_s']:.0f} s" if row.get("first_call_s", 0.0) >= 1 else ""
    print(f"  {row['name']:52s} {said}{error}{first}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all that was asked is measured; 1 something is left; 2 the user's error."""
    began_s = time.perf_counter()
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON; what is in it is not run again")
    parser.add_argument("--budget", type=float, default=560.0, metavar="SECONDS", help="of the process")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", default="", help="groups whose names begin so")
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    options = parser.parse_args(arguments)
    document: dict[str, Any] = (
        read_json(options.out)
        if options.out.is_file()
        else {
            "schema": 1,
            "kind": "past_dense",
            "command": COMMAND + (" --small" if options.small else ""),
            "manifest": this_machine(),
            "ceilings": ceilings.measure(),
            "notes": NOTES,
            "groups": {},
        }
    )
    asked = resumed.asked_of(
        parser, groups(small=options.small, cache=cache_folder() / "kernels"), options.only
    )
    for group in asked:
        if _is_there(document, group):
            continue
        left_s = options.budget - (time.perf_counter() - began_s)
        if left_s < group.seconds and not options.small:
            print(f"{group.name}: left out, {left_s:.0f} s are left of the budget", flush=True)
            continue
        print(f"{group.name} ({left_s:.0f} s left)", flush=True)
        rows = measure(group, options.rounds, began_s + options.budget)
        for row in rows:
            _say(row)
        document["groups"][group.name] = {
            "rows": rows,
            "whole": is_whole(rows),
            "manifest": this_machine(),  # a file may have groups of several days
            **ceilings.power_and_clock(),
        }
        document["summary"] = attention.summary(document["groups"]) | takes.summary(document["groups"])
        write_manifest(options.out, document)
        torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    left = [group.name for group in asked if not _is_there(document, group)]
    return 0 if resumed.is_all(left) else 1


def _is_there(document: Mapping[str, Any], group: Group) -> bool:
    return group.name in document["groups"] and bool(document["groups"][group.name]["whole"])


if __name__ == "__main__":
    sys.exit(main())
