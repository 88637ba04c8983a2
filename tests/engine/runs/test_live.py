"""How far a run is, as another process reads it; whatever lies there, it ends nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import Silent

from engine.runs import live
from engine.runs.live import LIVE, Live, read_live
from engine.runs.pace import Pace
from engine.types import Outcome


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WRITE_EVERY_S", 0.0)


def made(tmp_path: Path, worked_s: float = 12.0) -> tuple[Live, Silent]:
    display = Silent()
    return Live(tmp_path, display, worked_s=lambda: worked_s, memory=lambda: {"allocated": 5}), display


def test_steps_and_ends_are_noted_and_passed_on(tmp_path: Path) -> None:
    noting, display = made(tmp_path)
    assert read_live(tmp_path) is None
    with noting:
        noting.update("generate", "a", 1, 9)
        noting.update("critique", "b", 2, 3)
        noting.update("critique", "c", 3, 3)
        found = read_live(tmp_path)
        assert found is not None
        assert found.lanes == {"generate": {"a": (1, 9)}, "critique": {"b": (2, 3)}}, "what is over is gone"
        assert (found.memory, found.worked_s, found.pace) == ({"allocated": 5}, 12.0, Pace())
        refused = Outcome(scenario_id="a", attempts=(), failure="no clip")
        noting.outcome(refused)
        assert display.outcomes == [refused]
        found = read_live(tmp_path)
        assert found is not None and found.lanes["generate"] == {} and found.pace.num == 0, "it cost no time"
    ended = read_live(tmp_path)
    assert ended is not None and ended.lanes == {}


def test_it_is_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WRITE_EVERY_S", 1000.0)
    noting, _ = made(tmp_path)
    with noting:
        noting.update("generate", "a", 1, 9)
        found = read_live(tmp_path)
        assert found is not None and found.lanes == {}


def test_a_folder_that_takes_no_writes_ends_no_run(tmp_path: Path) -> None:
    noting, display = made(tmp_path / "gone")
    (tmp_path / "gone").write_text("no folder")
    with noting:
        noting.outcome(Outcome(scenario_id="a", attempts=(), failure="x"))
    assert len(display.outcomes) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"pid": 1}', "\xff", '{"lanes": {"a": [1]}}'])
def test_what_is_no_state_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / LIVE).write_text(text)
    assert read_live(tmp_path) is None


def test_odd_parts_of_a_state_are_none(tmp_path: Path) -> None:
    noting, _ = made(tmp_path)
    with noting:
        noting.update("generate", "a", 1, 9)
    good = json.loads((tmp_path / LIVE).read_text())
    assert read_live(tmp_path) is not None
    for key, value in (("lanes", {"generate": {"a": [1]}}), ("pace", {}), ("memory", 3), ("updated_s", None)):
        (tmp_path / LIVE).write_text(json.dumps(good | {key: value}))
        assert read_live(tmp_path) is None
