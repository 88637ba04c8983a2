"""Growth is measured where it is: what a leak looks like, and what an even process does."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from faults.soak import MEASURES, measure, summary_of


def samples(growth: dict[str, float], count: int = 60) -> list[dict[str, Any]]:
    """One a minute; `growth` is by the hour."""
    return [
        {"elapsed_s": 60.0 * minute, "interrupted": 2, "commit": "c", "failed": ""}
        | {name: 1000 + growth.get(name, 0.0) * minute / 60 + (minute % 2) for name in MEASURES}
        for minute in range(count)
    ]


def test_a_leak_has_a_slope_beyond_its_error_and_nothing_else_has() -> None:
    made = summary_of(samples({"descriptors": 60.0}))
    assert (made["rounds"], made["interrupts"], made["minutes"]) == (60, 120, 59.0)
    by_name = {entry["name"]: entry for entry in made["measures"]}
    leak = by_name.pop("open descriptors")
    assert leak["per_hour"] == pytest.approx(60, rel=0.05) and leak["per_hour"] > 10 * leak["standard_error"]
    assert leak["end"] - leak["start"] == pytest.approx(49, abs=2), "the start is behind the warm-up"
    assert all(abs(entry["per_hour"]) < 3 * entry["standard_error"] for entry in by_name.values())


def test_the_measure_sees_what_is_left_behind(tmp_path: Path) -> None:
    before = measure(tmp_path)
    (tmp_path / "forgotten").write_text("x")
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    with (tmp_path / "forgotten").open():
        after = measure(tmp_path)
    stop.set()
    thread.join()
    assert after["temporary_files"] == before["temporary_files"] + 1
    assert after["threads"] == before["threads"] + 1
    assert after["descriptors"] == before["descriptors"] + 1
    assert after["rss_kib"] > 1024 and after["objects"] > 1000
