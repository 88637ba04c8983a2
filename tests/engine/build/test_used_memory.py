"""What a process took of a GPU beside its plan: an entry for each in the manifest, told where far off."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.build import used_memory
from engine.build.used_memory import USED, document, note_used
from engine.errors import DeviceError
from engine.machine.memory import GIB, PEAK, MemoryPlan
from engine.machine.usage import Measured
from engine.runs.manifest import MANIFEST, read_manifest, write_manifest
from engine.types import Footprint

PLAN = MemoryPlan.of(
    40 * GIB,
    {
        "generator": Footprint(held={"transformer": 10 * GIB}, working={"step": 4 * GIB}),
        "critic": Footprint(held={"model": 5 * GIB}, working={"prompt": 1 * GIB}),
    },
    overlap=True,
)


def prepared(device: str = "cpu") -> Any:
    return SimpleNamespace(memory=PLAN, device=device)


def found(peak: int) -> Measured:
    parts = {"generator loaded": 10 * GIB, "generator lane": 5 * GIB, PEAK: peak}
    return Measured(parts=parts, reserved={"models": 15 * GIB}, peak_allocated=peak, peak_reserved=peak + GIB)


def test_plan_and_peak_stand_side_by_side(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        told = document(prepared(), found(20 * GIB))
    errors = {part["part"]: part["error"] for part in told["parts"]}
    assert errors == {"generator loaded": 0.0, "generator lane": -0.2, PEAK: 0.0}
    assert (told["peak_allocated_bytes"], told["peak_reserved_bytes"]) == (20 * GIB, 21 * GIB)
    assert not caplog.records


def test_a_plan_that_is_far_off_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        document(prepared(), found(25 * GIB))
    assert "20.00 GiB was planned for the models and their steps, 25.00 GiB was taken" in caplog.text


def test_each_process_of_a_run_has_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(used_memory.usage, "of_run", lambda *given: found(20 * GIB))
    write_manifest(tmp_path / MANIFEST, {"seed": 7})
    with note_used(tmp_path, prepared("cuda"), {}, {}, []):
        pass
    with pytest.raises(KeyboardInterrupt), note_used(tmp_path, prepared("cuda"), {}, {}, ["caches"]):
        raise KeyboardInterrupt
    with pytest.raises(DeviceError), note_used(tmp_path, prepared("cuda"), {}, {}, []):
        raise DeviceError("the GPU is lost", fix="none")
    manifest = read_manifest(tmp_path / MANIFEST)
    assert manifest["seed"] == 7
    assert [entry.get("relieved") for entry in manifest[USED]] == [None, ["caches"]]
    assert all(entry["peak_allocated_bytes"] == 20 * GIB for entry in manifest[USED])


def test_a_cpu_tells_only_what_was_given_up(tmp_path: Path) -> None:
    write_manifest(tmp_path / MANIFEST, {"seed": 7})
    with note_used(tmp_path, prepared(), {}, {}, []):
        pass
    assert USED not in read_manifest(tmp_path / MANIFEST)
    with note_used(tmp_path, prepared(), {}, {}, ["caches"]):
        pass
    assert read_manifest(tmp_path / MANIFEST)[USED] == [{"relieved": ["caches"]}]
