"""What is run in turn, and what is made of its times: rows, ratios, checks. Measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.perf.overlap.sharing import ONE_STREAM, STREAMS, Sharing
from bench.perf.overlap.work import Amount, Ran, medians
from engine.words import counted

GENERATION, CRITIC, SEQUENTIAL, BESIDE = "generation alone", "critic alone", "one after the other", "at once"
READINGS = ("sm_clock_mhz", "power_w", "gpu_percent")


@dataclass(slots=True, kw_only=True)
class Mode:
    """`reason`: why there are no runs, or no more."""

    kind: str
    amount: Amount
    sharing: Sharing = STREAMS
    reason: str | None = None
    runs: list[Ran] = field(default_factory=list)

    @property
    def name(self) -> str:
        told = self.kind if self.kind != BESIDE else self.sharing.name
        return told if self.kind == GENERATION else f"{told}, replies {self.amount.at_once} at once"

    @property
    def warms(self) -> bool:
        """Whether a first run here has streams, memory or graphs to make that no other way makes."""
        one = self.sharing
        own = one in (STREAMS, ONE_STREAM) or one.green_sms or one.critic_priority != STREAMS.critic_priority
        return self.kind == BESIDE and bool(own)

    @property
    def makespan_s(self) -> float | None:
        return statistics.median(run.makespan_s for run in self.runs) if self.runs else None


def all_modes(amounts: Sequence[Amount], sharings: Sequence[Sharing]) -> list[Mode]:
    """The product's lanes and turns at step boundaries for each amount, other sharings for the first."""
    first = amounts[0]
    found = [Mode(kind=GENERATION, amount=Amount(takes=first.takes, replies=0, at_once=first.at_once))]
    for amount in amounts:
        alone = Amount(takes=0, replies=amount.replies, at_once=amount.at_once)
        found.append(Mode(kind=CRITIC, amount=alone))
        if amount is first:
            found.append(Mode(kind=SEQUENTIAL, amount=amount))
        found += [Mode(kind=BESIDE, amount=amount, sharing=one) for one in (STREAMS, ONE_STREAM)]
    others = [one for one in sharings if one not in (STREAMS, ONE_STREAM)]
    return [*found, *(Mode(kind=BESIDE, amount=first, sharing=one) for one in others)]


def find(modes: Sequence[Mode], kind: str, at_once: int, sharing: Sharing = STREAMS) -> Mode:
    """Generation alone is the same for all numbers of replies."""
    return next(
        mode
        for mode in modes
        if mode.kind == kind
        and mode.sharing == sharing
        and (kind == GENERATION or mode.amount.at_once == at_once)
    )


def rows(modes: Sequence[Mode], num_steps: int) -> list[dict[str, Any]]:
    """A row a mode. `equal`: whether all its frames and replies are those of one job after the other."""
    alone_ms = _step_ms(find(modes, GENERATION, 0), num_steps)
    return [_row(mode, modes, num_steps, alone_ms) for mode in modes]


def _row(mode: Mode, modes: Sequence[Mode], num_steps: int, alone_ms: float | None) -> dict[str, Any]:
    amount, kind = mode.amount, mode.kind
    row: dict[str, Any] = {
        "name": mode.name,
        "kind": kind,
        "sharing": mode.sharing.name,
        "takes": amount.takes,
        "replies": amount.replies,
        "at_once": amount.at_once,
    }
    if mode.reason is not None:
        row["reason"] = mode.reason
    if not mode.runs:
        return row
    step_ms = _step_ms(mode, num_steps)
    rate = medians(run.tokens_per_s for run in mode.runs)
    row |= {
        "runs_s": [run.makespan_s for run in mode.runs],
        "makespan_s": mode.makespan_s,
        "step_ms": step_ms,
        "slowdown": _ratio(step_ms, alone_ms),
        "tokens_per_s": rate,
        "equal": not _differing(mode, modes),
        "gpu": {name: _mean(mode, name) for name in READINGS},
    }
    if kind in (SEQUENTIAL, BESIDE):
        sum_s = _sum_s(modes, amount.at_once)
        turns = find(modes, BESIDE, amount.at_once, ONE_STREAM).makespan_s
        row |= {
            "over_sum_of_both": _ratio(sum_s, mode.makespan_s),
            "over_slicing": _ratio(turns, mode.makespan_s),
            "critic_share_hidden": _hidden(mode, modes),
        }
    return row


