"""What must be in the environment before a library reads it, through every way into the engine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import cache_dir

from engine.settings.environment import (
    cache_folder,
    compile_into,
    compiled_folder,
    let_memory_grow_in_place,
    let_waiting_threads_sleep,
)

ROOT = Path(__file__).resolve().parents[3]
HOUSES = ("engine", "export", "bench")
READ_ONCE = "import os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


def started(house: str, environment: dict[str, str]) -> str:
    """What a process prints that imports the house, as `retake` and `python -m house.module` do first."""
    code = f"import {house}; {READ_ONCE}"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    return dict(os.environ)


@pytest.mark.parametrize("house", HOUSES)
def test_a_house_says_how_threads_wait_before_torch_is_imported(house: str, bare: dict[str, str]) -> None:
    assert started(house, bare) == "2000 False"


def test_whatever_can_be_started_lies_in_such_a_house() -> None:
    folders = [folder for folder in ROOT.iterdir() if (folder / "__init__.py").is_file()]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    startable = [file for file in files if '"__main__"' in file.read_text(encoding="utf-8")]
    assert {file.relative_to(ROOT).parts[0] for file in startable} == set(HOUSES)


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_how_the_user_wants_threads_to_wait_stays(
    name: str, bare: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "7")
    before = dict(os.environ)
    let_waiting_threads_sleep()
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocator_grows_in_place_unless_the_user_says_how(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    let_memory_grow_in_place()
    assert "PYTORCH_ALLOC_CONF" not in os.environ, "torch has no such segments there"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv(name, "max_split_size_mb:64")
    before = dict(os.environ)
    let_memory_grow_in_place()
    assert dict(os.environ) == before
    monkeypatch.delenv(name)
    let_memory_grow_in_place()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_compiled_code_lies_where_the_user_said_else_in_our_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    compile_into(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/mine"
    assert str(compiled_folder()) == "/mine"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    compile_into(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)


def test_torchs_own_default_is_not_the_users_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch writes it into the environment as it is imported, which may be before we say ours."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")  # and put back what was there
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    cache_dir()
    assert "torchinductor_" in os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert compiled_folder() == cache_folder() / "compiled"
    compile_into(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
