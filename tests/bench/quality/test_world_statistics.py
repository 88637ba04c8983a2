"""Shares of broken footage side by side: which aims each reaches, and what may not be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.quality.world_statistics import CHOSEN, join, main, reached
from bench.results_page.result_files import ResultFile
from bench.results_page.world_section import world
from engine.errors import ConfigError


def _mean(value: float, half: float = 1.0) -> dict[str, Any]:
    return {"mean": value, "ci95": [value - half, value + half]}


def _statistics(first: float = 50.0, spread: float = 8.0, oracle: float = 10.0, frozen: float = 11.0) -> Any:
    takes = {"first_take": _mean(first), "spread": _mean(spread), "oracle_minus_mean": _mean(oracle)}
    return {
        "n": 2, "frozen": _mean(frozen), "extrapolated": _mean(23.0), "brief": takes,
        "plan": takes | {"minus_brief": _mean(8.5)},
        "by_kind": {"piston": {"n": 1, "brief": takes, "plan": takes | {"minus_brief": _mean(7.9)}}},
        "settings": {"world": "wide", "count": 2, "takes": 8, "steps": 12}, "measured_on": {}, "notes": [],
    }  # fmt: skip


def test_each_aim_is_reached_or_missed_by_itself() -> None:
    assert set(reached(_statistics()).values()) == {True}
    missed = {
        "first_take": (_statistics(first=39.9), _statistics(first=65.1)),
        "spread": (_statistics(spread=7.9),),
        "oracle_minus_mean": (_statistics(oracle=9.9),),
        "baselines": (_statistics(frozen=49.0),),
    }
    for name, documents in missed.items():
        for document in documents:
            assert [key for key, value in reached(document).items() if not value] == [name]


def test_shares_stand_in_order_with_the_one_that_was_chosen() -> None:
    document = join({0.3: _statistics(), CHOSEN: _statistics(spread=5.8), 0.0: _statistics()})
    assert list(document["shares"]) == ["0", "0.15", "0.3"]
    assert document["settings"]["chosen_share"] == CHOSEN
    assert not document["shares"]["0.15"]["reached"]["spread"]
    section = world(ResultFile(name="world", kind="world", document=document))
    assert (
        section.headline
        == "first take 50.0 (49.0 to 51.0), the true plan in its prompt +8.5 (+7.5 to +9.5) points"
    )
    assert "| 0.15 | reached | missed | reached |" in section.body
    assert "| piston | 1 | 50.0 (49.0 to 51.0) |" in section.body


def test_statistics_of_other_takes_are_not_compared() -> None:
    other = _statistics()
    other["settings"] = other["settings"] | {"takes": 4}
    with pytest.raises(ConfigError, match=r"share 0 was measured with .*'takes': 4"):
        join({0.0: other, CHOSEN: _statistics()})
    with pytest.raises(ConfigError, match=r"no statistics of share 0\.15"):
        join({0.0: _statistics()})


def test_the_command_reads_files_and_names_one_that_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "a.json", tmp_path / "world.json"
    file.write_text(json.dumps(_statistics()), encoding="utf-8")
    assert main(["--share", f"0.15={file}", "--out", str(out)]) == 0
    assert "--takes 8" in json.loads(out.read_text(encoding="utf-8"))["command"]
    assert main(["--share", f"often={file}", "--out", str(out)]) == 2
    assert "--share often=" in capsys.readouterr().err
