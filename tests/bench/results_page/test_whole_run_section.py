"""The section of whole runs: the numbers of the file, and nothing where a variant is missing."""

from __future__ import annotations

import json
from pathlib import Path

from measurements import put
from whole_runs import part

from bench.perf.end_to_end.join import join
from bench.results_page.page import make_page
from bench.results_page.whole_run_section import CAUSES


def document(folder: Path, *parts: dict) -> dict:
    paths = [put(folder, f"part{i}", one) for i, one in enumerate(parts)]
    return json.loads(json.dumps(join(paths)))


def page(tmp_path: Path, *parts: dict) -> str:
    put(tmp_path / "results", "end_to_end_h200", document(tmp_path / "parts", *parts))
    return make_page(tmp_path / "results").text


def test_the_joined_document_is_shown(tmp_path: Path) -> None:
    slow = part("script", 140.0, done=1, tokens_per_scenario={"clip0": 1203})
    text = page(tmp_path, slow, part("fast", 40.0, peak_allocated_bytes=2**35))
    assert "- [How fast is a whole run?](#how-fast-is-a-whole-run): 3.50× fast against the user's" in text
    assert "| fast | preset fast | 2 | 40.0 | 90.0 |" in text and "| 32.00 | 91 |" in text
    assert "| 1 of 2 | 140 |" in text
    assert "as many tokens a scenario: **no** (script 1203; fast 1200)" in text
    assert "- no scenario failed: yes (none)" in text


def test_a_single_variant_is_compared_with_nothing(tmp_path: Path) -> None:
    text = page(tmp_path, part("fast", 40.0))
    assert "no two variants can be compared" in text and "×" not in text.partition("## How fast")[2]


def script(seconds: float) -> dict:
    return part("script", seconds, warm_up=False, each_s=[200.0, seconds], median_s={"generate": 30.0})


def test_each_part_of_the_way_is_worth_something(tmp_path: Path) -> None:
    ours = part("fast-sequential", 36.0, median_s={"generate": 13.0})
    text = page(tmp_path, script(144.0), ours, part("fast", 30.0))
    assert "| script | diffusers' modules and transformers' generate, eager | 25.0 | – | – | 144 |" in text
    assert "| compiled, FP8 | the takes of preset fast (computed) | 32.7 |" in text
    assert "one job at a time | 100 | +67.3 | 3.06× | 36.0 |" in text
    assert "| overlap | lanes that run at once | 120 | +20.0 | 1.20× | 30.0 |" in text
    assert "Not measured warm: patches (fast-patches)" in text
    plot = "waterfall-end-to-end-h200.svg"
    assert f"(docs/{plot})" in text
    svg = make_page(tmp_path / "results").plots[plot]
    assert "120 an hour" in svg and "+20.0 an hour, 1.20×" in svg
    assert "| script, no warm-up |" in text and "| 200 | 144 |" in text


def test_a_part_behind_others_that_were_not_measured_is_worth_all_of_them(tmp_path: Path) -> None:
    text = page(tmp_path, script(144.0), part("fast", 30.0))
    whole = "compiled, FP8, critic's engine, overlap"
    assert f"| {whole} | the takes of preset fast (computed), decoding in graphs" in text
    assert "lanes that run at once | 120 | +95.0 | 4.80× | 30.0 |" in text
    alone = page(tmp_path / "alone", part("fast", 30.0), part("fast-patches", 25.0))
    assert f"| {whole} |" in alone and "| script, compiled" not in alone and "| patches | " in alone


def test_missing_parts_are_said_and_one_bar_is_no_waterfall(tmp_path: Path) -> None:
    text = page(tmp_path, part("fast", 30.0))
    assert "Not measured warm: script (script), compiled, FP8 (script, fast-sequential), critic's" in text
    assert "waterfall-end" not in text and not make_page(tmp_path / "results").plots


def test_waits_of_the_lane_are_told(tmp_path: Path) -> None:
    wait = {"at_s": 12.0, "seconds": 3.25, "cause": "no_job", "meanwhile_s": {"critique: plan clip0 0": 2.5}}
    parts_s = dict.fromkeys(CAUSES, 0.0) | {"working_s": 54.0, "no_job_s": 6.0}
    found = {"makespan_s": 60.0, "parts_s": parts_s, "longest_waits": [wait]}
    alone = part("fast-sequential", 40.0, idle=found, each_s=[40.0, 40.0])
    text = page(tmp_path, part("fast", 30.0, idle=found), alone, part("exact", 40.0, idle={}))
    assert "| fast | 60.0 | 54.0 | 0 | 6 | 0 |" in text
    assert "| fast-sequential | 60.0 |" in text and "- fast-sequential: 3.25 s" not in text
    assert "- fast: 3.25 s at 12.0 s, no take begun; meanwhile critique: plan clip0 0 2.5 s" in text


def test_the_seconds_before_the_first_take_are_told_by_phase(tmp_path: Path) -> None:
    phases = {"process": 2.0, "prepare": 7.0, "prepare/imports": 5.0, "load": 6.0, "hash": 0.5}
    first = part(
        "fast",
        40.0,
        done=1,
        asked=1,
        warm_up=False,
        seconds_before=phases,
        process_to_window_s=16.0,
        first_denoise_step_s=4.0,
        first_take_s=20.0,
        process_to_first_take_s=36.0,
    )
    text = page(tmp_path, first)
    assert "Where the seconds before the first take of fast, no warm-up went:" in text
    rows = ("prepare | 7", "&nbsp;&nbsp;&nbsp;&nbsp;imports | 5", "between the phases | 0.5")
    rows += ("to the end of the first denoise step | 4", "to the first take on disk | 16.0", "**all** | 36.0")
    assert all(f"| {row} |" in text for row in rows)
    older = page(tmp_path / "older", first | {"seconds_before": {"build_run": 15.0}})
    assert "Where the seconds before" not in older
