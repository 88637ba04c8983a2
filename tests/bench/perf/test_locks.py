"""Folders at which processes take turns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.perf.locks import locked, locked_if_free

TRIES = "import sys; from pathlib import Path; from bench.perf.locks import locked_if_free\n" + (
    "with locked_if_free(Path(sys.argv[1])) as is_free: print(is_free)"
)


def is_free(folder: Path) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", TRIES, str(folder)], check=True, capture_output=True, text=True
    )
    return done.stdout == "True\n"


def test_nobody_else_is_inside(tmp_path: Path) -> None:
    place = tmp_path / "made" / "here"
    with locked(place):
        assert place.is_dir() and not is_free(place)
    assert is_free(place)
    with locked_if_free(place) as free:
        assert free and not is_free(place)


def test_those_who_share_it_are_inside_together(tmp_path: Path) -> None:
    with locked(tmp_path, shared=True), locked(tmp_path, shared=True), locked_if_free(tmp_path) as free:
        assert not free
