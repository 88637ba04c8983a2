"""The section of whole runs: the numbers of the file, and nothing where a variant is missing."""

from __future__ import annotations

import json
from pathlib import Path

from measurements import put
from whole_runs import part

from bench.perf.end_to_end.join import join
from bench.results_page.page import make_page


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
