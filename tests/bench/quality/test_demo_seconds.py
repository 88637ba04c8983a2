"""Seconds of the demo on two devices: which runs count, which cores each gets, what is refused."""

from __future__ import annotations

import pytest

from bench.quality.demo_seconds import cores_of, summary
from engine.errors import ConfigError


def test_the_first_run_is_cold_and_the_median_of_the_others_is_warm() -> None:
    runs = {
        "gpu": [{"seconds": 60.0}, {"seconds": 24.0}, {"seconds": 20.0}, {"seconds": 40.0}],
        "cpu": [{"seconds": 100.0}, {"seconds": 96.0}],
    }
    assert summary(runs) == {
        "gpu_cold_s": 60.0,
        "gpu_warm_s": 24.0,
        "cpu_cold_s": 100.0,
        "cpu_warm_s": 96.0,
        "cpu_over_gpu": 4.0,
    }


def test_without_a_warm_run_of_both_there_is_no_ratio() -> None:
    assert summary({"gpu": [{"seconds": 60.0}], "cpu": []}) == {"gpu_cold_s": 60.0}


def test_the_devices_share_no_core() -> None:
    cores = [3, 5, 6, 7]
    assert cores_of("cpu", cores) == "3,5"
    assert cores_of("gpu", cores) == "6,7"
    with pytest.raises(ConfigError, match="2 cores are too few"):
        cores_of("gpu", [0, 1])
