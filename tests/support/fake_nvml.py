"""A stand-in for NVML's library and for the GPU that torch would name, on machines with neither."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


class NVMLError(Exception):
    pass


def install(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """Power 350 of 700 W, clock 1980 MHz, 2 GiB in use; `functions` are added or replace these."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1-2"))
    module = ModuleType("pynvml")
    module.__dict__.update(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetClockInfo=lambda handle, clock: 1980,
        nvmlDeviceGetPowerUsage=lambda handle: 350_000,
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700_000,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=2**31),
    )
    module.__dict__.update(functions)
    monkeypatch.setitem(sys.modules, "pynvml", module)


def remove(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU, and no such library."""
    install(monkeypatch)
    monkeypatch.setitem(sys.modules, "pynvml", None)
