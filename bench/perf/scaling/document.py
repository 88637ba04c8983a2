"""Three parts as one document, with what must hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bench.perf.document import check, headed

KIND = "scaling"
AIM = 0.95
"""Of N times the scenarios per hour: 1.9 on two GPUs."""

Part = Mapping[str, Any]


def join(one: Part, several: Part, killed: Part, command: str) -> dict[str, Any]:
    """`one`, `several`: by one worker and by N, nobody killed; `killed`: by N of which one was killed, of as
    many of the first scenarios as it was asked for."""
    speedup = several["scenarios_per_hour"] / one["scenarios_per_hour"]
    number = several["num_workers"]
    unequal = {
        part["name"]: sorted(
            name for name in _asked(part, one) if part["scenarios"].get(name) != one["scenarios"][name]
        )
        for part in (several, killed)
    }
    failed = [n for part in (one, several, killed) for n, s in part["scenarios"].items() if s["failure"]]
    doubled = {part["name"]: part["num_takes_doubled"] for part in (one, several, killed)}
    checks = [
        check("what is made is what one worker makes", not any(unequal.values()), unequal),
        check("no scenario failed", not failed, failed),
        check("no take was stored twice", not any(doubled.values()), doubled),
        check("a worker was lost in the third run, and in no other",
               killed["times_lost"] == 1 and not one["times_lost"] + several["times_lost"],
               {part["name"]: part["times_lost"] for part in (one, several, killed)}),
    ]  # fmt: skip
    if several["on"] == "gpu":
        checks.append(check(f"{AIM * number:.2f} times one worker or more", speedup >= AIM * number, speedup))
    head = headed(KIND, command, several["settings"], checks, manifest=several["manifest"])
    return head | {
        "num_workers": number,
        "on": several["on"],
        "speedup": speedup,
        "killed_costs_s": killed["makespan_s"] - _unharmed_s(killed["num_scenarios"], several),
        "parts": [dict(part) for part in (one, several, killed)],
    }


def _asked(part: Part, one: Part) -> list[str]:
    """Names of the scenarios that a part was asked for, whether it has them or lost them."""
    return sorted(one["scenarios"])[: part["num_scenarios"]]


def _unharmed_s(num_scenarios: int, several: Part) -> float:
    """Of so many scenarios at the rate of all workers, of whom the last ones wait for each other."""
    number = several["num_workers"]
    rounds = math.ceil(num_scenarios / number)
    return float(3600 * number * rounds / several["scenarios_per_hour"])
