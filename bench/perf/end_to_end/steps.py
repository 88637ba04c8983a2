"""From the user's script to the fastest equal run, a part at a time: what each part is worth.

Measures nothing. Invariant: a step whose parts are missing names them and has no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench.perf.end_to_end.variants import FAST, FAST_PATCHES, FAST_SEQUENTIAL, SCRIPT, Variant

Seconds = Callable[[str], float | None]
"""A variant's name -> seconds of a warm scenario, None where there are none."""

MEASURED = (
    (FAST_SEQUENTIAL, "critic's engine", "decoding in graphs, 4-bit GEMMs; one job at a time"),
    (FAST, "overlap", "lanes that run at once"),
    (FAST_PATCHES, "patches", "critiques that write what changes"),
)


def steps(warm: Mapping[str, Mapping[str, Any]], seconds: Seconds) -> list[dict[str, Any]]:
    """`warm`: parts by variant. A step has `seconds` of a scenario, or is `missing` some part of `of`."""
    return list(_steps(warm, seconds))


def _steps(warm: Mapping[str, Mapping[str, Any]], seconds: Seconds) -> Iterator[dict[str, Any]]:
    yield _step("script", SCRIPT.says, [SCRIPT], seconds(SCRIPT.name), stock=True)
    script, ours = seconds(SCRIPT.name), warm.get(FAST_SEQUENTIAL.name)
    computed = None
    if script is not None and ours is not None and seconds(FAST_SEQUENTIAL.name) is not None:
        computed = script - _takes_s(warm[SCRIPT.name]) + _takes_s(ours)
    yield _step(
        "compiled, FP8",
        "the takes of preset fast (computed)",
        [SCRIPT, FAST_SEQUENTIAL],
        computed,
    )
    for variant, name, adds in MEASURED:
        yield _step(name, adds, [variant], seconds(variant.name))


def _step(
    name: str, adds: str, needed: Sequence[Variant], found: float | None, *, stock: bool = False
) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "adds": adds, "stock": stock, "of": [v.name for v in needed]}
    return made | ({"missing": True} if found is None else {"seconds": found})


def _takes_s(part: Mapping[str, Any]) -> float:
    """Of the takes of a scenario, at the median of one."""
    takes: int = part["settings"]["loops"] + 1
    median: float = part["median_s"]["generate"]
    return takes * median
