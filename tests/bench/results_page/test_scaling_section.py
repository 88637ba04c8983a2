"""The section of several GPUs: the numbers of the file."""

from __future__ import annotations

from pathlib import Path

from measurements import put
from scaling_parts import document

from bench.results_page.page import make_page


def test_the_section_holds_what_was_measured(tmp_path: Path) -> None:
    put(tmp_path, "scaling_h200x2", document())
    text = make_page(tmp_path).text
    assert "What does another GPU bring?" in text and "with 2 workers" in text
    assert "| all workers, one killed and started again | 2 | 50 | 16 | 300.0 | 192.0 | 1 |" in text
    assert "holds: no take was stored twice" in text
