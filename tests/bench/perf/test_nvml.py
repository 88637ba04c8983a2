"""NVML is asked in one place, about torch's own card; where it does not answer it is said why."""

from __future__ import annotations

from pathlib import Path

import fake_nvml
import pytest

from bench.perf.ceilings import power_and_clock
from bench.perf.nvml import Gpu, NoReading


def refuse(*arguments: object) -> None:
    raise fake_nvml.NVMLError("not supported")


def test_the_card_is_the_one_that_torch_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    fake_nvml.install(monkeypatch, nvmlDeviceGetHandleByUUID=asked.append)
    Gpu.current()
    assert asked == ["GPU-1-2"]


def test_power_and_clock_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml.install(monkeypatch)
    assert power_and_clock() == {"power_w": 350.0, "sm_clock_mhz": 1980.0, "power_limit_w": 700.0}


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetPowerUsage"])
def test_what_nvml_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    fake_nvml.install(monkeypatch, **{function: refuse})
    assert power_and_clock() == {}
    with pytest.raises(NoReading, match="NVML: not supported"):
        Gpu.current().power_w()


def test_without_the_library_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml.remove(monkeypatch)
    assert power_and_clock() == {}


def test_nobody_else_asks_nvml() -> None:
    root = Path(__file__).parents[3]
    texts = {path: path.read_text(encoding="utf-8") for path in (root / "bench").rglob("*.py")}
    assert [path.name for path, text in texts.items() if "pynvml" in text] == ["nvml.py"]
