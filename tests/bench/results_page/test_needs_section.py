"""What published models need of a card: every number from the file."""

from __future__ import annotations

from bench.results_page.needs_section import needs
from bench.results_page.page import SECTIONS
from bench.results_page.result_files import ResultFile

ROW = {"generator": "a/wan", "critic": "a/critic", "overlap": True, "refused": None, "changed": []}
SMALL = {**ROW, "card": "small", "gib": 8, "planned_gib": None, "refused": "give it more"}
MIDDLE = {**ROW, "card": "middle", "gib": 16, "planned_gib": 15.24, "changed": ["x = 1", "y = 2"]}
DOCUMENT = {
    "settings": {"preset": "fast", "width": 832, "height": 480},
    "needs": [
        SMALL,
        {**MIDDLE, "overlap": False},
        {**ROW, "critic": "b/critic", "card": "large", "gib": 80, "planned_gib": 34.0},
    ],
}
FILE = ResultFile(name="model_needs", kind="model_needs", document=DOCUMENT)


def test_the_section_says_what_is_changed() -> None:
    assert SECTIONS["model_needs"] is needs
    section = needs(FILE)
    assert section.headline == "1 generator, 2 critics"
    assert "takes of 832x480 with preset fast" in section.body
    assert "| a/wan | a/critic | small | 8 | – | does not fit |" in section.body
    assert "| a/wan | a/critic | middle | 16 | 15.2 | x = 1; y = 2; one lane at a time |" in section.body
    assert "| a/wan | b/critic | large | 80 | 34.0 | nothing |" in section.body
