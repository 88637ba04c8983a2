"""What is installed from the wheel works outside of the repository; the source archive makes the same wheel.

Built with the tools of this environment and installed without a network: dependencies are those of this one.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGED = ("pyproject.toml", "README.md", "LICENSE", "engine", "kernels", "export", "bench")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        int(importlib.metadata.version("setuptools").partition(".")[0]) < 77
        if importlib.util.find_spec("setuptools")
        else True,
        reason="building needs setuptools 77 in this environment",
    ),
]


@dataclass(frozen=True)
class Installed:
    """An environment of its own with the wheel in it, and an empty folder to work in."""

    bin: Path
    work: Path

    def run(self, *command: str | Path, status: int = 0) -> str:
        env = {**unaware(), "XDG_CACHE_HOME": str(self.work / "cache"), "COLUMNS": "200"}
        done = subprocess.run(
            [self.bin / command[0], *command[1:]], cwd=self.work, env=env, capture_output=True, text=True
        )
        assert done.returncode == status, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout


def unaware() -> dict[str, str]:
    """The environment without what would lead a process to this tree."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def build(tree: Path, kind: str, out: Path) -> Path:
    """`kind`: build_wheel or build_sdist."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, kind, str(out)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a package is made of, elsewhere: building leaves files in its tree."""
    place = tmp_path_factory.mktemp("tree")
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, place / name)
    return place


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    return build(tree, "build_wheel", tree / "dist")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Other packages come from this environment, by path alone: its own link to this tree is not followed."""
    place = tmp_path_factory.mktemp("elsewhere")
    venv.create(place / "venv", symlinks=True)
    python = place / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    done = subprocess.run([*map(str, pip)], env=unaware(), cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (site,) = (place / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (place / "work").mkdir()
    return Installed(bin=python.parent, work=place / "work")


def test_commands_and_scenes_work_from_the_wheel(installed: Installed) -> None:
    assert installed.run("retake", "--version") == "retake 0.1.0\n"
    for name in ("demo", "score", "export", "table"):  # of every house
        assert name in installed.run("retake", "--help")
    installed.run("retake", "scenes", "scenes", "--count", "1", "--views", "center")
    assert "no fault found" in installed.run("retake", "dataset", "check", "scenes")


def test_it_is_imported_by_its_name(installed: Installed) -> None:
    code = "import retake, engine; print(retake.__file__, engine.__file__, len(retake.__all__))"
    place, engine, count = installed.run("python", "-c", code).split()
    assert all(Path(path).is_relative_to(installed.bin.parent) for path in (place, engine))
    assert int(count) > 40


def test_the_loop_runs_from_the_wheel(installed: Installed) -> None:
    said = installed.run("retake", "demo", "--limit", "1", "--loops", "0", "--steps", "1", "--out", "run")
    assert "1 of 1 scenario done" in said and "Verified" in said
    assert (installed.work / "run" / "report.html").is_file()


def test_its_types_are_seen(installed: Installed) -> None:
    """The examples are right by them, and two wrong calls are told."""
    for example in (ROOT / "docs" / "examples").glob("*.py"):
        shutil.copyfile(example, installed.work / example.name)
    wrong = 'import retake\nretake.score(3)\nretake.take("generator")\n'
    (installed.work / "wrong.py").write_text(wrong)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed.bin / "python"]
    command = [*map(str, mypy), "--follow-imports=silent", "--cache-dir=mypy"]
    names = sorted(path.name for path in installed.work.glob("*.py"))
    done = subprocess.run(
        [*command, *names], cwd=installed.work, env=unaware(), capture_output=True, text=True
    )
    found = set(re.findall(r"^(\w+\.py):(\d+): error:", done.stdout, re.MULTILINE))
    assert found == {("wrong.py", "2"), ("wrong.py", "3")}, done


def test_the_source_archive_makes_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    archive = build(tree, "build_sdist", tmp_path / "dist")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if (path / "pyproject.toml").is_file())
    again = build(unpacked, "build_wheel", tmp_path / "dist")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        names = set(one.namelist())
    assert {"retake/__init__.py", "retake/py.typed", "kernels/linear/four_bit.cu"} <= names
    assert {
        "engine/report/script.js",
        "engine/watch/watch.js",
        "engine/demo/models/critic/config.json",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "engine/api/name/"))]
