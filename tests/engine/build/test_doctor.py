"""The doctor: required checks decide, everything that is missing comes with its fix."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from engine.build import doctor
from engine.build import model_folders as models
from engine.build.checks import Check
from engine.build.doctor import can_run, examine
from engine.runs.manifest import gpus


def test_every_failed_check_has_a_fix() -> None:
    checks = examine()
    assert {"Python", "torch", "GPU", "H.264 encoder", "bundled generator"} <= {c.name for c in checks}
    assert all(check.detail for check in checks)
    assert all(bool(check.fix) != check.ok for check in checks)


def test_only_required_checks_decide() -> None:
    fine = Check(name="a", ok=True, detail="1", required=True)
    optional = Check(name="b", ok=False, detail="none", fix="get b")
    needed = Check(name="c", ok=False, detail="none", fix="get c", required=True)
    assert can_run([fine, optional])
    assert not can_run([fine, optional, needed])


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "pymunk":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    check = doctor.package("pymunk")
    assert not check.ok
    assert check.required
    assert "pip install" in check.fix


def test_a_package_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymunk", None)  # makes `import pymunk` an ImportError
    check = doctor.package("pymunk")
    assert not check.ok
    assert "does not import" in check.detail


def test_bundled_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MODELS", tmp_path)
    check = doctor.bundled("generator", models.find_generator)
    assert not check.ok
    assert check.required


def test_bundled_digest_follows_the_bytes(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    found = models.ModelFolder(path=tmp_path, package=models.CRITICS, family="qwen_vl")
    details = []
    for shape in ("[2]", "[3]"):
        header = b'{"w":{"dtype":"F16","shape":' + shape.encode() + b',"data_offsets":[0,0]}}'
        weights.write_bytes(len(header).to_bytes(8, "little") + header)
        details.append(doctor.bundled("critic", lambda _: found).detail)
    assert len({detail.partition("sha256 ")[2] for detail in details}) == 2


def test_a_failing_nvidia_smi_is_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpus() == []
    tool.write_text("#!/bin/sh\necho GPU-1, NVIDIA H200, 580.65.06, 9.0, 143771 MiB\n")
    assert gpus()[0]["driver_version"] == "580.65.06"


def test_looking_imports_nothing_heavy() -> None:
    code = "import sys, engine.build.doctor; assert not {'torch', 'av', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
