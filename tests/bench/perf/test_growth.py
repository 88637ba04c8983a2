"""Growth: the folders are what the engine reads, and exponents are those of hand-made figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.perf.growth import exponents, summary
from bench.perf.growth_folder import STEPS, TAKES, make_run
from engine.runs.store import RunStore
from engine.runs.trace_file import read_trace


def test_a_folder_is_a_finished_run(tmp_path: Path) -> None:
    make_run(tmp_path, 3)
    with RunStore.open(tmp_path / "run", read_only=True) as store:
        assert len(store.outcomes()) == 3 and store.pending() == ()
        assert store.changed_takes() == {} and store.changed_chosen() == {}
        assert len(store.opened_files()) == 3
    assert len(list(read_trace(tmp_path / "run"))) == 3 * TAKES * sum(STEPS.values())


def growing(exponent: float) -> dict[str, dict[str, float]]:
    """A constant of 100, and one second at 1000 scenarios more than at 0."""
    return {str(n): {"seconds": 100 + 1000 * (n / 1000) ** exponent} for n in (0, 1000, 5000)}


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_the_exponent_leaves_out_what_does_not_grow(exponent: float) -> None:
    assert exponents({"report": growing(exponent)}) == {"report seconds": exponent}


def test_what_hardly_grows_has_no_exponent() -> None:
    rows = {"run": {str(n): {"rss_mb": 100 + n / 5000} for n in (66, 1000, 5000)}}
    assert exponents(rows) == {}


def test_the_summary_leaves_out_what_was_not_measured() -> None:
    rows = {"report": growing(1.0), "select": {"198": {"rss_mb": 90.0}}}
    assert summary(rows) == {"largest_exponent": 1.0, "report_s_5000": 5100.0, "select_rss_mb_198": 90.0}
