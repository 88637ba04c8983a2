"""The manifest: each fact against an independent source, absence as None, and an atomic write."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.runs import manifest
from engine.runs.manifest import code_state, collect, gpus, model_digests, package_versions, write_manifest


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_code_state_of_a_repository_a_change_and_a_folder_inside(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "file").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    assert code_state(tmp_path) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "inside" / "file").write_text("2")
    assert code_state(tmp_path)["dirty"] is True
    assert code_state(tmp_path / "inside") == {"commit": None, "dirty": None}


def test_no_git_and_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_state(tmp_path) == {"commit": None, "dirty": None}
    assert gpus() == []


def test_gpus_from_the_drivers_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = "GPU-1, NVIDIA H200, 580.1, 9.0, 143771 MiB\nGPU-2, NVIDIA L4, 580.1, 8.9, 23034 MiB"
    monkeypatch.setattr(manifest, "_output", lambda program, *arguments: listing)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu["compute_cap"] for gpu in gpus()] == ["9.0", "8.9"]
    assert gpus()[0]["name"] == "NVIDIA H200"


def test_gpus_hidden_from_the_process_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = "GPU-1, NVIDIA H200, 580.1, 9.0, 143771 MiB\nGPU-2, NVIDIA L4, 580.1, 8.9, 23034 MiB"
    monkeypatch.setattr(manifest, "_output", lambda program, *arguments: listing)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # CUDA's first: the faster, whatever the driver's order
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="2"))
    assert [gpu["name"] for gpu in gpus()] == ["NVIDIA L4"]


def test_digests_of_all_that_a_model_is_loaded_from(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    content = {"vae/model.safetensors": b"weights", "config.json": b"{}", "tokenizer.model": b"words"}
    for name, data in {**content, "README.md": b"text", "model.py": b"code"}.items():
        (tmp_path / name).write_bytes(data)
    expected = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    assert model_digests(tmp_path) == expected


def test_manifest_is_complete_json(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    facts = collect(
        {"loop": {"loops": 4}, "out": tmp_path},
        {"critic": tmp_path},
        seeds={"run": 7},
        argv=["retake", "run"],
    )
    path = tmp_path / "manifest.json"
    path.write_text("old")
    write_manifest(path, facts)
    read = json.loads(path.read_text())
    assert read["seeds"] == {"run": 7} and read["argv"] == ["retake", "run"]
    assert read["config"] == {"loop": {"loops": 4}, "out": str(tmp_path)}
    assert read["models"]["critic"]["sha256"] == {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    assert read["machine"]["cpu"] and read["started"].endswith("+00:00")
    assert read["packages"]["numpy"] == __import__("numpy").__version__
    with pytest.raises(ValueError, match="JSON compliant"):
        write_manifest(path, {"score": float("nan")})
    assert json.loads(path.read_text()) == read, "a failed write leaves the old file"


def test_missing_packages_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "PACKAGES", ("numpy", "certainly-not-installed"))
    assert list(package_versions()) == ["numpy"]