def summary(modes: Sequence[Mode]) -> dict[str, Any]:
    """Ratios above 1 are faster; keys without a number are of the first amount. Absent where not measured."""
    found: dict[str, Any] = {}
    counts = list(dict.fromkeys(mode.amount.at_once for mode in modes if mode.kind == CRITIC))
    for count in counts:
        ours, turns = (find(modes, BESIDE, count, one) for one in (STREAMS, ONE_STREAM))
        suffix = "" if count == counts[0] else f"_{count}_replies"
        found[f"four_step_over_slicing{suffix}"] = _ratio(turns.makespan_s, ours.makespan_s)
        found[f"critic_share_hidden{suffix}"] = _hidden(ours, modes)
    turns = find(modes, BESIDE, counts[0], ONE_STREAM)
    trusted = [
        mode
        for mode in modes
        if mode.kind == BESIDE and mode.amount.at_once == counts[0] and mode.sharing != ONE_STREAM
        if mode.makespan_s is not None
    ]
    if trusted and turns.makespan_s is not None:
        best = min(trusted, key=lambda mode: mode.makespan_s or 0.0)
        found |= {
            "best_sharing": best.sharing.name,
            "best_sharing_over_slicing": _ratio(turns.makespan_s, best.makespan_s),
        }
    return {name: value for name, value in found.items() if value is not None}


def checks(modes: Sequence[Mode]) -> Iterator[dict[str, Any]]:
    """Of the product's own modes; another sharing may pick other kernels, and its row says whether it did."""
    own = [mode for mode in modes if mode.runs and mode.sharing in (STREAMS, ONE_STREAM)]
    bad = [mode.name for mode in own if _differing(mode, modes)]
    yield {
        "name": "frames and replies are equal alone, one after the other, at once and in turns",
        "holds": bool(own) and not bad,
        "found": f"differ: {', '.join(bad)}" if bad else f"equal in {counted(len(own), 'way')}",
    }


def _differing(mode: Mode, modes: Sequence[Mode]) -> list[Ran]:
    """Runs that gave other frames or replies than the first run of one job after the other."""
    oracle = next((one.runs[0] for one in modes if one.kind == SEQUENTIAL and one.runs), mode.runs[0])
    return [
        run
        for run in mode.runs
        if list(run.takes) != list(oracle.takes)[: len(run.takes)] or set(run.replies) - set(oracle.replies)
    ]


def _sum_s(modes: Sequence[Mode], at_once: int) -> float | None:
    """Of generation and critic alone."""
    parts = [find(modes, kind, at_once).makespan_s for kind in (GENERATION, CRITIC)]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _hidden(mode: Mode, modes: Sequence[Mode]) -> float | None:
    """The share of the critic's time alone that the run did not take longer for."""
    sum_s, critic_s = _sum_s(modes, mode.amount.at_once), find(modes, CRITIC, mode.amount.at_once).makespan_s
    if sum_s is None or not critic_s or mode.makespan_s is None:
        return None
    return (sum_s - mode.makespan_s) / critic_s


def _step_ms(mode: Mode, num_steps: int) -> float | None:
    return medians(run.step_ms(num_steps) for run in mode.runs)


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _mean(mode: Mode, reading: str) -> float | None:
    means: Mapping[int, float | None] = {
        index: run.gpu.get(reading, {}).get("mean") for index, run in enumerate(mode.runs)
    }
    return medians(iter(means.values()))
