"""The simulation where the answer can be worked out by hand, and its inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scaling_parts import document

from bench.perf.cluster_simulation import HOURS_TO_FAILURE, Found, Simulation, Times, check, main

TIMES = Times(take_s=10.0, beside_s=5.0, start_s=60.0)


def simulated(**given: Any) -> Found:
    options: dict[str, Any] = {
        "num_workers": 2,
        "num_scenarios": 8,
        "takes": lambda draw: 2,
        "hours_to_failure": None,
    }
    return Simulation(TIMES, **(options | given)).run()


def test_without_failures_the_lanes_are_busy_but_for_start_and_end() -> None:
    found = simulated()
    assert found.makespan_s == 60 + 4 * 2 * 10 + 5 and found.num_takes == 16
    assert found.busy_share == pytest.approx(160 / (2 * 145))
    assert simulated(warm=True).makespan_s == 85
    assert simulated(num_workers=1, warm=True).makespan_s == 165


def test_one_scenario_waits_for_its_critique() -> None:
    assert simulated(num_scenarios=1, num_workers=1, warm=True).makespan_s == 2 * (10 + 5)


def test_a_lost_worker_costs_its_take_and_a_start_and_nothing_that_is_stored() -> None:
    found = simulated(num_scenarios=40, hours_to_failure=0.1, seed=3)
    assert found.num_losses > 0 and found.num_given_up == 0
    assert found.num_takes == 80, "no take is stored twice or never"
    assert found.makespan_s > simulated(num_scenarios=40).makespan_s


def test_equal_seeds_give_equal_runs() -> None:
    given = {"num_scenarios": 40, "hours_to_failure": 0.05, "takes": lambda draw: draw.randint(1, 4)}
    assert simulated(**given) == simulated(**given)
    assert simulated(**given) != simulated(**given, seed=1)


def test_the_measurement_of_two_gpus_is_predicted_from_one() -> None:
    found = check(document())
    assert found["predicted_s"] == pytest.approx(230.0) and found["predicted_speedup"] == pytest.approx(2.0)
    assert found["off_by"] == pytest.approx(230 / 235 - 1)


def test_the_command_reads_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    assert main(["--workers", "16", "--scenarios", "400", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["take_s"] > 0 and found["start_s"] > 0 and 0.5 < found["busy_share"] <= 1
    assert found["hours_to_failure_of_a_gpu"] == HOURS_TO_FAILURE and 50_000 < HOURS_TO_FAILURE < 51_000
