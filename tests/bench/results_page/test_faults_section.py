"""The section of the faults: each count from the file, sums that must agree, what a soak left behind."""

from __future__ import annotations

from typing import Any

import pytest

from bench.results_page.faults_section import faults
from bench.results_page.page import SECTIONS
from bench.results_page.result_files import ResultError, ResultFile


def row(fault: str, **given: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("tried", "kills", "lost", "duplicated", "corrupt", "unequal", "unclear"), 0)
    return {"fault": fault, **counts, "message": "", "examples": []} | given


def measured(**given: Any) -> ResultFile:
    rows = [
        row("SIGKILL", tried=1200, kills=1200),
        row(
            "a full disk",
            tried=40,
            lost=1,
            unclear=2,
            message="RunLost `x` | y",
            examples=["3: take 0", "4: take 1"],
        ),
    ]
    summary = {"kills": 1200, "lost": 1, "duplicated": 0, "corrupt": 0, "unequal": 0}
    document = {"kind": "faults", "summary": summary, "rows": rows, "soak": None}
    return ResultFile(name="faults", kind="faults", document=document | given)


def test_every_count_is_shown() -> None:
    made = faults(measured())
    assert (
        made.headline
        == "1\u2009200 kills, 1\u2009240 faults in all: 1 lost, 0 duplicated, 0 corrupt, 0 unequal"
    )
    assert "| SIGKILL | 1200 | 1200 | 0 | 0 | 0 | 0 | 0 |  |" in made.body
    assert "| a full disk | 40 | 0 | 1 | 0 | 0 | 0 | 2 | `RunLost 'x' \\| y` |" in made.body
    assert "- a full disk: `3: take 0`" in made.body and "take 1" not in made.body
    assert "Soak" not in made.body
    assert SECTIONS["faults"] is faults


def test_sums_that_are_not_those_of_the_rows_are_refused() -> None:
    wrong = {"kills": 1200, "lost": 0, "duplicated": 0, "corrupt": 0, "unequal": 0}
    with pytest.raises(ResultError, match="summary has 0 lost, its rows have 1"):
        faults(measured(summary=wrong))


def test_a_soak_is_shown_with_its_slope() -> None:
    measures = [
        {
            "name": "resident memory",
            "start": 600000,
            "middle": 600100,
            "end": 600200,
            "per_hour": 12.34,
            "standard_error": 20.0,
        },
        {"name": "threads", "start": 5, "middle": 5, "end": 5, "per_hour": None, "standard_error": None},
    ]
    soak = {
        "minutes": 60.2,
        "rounds": 700,
        "interrupts": 1400,
        "failed": ["StoreError"],
        "fitted_from_minute": 10.1,
        "measures": measures,
    }
    body = faults(measured(soak=soak)).body
    assert (
        "60 minutes, 700 rounds" in body and "1\u2009400 interrupts" in body and "from minute 10 on" in body
    )
    assert "interrupts, 1 rounds that failed" in body
    assert "| resident memory | 600 000 | 600 100 | 600 200 | +12.3 ± 20.0 |" in body
    assert "| threads | 5 | 5 | 5 | – |" in body
