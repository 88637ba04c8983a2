"""The section of what leaves dense attention behind: each row against its own neighbour, no row lost."""

from __future__ import annotations

from typing import Any

import pytest

from bench.results_page.past_dense_section import past_dense
from bench.results_page.result_files import ResultFile


def row(name: str, ms: float | None, of: str = "a forward") -> dict[str, Any]:
    if ms is None:
        return {"name": name, "of": of, "reason": "needs a CUDA GPU"}
    return {"name": name, "of": of, "ms": [ms] * 3, "relative_error": 0.002}


GROUPS = {
    "attention 1": [
        row("sdpa_cudnn", 12.0, "dense, exact"),
        row("fa3_fp8", 6.0, "dense, 8bit"),
        row("fa3_prefix_sparse", 4.0, "sparse, prefix exact"),
        row("comfy_sol", None, "sparse in 8 bits"),
        row("choice of blocks, and means", 0.25, "part of both"),
    ],
    "forwards": [
        row("own prefix, FP8", 300.0),
        row("own prefix, FP8, kept", 200.0),
        row("any prefix, FP8, kept", None),
        row("own prefix, making what is kept", 50.0),
    ],
    "passes": [row("ours", 0.1), row("theirs", 0.2)],
    "takes": [
        row("fast", 10000.0, "all 16 steps"),
        row("fast, sparse", 8000.0, "all 16 steps"),
        row("fastest", 6000.0, "all 16 steps"),
        row("fastest, sparse", 5000.0, "all 16 steps"),
    ],
}


BESIDE = {
    "takes": [
        *GROUPS["takes"],
        row("diffusers compiled", 18000.0, "all 16 steps, attention FA3"),
        row("diffusers compiled, step cache", 12000.0, "all 16 steps, attention FA3, cache-dit")
        | {"forwards": 32.0, "skipped_forwards": 16.0},
    ]
}


def made(groups: Any) -> Any:
    document = {"groups": {name: {"rows": rows} for name, rows in groups.items()}}
    return past_dense(ResultFile(name="past_dense_h200", kind="past_dense", document=document))


def cells(name: str, groups: Any = GROUPS) -> list[str]:
    (line,) = [line for line in made(groups).body.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("name", "gain", "against"),
    [
        ("fa3_prefix_sparse", "1.50×", "fa3_fp8"),
        ("sdpa_cudnn", "0.50×", "fa3_fp8"),
        ("own prefix, FP8, kept", "1.50×", "own prefix, FP8"),
        ("own prefix, making what is kept", "–", "–"),
        ("theirs", "0.50×", "ours"),
        ("fastest", "–", "–"),
        ("fastest, sparse", "1.20×", "fastest"),
    ],
)
def test_each_row_is_against_its_neighbour(name: str, gain: str, against: str) -> None:
    assert cells(name)[5:7] == [gain, against]


@pytest.mark.parametrize(
    ("name", "gain", "against"),
    [
        ("fast", "1.20×", "diffusers compiled, step cache"),
        ("fastest, sparse", "1.20×", "fastest"),
        ("diffusers compiled", "–", "–"),
        ("diffusers compiled, step cache", "1.50×", "diffusers compiled"),
    ],
)
def test_a_preset_is_against_the_fastest_of_the_library(name: str, gain: str, against: str) -> None:
    assert cells(name, BESIDE)[5:7] == [gain, against]


def test_what_a_step_cache_skipped_is_told() -> None:
    told = cells("diffusers compiled, step cache", BESIDE)[1]
    assert told == "all 16 steps, attention FA3, cache-dit; 16 of 32 forwards skipped"


def test_the_headline_has_the_largest_gain_of_each_group_and_the_body_what_was_not_timed() -> None:
    section = made(GROUPS)
    assert section.headline == (
        "attention 1: fa3_prefix_sparse 1.50×; forwards: own prefix, FP8, kept 1.50×; passes: ours 1.00×; "
        "takes: fast, sparse 1.25×"
    )
    assert "comfy_sol: needs a CUDA GPU" in section.body and "any prefix, FP8, kept: needs" in section.body


def test_a_group_without_times_is_told_and_not_in_the_headline() -> None:
    section = made({"attention 1": [row("fa3", None, "dense, exact")], "passes": GROUPS["passes"]})
    assert section.headline.startswith("passes") and "fa3: needs a CUDA GPU" in section.body
