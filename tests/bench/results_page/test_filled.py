"""Blocks of figures in pages written by hand: filled from the measurements, found stale, or refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from measurements import denoiser, put

from bench.results_page.__main__ import ROOT, main
from bench.results_page.figures import FIGURES, decoding, results
from bench.results_page.filled import FILLED, fill, without_blocks
from bench.results_page.page import Page, make_page
from bench.results_page.result_files import ResultError

BLOCK = "a 1\n<!-- figures: x -->\n{body}<!-- /figures -->\nb"
MADE = {"x": lambda page: "made 2"}
NOTHING = Page(text="", plots={}, files={}, anchors={})


@pytest.fixture(scope="module")
def page() -> Page:
    return make_page(ROOT / "bench" / "results")


def test_only_a_block_is_made_and_filling_twice_changes_nothing() -> None:
    filled = fill(BLOCK.format(body="old\n"), NOTHING, "p", MADE)
    assert filled == BLOCK.format(body="made 2\n")
    assert fill(filled, NOTHING, "p", MADE) == filled == fill(BLOCK.format(body=""), NOTHING, "p", MADE)
    assert without_blocks(filled) == "a 1\n\nb"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- figures: y -->\n<!-- /figures -->", "no figure is named y"),
        ("<!-- figures: x -->\nnever ends", "figures: x --> has no other half"),
        ("<!-- /figures -->", "/figures --> has no other half"),
        ("<!-- figures: x -->\n<!-- figures: x -->\n<!-- /figures -->", "has no other half"),
    ],
)
def test_a_broken_block_is_refused(text: str, message: str) -> None:
    with pytest.raises(ResultError, match=message):
        fill(text, NOTHING, "p", MADE)


def test_every_figure_is_shown_and_every_page_has_one() -> None:
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILLED}
    assert all("<!-- figures: " in text for text in texts.values())
    assert all(any(f"<!-- figures: {name} -->" in text for text in texts.values()) for name in FIGURES)


def test_a_measurement_that_is_missing_is_named() -> None:
    with pytest.raises(ResultError, match=r"demo_quality\.json is missing"):
        results(NOTHING)


def test_a_changed_figure_makes_the_front_page_stale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "bench" / "results", tmp_path / "bench" / "results")
    (tmp_path / "README.md").write_text("a\n<!-- figures: results -->\n<!-- /figures -->\n", encoding="utf-8")
    root = ["--root", str(tmp_path)]
    assert main(root) == 0 and main([*root, "--check"]) == 0
    measured = tmp_path / "bench" / "results" / "demo_quality.json"
    document = json.loads(measured.read_text(encoding="utf-8"))
    document["chosen_minus_first"] = {"mean": 8.5, "ci95": [0.4, 12.5]}
    measured.write_text(json.dumps(document), encoding="utf-8")
    capsys.readouterr()
    assert main([*root, "--check"]) == 1
    assert "stale: README.md" in capsys.readouterr().out
    assert main(root) == 0
    assert "gain +8.5 (+0.4 to +12.5) points; aim 8, reached" in (tmp_path / "README.md").read_text("utf-8")


def test_a_typed_figure_inside_a_block_is_stale(tmp_path: Path) -> None:
    put(tmp_path / "bench" / "results", "denoiser_h200", denoiser())
    (tmp_path / "docs").mkdir()
    text = "<!-- figures: forwards -->\n<!-- /figures -->\n"
    (tmp_path / "docs" / "denoiser.md").write_text(text, encoding="utf-8")
    assert main(["--root", str(tmp_path)]) == 0
    made = (tmp_path / "docs" / "denoiser.md").read_text(encoding="utf-8")
    link = "[wan 480x832x81](../RESULTS.md#how-fast-is-a-forward-of-wan-480x832x81)"
    assert f"| {link} | 32 760 | 800 | 500 | 320 | 2.50× | 1.56× | 50 |" in made
    (tmp_path / "docs" / "denoiser.md").write_text(made.replace("2.50×", "2.80×"), encoding="utf-8")
    assert main(["--root", str(tmp_path), "--check"]) == 1


def test_a_figure_that_its_measurement_lacks_is_named() -> None:
    text = "<!-- figures: z -->\n<!-- /figures -->"
    with pytest.raises(ResultError, match="p: z cannot be made of the measurements: KeyError 'gone'"):
        fill(text, NOTHING, "p", {"z": lambda page: {}["gone"]})


def test_a_whole_run_tells_what_was_measured(page: Page) -> None:
    file = page.files["end_to_end_h200"]
    summary = {"fast_over_script": 3.2, "fast_over_script_cold": 3.7}
    for kept, told in (
        (summary, "transformers: 3.20× warm (aim 4.5), 3.70× in the first scenario of a process"),
        ({}, "random weights: nothing can be compared."),
    ):
        document = {**file.document, "summary": kept, "parts": []}
        changed = {**page.files, "end_to_end_h200": replace(file, document=document)}
        assert told in results(replace(page, files=changed))


def test_an_aim_that_was_missed_is_said(page: Page) -> None:
    assert decoding(page).endswith("aim 3, **missed**.")
