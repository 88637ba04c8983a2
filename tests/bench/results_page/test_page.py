"""The committed RESULTS.md is what the committed measurements give; the page of made-up ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from measurements import denoiser, kernel_rows, put

from bench.results_page.__main__ import ROOT, main, stale, write
from bench.results_page.page import FIRST_LINE, make_page, section_of
from bench.results_page.result_files import ResultError, read_folder


def test_committed_page_and_plots_are_up_to_date() -> None:
    found = stale(ROOT, make_page(ROOT / "bench" / "results"))
    assert found == [], "run `make results` and commit what it writes"


def test_every_committed_measurement_has_a_section() -> None:
    text = make_page(ROOT / "bench" / "results").text
    for path in (ROOT / "bench" / "results").glob("*.json"):
        assert text.count(f"- File: [bench/results/{path.name}]") == 1


def test_no_section_repeats_the_notes_of_its_file() -> None:
    for file in read_folder(ROOT / "bench" / "results"):
        body = section_of(file).body
        assert not [note for note in file.document.get("notes", []) if str(note) in body], file.name


def test_page_of_two_files(tmp_path: Path) -> None:
    put(tmp_path, "attention_h200", {"kind": "attention", "rows": kernel_rows(), "notes": ["a note"]})
    put(tmp_path, "denoiser_h200", denoiser())
    page = make_page(tmp_path)
    lines = page.text.splitlines()
    assert lines[0] == FIRST_LINE and "python -m bench.results_page" in lines[0]
    assert page.text.index("## How fast is a forward") < page.text.index("## How fast is attention")
    link = "- [How fast is attention alone?](#how-fast-is-attention-alone)"
    assert f"{link}: [1, 12, 32760, 128] bf16: triton_int8 4 ms" in page.text
    assert "- Command: `python -m x`\n- Machine: GPU NVIDIA X, driver 1.2" in page.text
    assert "Notes:\n\n- a note" in page.text
    assert list(page.plots) == ["waterfall-denoiser-h200-wan-480x832x81.svg"]


def test_two_machines_are_two_sections(tmp_path: Path) -> None:
    put(tmp_path, "denoiser_h200", denoiser())
    put(tmp_path, "denoiser_4090", denoiser())
    page = make_page(tmp_path)
    title = "## How fast is a forward of wan 480x832x81? (denoiser_h200)"
    assert title in page.text and "(#how-fast-is-a-forward-of-wan-480x832x81-denoiser_4090)" in page.text
    assert len(page.plots) == 2


def test_any_rows_have_a_section_and_anything_else_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "x", {"kind": "new_kind", "rows": kernel_rows()})
    assert "## New kind" in make_page(tmp_path).text
    path.write_text('{"kind": "new_kind", "figures": []}', encoding="utf-8")
    with pytest.raises(ResultError, match="unknown kind 'new_kind'"):
        make_page(tmp_path)


def test_a_file_without_what_its_kind_needs_is_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path, "denoiser_h200", {"kind": "denoiser", "subjects": [{"name": "s"}]})
    with pytest.raises(
        ResultError, match=r"denoiser_h200\.json is not what kind 'denoiser' should be.*variants"
    ):
        make_page(tmp_path)


def test_write_then_check_then_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, docs = tmp_path / "bench" / "results", tmp_path / "docs"
    put(folder, "denoiser_h200", denoiser())
    docs.mkdir()
    (docs / "waterfall-old.svg").write_text("", encoding="utf-8")
    (docs / "report.png").write_text("", encoding="utf-8")
    root = ["--root", str(tmp_path)]
    assert main([*root, "--check"]) == 1
    assert "stale: docs/waterfall-old.svg" in capsys.readouterr().out
    assert main(root) == 0 and main([*root, "--check"]) == 0
    assert sorted(path.name for path in docs.iterdir()) == [
        "report.png", "waterfall-denoiser-h200-wan-480x832x81.svg",
    ]  # fmt: skip
    put(folder, "denoiser_h200", denoiser(tokens=1))
    assert stale(tmp_path, make_page(folder)) == ["RESULTS.md"]


def test_writing_is_repeatable(tmp_path: Path) -> None:
    put(tmp_path / "bench" / "results", "denoiser_h200", denoiser())
    page = make_page(tmp_path / "bench" / "results")
    write(tmp_path, page)
    assert stale(tmp_path, page) == []


def test_a_newer_schema_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "bench" / "results", "denoiser_h200", denoiser() | {"schema": 2})
    assert main(["--root", str(tmp_path)]) == 2
    assert "has schema 2" in capsys.readouterr().err and not (tmp_path / "RESULTS.md").exists()
