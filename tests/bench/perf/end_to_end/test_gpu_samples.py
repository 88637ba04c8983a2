"""Readings of NVML become means, medians and largest values; where there are none it is said why."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import fake_nvml
import pytest
import torch

from bench.perf.end_to_end import gpu_samples
from bench.perf.end_to_end.gpu_samples import GpuSampler


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_samples, "EVERY_S", 0.001)


def test_readings_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    readings, read = [40, 60, 98], threading.Event()

    def rates(handle: object) -> SimpleNamespace:
        if not readings:
            read.set()
            raise fake_nvml.NVMLError("gone")
        return SimpleNamespace(gpu=readings.pop(0), memory=1)

    fake_nvml.install(monkeypatch, nvmlDeviceGetUtilizationRates=rates)
    with GpuSampler() as sampler:
        assert read.wait(10)
    found = sampler.summary()
    assert found["gpu_percent"] == {"mean": 66.0, "median": 60.0, "max": 98.0}
    assert [found[name]["max"] for name in ("power_w", "sm_clock_mhz", "used_gib")] == [350, 1980, 2]
    assert found["num_samples"] == 3 and sampler.missing == "NVML: gone"


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml.remove(monkeypatch)
    with GpuSampler() as sampler:
        pass
    assert sampler.summary() == {} and sampler.missing == "nvidia-ml-py is not installed"


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with GpuSampler() as sampler:
        pass
    assert sampler.summary() == {} and sampler.missing == "no GPU"
