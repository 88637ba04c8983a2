"""What is joined, and each check that can fail."""

from __future__ import annotations

from typing import Any

import pytest
from scaling_parts import document, part

from bench.perf.scaling.document import join


def test_all_holds() -> None:
    found = document()
    assert found["all_checks_hold"] and len(found["checks"]) == 5
    assert found["speedup"] == pytest.approx(460 / 235) and found["killed_costs_s"] == 65.0
    assert [one["name"] for one in found["parts"]] == ["one", "all", "killed"]


def test_a_worker_may_be_killed_in_a_run_of_fewer_scenarios() -> None:
    one, several, _ = parts()
    killed = part("killed", 150.0, lost=1, scenarios=6)
    found = join(one, several, killed, "x")
    assert found["all_checks_hold"]
    assert found["killed_costs_s"] == pytest.approx(150 - 6 * 235 / 16)
    odd = join(one, several, part("killed", 3 * 2 * 235 / 16, lost=1, scenarios=5), "x")
    assert odd["killed_costs_s"] == pytest.approx(0), "the last one of five is made alone"
    killed["scenarios"].pop("clip05")
    assert failing(one, several, killed) == ["what is made is what one worker makes"]


def failing(one: dict[str, Any], several: dict[str, Any], killed: dict[str, Any]) -> list[str]:
    return [check["name"] for check in join(one, several, killed, "x")["checks"] if not check["holds"]]


def parts() -> list[dict[str, Any]]:
    return [part("one", 460.0, workers=1), part("all", 235.0), part("killed", 300.0, lost=1)]


def test_each_check_fails_where_it_should() -> None:
    found = parts()
    assert failing(*found) == []
    found[1]["scenarios"]["clip03"]["takes"] = []
    assert failing(*found) == ["what is made is what one worker makes"]
    found = parts()
    del found[2]["scenarios"]["clip03"]
    assert failing(*found) == ["what is made is what one worker makes"]
    found = parts()
    found[0]["scenarios"]["clip00"]["failure"] = "E"
    assert "no scenario failed" in failing(*found)
    found = parts()
    found[2]["num_takes_doubled"] = 1
    assert failing(*found) == ["no take was stored twice"]
    for lost in ((0, 0, 0), (0, 1, 1)):
        found = parts()
        for one, times in zip(found, lost, strict=True):
            one["times_lost"] = times
        assert failing(*found) == ["a worker was lost in the third run, and in no other"]


def test_too_slow_is_told_of_gpus_only() -> None:
    one, several, killed = parts()
    several["scenarios_per_hour"] = one["scenarios_per_hour"] * 1.8
    assert failing(one, several, killed) == ["1.90 times one worker or more"]
    several["on"] = "cpu"
    assert failing(one, several, killed) == []
