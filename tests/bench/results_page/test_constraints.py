"""Constraints are the versions that a measurement recorded; every committed measurement has them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bench.results_page.constraints import constraints, main

ROOT = Path(__file__).resolve().parents[3]
RESULTS = sorted((ROOT / "bench" / "results").glob("*.json"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = (line.split("==") for line in lines)
    return {name.lower().replace("_", "-"): version for name, version in pairs}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_each_committed_measurement_can_be_repeated(path: Path) -> None:
    found = pins(constraints(path))
    assert {"torch", "numpy"} <= found.keys() and "retake-engine" not in found
    assert not any("+" in version for version in found.values())


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("constraints.txt", ("test", "export")), ("constraints-gpu.txt", ("gpu", "constrained"))],
)
def test_each_lock_has_every_dependency_in_its_range(lock: str, extras: tuple[str, ...]) -> None:
    locked = pins((ROOT / ".ci" / lock).read_text(encoding="utf-8"))
    asked = [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in extras:
        asked += [Requirement(text) for text in PROJECT["optional-dependencies"][extra]]
    found = [one for one in asked if not one.name.startswith("retake")]
    assert [one.name for one in found if locked.get(one.name.lower(), "0") not in one.specifier] == []


def test_what_recorded_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"kind": "vae", "rows": []}))
    assert main([str(path)]) == 2
    assert "records no package versions" in capsys.readouterr().err
    path.write_text(json.dumps({"kind": "vae", "manifest": {"packages": {"b": "2+cpu", "a": "1.0"}}}))
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == "a==1.0\nb==2\n"
    assert main([str(tmp_path / "gone.json")]) == 2
