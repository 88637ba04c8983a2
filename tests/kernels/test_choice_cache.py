"""Decisions on disk: they come back equal, and their name changes with everything that matters."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from attention_cases import ADA, problem
from attention_folder import GOOD, Write, write_folder  # noqa: F401  (a fixture)

from kernels import choice_cache, timing
from kernels.autotune import Tiles
from kernels.choice_cache import Decision

TILES = Tiles(block_m=128, block_n=64, num_warps=8, num_stages=3)


@pytest.mark.parametrize("tiles", [None, TILES])
def test_a_decision_comes_back(tiles: Tiles | None, tmp_path: Path) -> None:
    decision = Decision(name="fa3", ms={"fa3": 11.6}, reasons={"sdpa_math": "too large"}, tiles=tiles)
    path = tmp_path / "deep" / "choice.json"
    choice_cache.write(path, decision)
    assert choice_cache.read(path) == decision
    assert [file.name for file in path.parent.iterdir()] == ["choice.json"]


def test_no_file_is_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert choice_cache.read(tmp_path / "none.json") is None and caplog.records == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"name": "a", "ms": {}, "reasons": {}, "tiles": {"block": 1}}']
)
def test_a_damaged_file_is_told_and_not_used(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "choice.json"
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert choice_cache.read(path) is None
    assert "choice.json" in caplog.text


def test_the_name_changes_with_everything(
    write_folder: Write,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = write_folder(good=GOOD)

    def name(**changes: Any) -> str:
        arguments = {"problem": problem(), "wanted": (), "accuracy": ("exact",), "package": package} | changes
        return choice_cache.path(tmp_path, **arguments).name

    seen = [name()]
    assert name() == seen[0]
    changes: tuple[dict[str, Any], ...] = (
        {"problem": problem(target=ADA)},
        {"problem": problem(q_len=7)},
        {"problem": problem(dtype="fp16")},
        {"wanted": ("a", "b")},
        {"wanted": ("b", "a")},
        {"accuracy": ("exact", "8bit")},
    )
    seen += [name(**change) for change in changes]
    assert name(accuracy=("8bit", "exact")) == seen[-1]  # a set, in any order
    machine = timing.machine()
    for key in ("torch", "driver", "gpu"):
        with monkeypatch.context() as patch:
            patch.setattr(timing, "machine", lambda key=key: machine | {key: "another"})
            seen.append(name())
    with monkeypatch.context() as patch:
        patch.setattr(choice_cache, "version", lambda distribution: "9.9.9")
        seen.append(name())
    write_folder(good=GOOD + "\n")
    seen.append(name())
    write_folder(_helper="x = 1\n")
    seen.append(name())
    assert len(set(seen)) == len(seen) == 13
