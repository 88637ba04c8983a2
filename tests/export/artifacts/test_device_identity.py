"""The machine's facts: from the driver's tool where there is one, else None; and through JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.artifacts import device_identity
from export.artifacts.device_identity import Machine, present_machine


def fake_tool(folder: Path, answer: str, status: int = 0) -> str:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n", encoding="utf-8")
    tool.chmod(0o755)
    return str(tool)


def test_a_gpu_is_described_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = fake_tool(tmp_path, "NVIDIA GeForce RTX 4090, 580.95.05, 8.9")
    monkeypatch.setattr(device_identity.shutil, "which", lambda name: tool)
    found = present_machine()
    assert (found.gpu, found.driver, found.compute_capability) == ("NVIDIA GeForce RTX 4090", "580.95.05", 89)
    assert Machine(**found.record()) == found


@pytest.mark.parametrize(("answer", "status"), [("No devices were found", 6), ("NVIDIA, what", 0)])
def test_no_fact_is_guessed(
    answer: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = fake_tool(tmp_path, answer, status)
    monkeypatch.setattr(device_identity.shutil, "which", lambda name: tool)
    assert present_machine() == Machine(
        gpu=None, compute_capability=None, driver=None, cpu=present_machine().cpu
    )


def test_without_the_tool_there_is_only_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_identity.shutil, "which", lambda name: None)
    found = present_machine()
    assert found.gpu is None and found.driver is None and found.cpu
