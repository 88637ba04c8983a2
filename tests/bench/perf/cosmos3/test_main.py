"""The command: rows that are there are not measured again, medians and ratios, and a run with tiny models."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.perf.cosmos3 import __main__ as command
from bench.perf.cosmos3.document import CRITIQUED, LIBRARY, OURS, joined, summary
from bench.results_page.page import make_page

SETTINGS = {"size": "nano", "steps": 35, "preset": "fast"}
ROWS: list[dict[str, Any]] = [
    {"part": "480p", "name": "480p memory", "memory": [{"error": -0.03}, {"error": 0.01}]},
    {"part": "480p", "name": "480p error", "latent_error": 0.05},
    *({"part": "480p", "name": f"a{s}", "way": OURS, "seconds": s} for s in (30.0, 34.0, 33.0)),
    *(
        {"part": "480p", "name": f"b{s}", "way": LIBRARY, "seconds": s, "stages": {"mp4": 1.5}}
        for s in (66.0, 67.0)
    ),
    {"part": "720p", "name": "c", "way": OURS, "seconds": 130.0, "stages": {"mp4": 5.0}},
    {"part": "720p", "name": "d", "way": CRITIQUED, "seconds": 130.0},
]


def test_the_summary_has_medians_ratios_and_the_worst_error() -> None:
    found = summary(ROWS, SETTINGS)
    assert found == {
        "nano_480p_s": 33.0,
        "nano_480p_library_s": 66.5,
        "nano_480p_over_diffusers": 66.5 / 33.0,
        "nano_480p_frames_over_diffusers": 65.0 / 33.0,
        "nano_480p_frames_s": 33.0,
        "nano_480p_library_frames_s": 65.0,
        "nano_480p_library_over_published": 65.0 / 67.0,  # which has no mp4
        "nano_720p_s": 130.0,
        "nano_720p_frames_s": 125.0,
        "nano_720p_with_critique_s": 130.0,
        "nano_720p_critique_adds": pytest.approx(0.04),  # of 125 s: no mp4 is written beside a critique
        "plan_error_worst": 0.03,
    }
    for other in ({"steps": 2}, {"size": "tiny"}):
        assert found.keys() - summary(ROWS, SETTINGS | other) == {"nano_480p_library_over_published"}


def test_latents_that_differ_fail_the_check() -> None:
    good, bad = ({**ROWS[1], "latent_error": error} for error in (0.05, 0.5))
    assert joined([good], SETTINGS, "c")["all_checks_hold"]
    assert not joined([bad], SETTINGS, "c")["all_checks_hold"]


def test_the_results_page_has_a_section_of_it(tmp_path: Path) -> None:
    rows = [
        row | {"stages": {"denoise step": 20.0} | row.get("stages", {})} if "way" in row else row
        for row in ROWS
    ]
    document = joined(rows, SETTINGS, "python -m bench.perf.cosmos3")
    (tmp_path / "cosmos3_h200.json").write_text(json.dumps(document))
    text = make_page(tmp_path).text
    assert (
        "480p: 33.0 s, 33.0 until its frames are there; diffusers takes 2.02 times as long, 1.97 until the "
        "frames; its frames take 0.97 of the seconds that NVIDIA publishes of it" in text
    )
    assert (
        "; 720p: 130.0 s, 125.0 until its frames are there; a critique adds 4.0 %; memory planned at most "
        "3.0 % off" in text
    )
    assert "| 480p | library | 66.50 | 66.00 | 67.00 | 2 | denoise step 20.00, mp4 1.50 |" in text


def options(out: Path, *more: str) -> list[str]:
    return ["--models", str(out.parent), "--size", "tiny", "--rounds", "1", "--out", str(out), *more]


def test_the_same_command_goes_on_where_the_time_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def rows(given: Any, part: str) -> Iterator[Callable[[], dict[str, Any]]]:
        for name in command._left(given, part):
            yield lambda name=name: measured.append(name) or {"name": name}  # type: ignore[func-returns-value]

    monkeypatch.setattr(command, "_rows", rows)
    out = tmp_path / "x.json"
    words = options(out, "--only", "480p")
    assert command.main([*words, "--budget", "0"], started_s=time.perf_counter()) == 0 and measured == []
    for _ in range(2):
        assert command.main([*words, "--budget", "100"], started_s=time.perf_counter()) == 0
    wanted = ["480p memory", "480p error", "480p ours 0", "480p library 0", "480p ours with a critique 0"]
    assert measured == wanted
    assert [row["name"] for row in json.loads(out.read_text())["rows"]] == wanted


@pytest.mark.slow
def test_tiny_models_are_measured_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    status = command.main(options(out, "--parts", "480p"), started_s=time.perf_counter())
    document = json.loads(out.read_text())
    assert status == 0 and document["checks"][0]["holds"]
    assert {"nano_480p_s", "nano_480p_over_diffusers", "nano_480p_with_critique_s"} <= set(
        document["summary"]
    )
