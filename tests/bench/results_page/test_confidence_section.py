"""The section on a critic's certainty: shares by bin, and what each threshold keeps."""

from __future__ import annotations

from bench.results_page.confidence_section import plan_confidence
from bench.results_page.page import SECTIONS
from bench.results_page.result_files import ResultFile

UNSURE = {"from": 0.0, "to": 0.5, "num": 2, "stated": 0.4, "true": 0.0, "ci95": [0.0, 0.0]}
SURE = {"from": 0.5, "to": 1.0, "num": 4, "stated": 0.9, "true": 0.75, "ci95": [0.5, 1.0]}
ALL = {"num": 4, "stays": 1.0, "true": 0.75}
HALF = {"num": 2, "stays": 0.5, "true": 1.0}
DOCUMENT = {
    "num_scenes": 2, "unreadable": 1, "settings": {"world": "wide"},
    "by_kind": {
        "event": {"num": 4, "true": 0.75, "ci95": [0.5, 1.0], "bins": [SURE]},
        "rest": {"num": 6, "true": 0.5, "ci95": [0.0, 1.0], "bins": [UNSURE, SURE]},
    },
    "by_threshold": [
        {"sure": 0.0, "held": {"mean": 0.8}, "by_kind": {"event": ALL, "rest": ALL}},
        {"sure": 0.95, "held": {"mean": 0.7}, "by_kind": {"event": HALF, "rest": HALF}},
    ],
}  # fmt: skip


def test_shares_bins_and_thresholds() -> None:
    section = plan_confidence(ResultFile(name="a", kind="plan_confidence", document=DOCUMENT))
    assert SECTIONS["plan_confidence"] is plan_confidence
    assert section.headline == "events true: 75 % of all, 100 % of those that it is at least 0.95 sure of"
    lines = section.body.splitlines()
    assert "| event | 4 | 75 % (50 to 100) | – | 75 % (50 to 100) |" in lines, (
        "nothing was stated so unsurely"
    )
    assert "| rest | 6 | 50 % (0 to 100) | 0 % (0 to 0) | 75 % (50 to 100) |" in lines
    assert "| 0.95 | 50 % stay, 100 % true | 50 % stay, 100 % true | 70 % |" in lines
    assert "1 could not be read" in section.body
