"""Readings of NVML become means, medians and largest values; where there are none it is said why."""

from __future__ import annotations

import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest
import torch

from bench.perf.end_to_end import gpu_samples
from bench.perf.end_to_end.gpu_samples import GpuSampler


class NVMLError(Exception):
    pass


def library(readings: list[int], read: threading.Event) -> ModuleType:
    """A stand-in for NVML that gives these percentages of use, then refuses."""
    module = ModuleType("pynvml")

    def rates(handle: object) -> SimpleNamespace:
        if not readings:
            read.set()
            raise NVMLError("gone")
        return SimpleNamespace(gpu=readings.pop(0), memory=1)

    module.__dict__.update(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetUtilizationRates=rates,
        nvmlDeviceGetClockInfo=lambda handle, clock: 1980,
        nvmlDeviceGetPowerUsage=lambda handle: 350_000,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=2**31),
    )
    return module


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1-2"))
    monkeypatch.setattr(gpu_samples, "EVERY_S", 0.001)


def test_readings_are_summed_up(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    read = threading.Event()
    monkeypatch.setitem(sys.modules, "pynvml", library([40, 60, 98], read))
    with GpuSampler() as sampler:
        assert read.wait(10)
    found = sampler.summary()
    assert found["gpu_percent"] == {"mean": 66.0, "median": 60.0, "max": 98.0}
    assert (found["power_w"]["mean"], found["sm_clock_mhz"]["max"], found["used_gib"]["max"]) == (
        350,
        1980,
        2,
    )
    assert found["num_samples"] == 3 and sampler.missing == "NVML: gone"


def test_a_missing_library_is_said(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with GpuSampler() as sampler:
        pass
    assert sampler.summary() == {} and sampler.missing == "nvidia-ml-py is not installed"


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with GpuSampler() as sampler:
        pass
    assert sampler.summary() == {} and sampler.missing == "no GPU"
