"""Benchmark scores by group: read from scores.json, drawn, and shown only where there are several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_run import make_run

from engine.report.render import render
from engine.report.scores import GroupScore, read_groups, score_plots
from engine.report.write import gather, read_scores


def group(original: float | None, verified: float, num_cases: int = 2) -> dict[str, Any]:
    return {"physics_iq": original, "physics_iq_verified": verified, "num_cases": num_cases}


def document() -> dict[str, Any]:
    scenarios = {"trimmed-falling-ball": group(80.0, 70.0), "trimmed-<b>pour": group(None, 20.0)}
    views = {"perspective-left": group(50.0, 45.0), "perspective-right": group(60.0, 55.0)}
    categories = {"Optics": group(61.25, 45.0, 4)}
    return {
        "physics_iq": 55.0,
        "by_category": {"Optics": 45.0},
        "by_view": dict.fromkeys(views, 1.0),
        "by_scenario": dict.fromkeys(scenarios, 1.0),
        "groups": {**categories, **views, **scenarios},
        "cases": [],
    }


def test_groups_are_read_by_kind() -> None:
    found = read_groups(document())
    assert found["category"] == {"Optics": GroupScore(original=61.25, verified=45.0, num_cases=4)}
    assert found["scenario"]["trimmed-<b>pour"].original is None
    assert list(found["view"]) == ["perspective-left", "perspective-right"]
    assert read_groups({"physics_iq": 1.0, "by_category": {"Optics": 1.0}}) == {}


def test_plots_show_both_scores_worst_scenario_first() -> None:
    plots = score_plots(read_groups(document()))
    assert set(plots) == {"view", "scenario"}  # a single category is the headline
    text = str(plots["scenario"])
    assert text.rindex("pour") < text.rindex("falling-ball")
    assert "Original: falling-ball 80.0; Verified: " in text and "&lt;b&gt;pour" in text and "<b>" not in text
    assert ">–<" in text  # what cannot be scored
    assert "Original: left 50.0, right 60.0" in str(plots["view"])


def test_page_has_the_plots_only_of_a_scored_run(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    heading = "Benchmark scores of the chosen takes"
    assert heading not in "".join(render(gather(run)))  # a scores.json of an older scorer
    path = run / "scores.json"
    groups = {key: value for key, value in document().items() if key.startswith(("by_", "groups"))}
    path.write_text(json.dumps(json.loads(path.read_text()) | groups))
    page = "".join(render(gather(run)))
    assert heading in page and "By scenario, from the lowest" in page and "By view" in page


def test_run_that_has_no_original_score_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(document() | {"physics_iq": None}))
    scores = read_scores(path)
    assert scores is not None and scores.physics_iq is None


@pytest.mark.parametrize("damage", [[], {"Optics": 3}, {"Optics": {}}])
def test_damaged_groups_are_an_error(damage: object) -> None:
    with pytest.raises((KeyError, TypeError)):
        read_groups(document() | {"groups": damage, "by_category": {"Optics": 1.0}} | {"by_view": {}})
