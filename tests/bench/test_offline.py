"""No program of the benchmarks may ask the model hub: it is off before a model library is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bench
from bench.table import make
from engine import cli

ROOT = Path(str(bench.__file__)).parents[1]
ROOMS = ("perf", "quality")
FIRST = """
import sys
from importlib.abc import MetaPathFinder
class Watch(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("huggingface_hub", "diffusers", "transformers", "tokenizers"):
            import os
            print(name, os.environ.get("HF_HUB_OFFLINE"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
"""
"""Ends at the first model library that is looked for, and says whether the hub was off."""


def programs() -> list[str]:
    """The rooms that import model libraries, of which each program is a part, and the programs elsewhere."""
    found = [
        path.relative_to(ROOT)
        for path in (ROOT / "bench").rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]
    names = {".".join(path.with_suffix("").parts) for path in found if path.parts[1] not in ROOMS}
    return sorted(names | {f"bench.{room}" for room in ROOMS})


@pytest.mark.parametrize("name", programs())
def test_the_hub_is_off_before_a_model_library_is_imported(name: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", f"{FIRST}\nimport {name}\nimport transformers"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    allowed = (
        {"transformers 1\n"}
        if name.split(".")[1] in ROOMS
        else {f"transformers {off}\n" for off in (None, 1)}
    )
    assert done.stdout in allowed, "of the others none imports a model library by itself"


def test_it_is_off_where_selectors_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert CliRunner().invoke(cli.app, ["select", str(tmp_path)]).exit_code == 2
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert make.main([str(tmp_path), "--select", "consensus"]) == 2
    assert os.environ["HF_HUB_OFFLINE"] == "1"
