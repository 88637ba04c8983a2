"""What published models need of a card: every number from the file, names and licences from the engine."""

from __future__ import annotations

from bench.results_page.models_table import models
from bench.results_page.needs_section import needs
from bench.results_page.page import SECTIONS, Page
from bench.results_page.result_files import ResultFile
from engine.build.hub import HOSTED

ROW = {"critic": "a/critic", "overlap": True, "refused": None, "changed": []}
SMALL = {**ROW, "card": "small", "gib": 8, "planned_gib": None, "refused": "give it more"}
MIDDLE = {**ROW, "card": "middle", "gib": 16, "planned_gib": 15.24, "changed": ["x = 1", "y = 2"]}
DOCUMENT = {
    "settings": {"generator": "a/wan", "preset": "fast", "width": 832, "height": 480},
    "needs": [
        SMALL,
        {**MIDDLE, "overlap": False},
        {**ROW, "card": "large", "gib": 80, "planned_gib": 34.0},
    ],
}
FILE = ResultFile(name="model_needs", kind="model_needs", document=DOCUMENT)


def test_the_section_says_what_is_changed() -> None:
    assert SECTIONS["model_needs"] is needs
    body = needs(FILE).body
    assert "| a/critic | small | 8 | – | does not fit |" in body
    assert "| a/critic | middle | 16 | 15.2 | x = 1; y = 2; one lane at a time |" in body
    assert "| a/critic | large | 80 | 34.0 | nothing |" in body


def test_the_front_page_has_every_model_and_card() -> None:
    page = Page(text="", plots={}, files={"model_needs": FILE}, anchors={"model_needs": "needs"})
    told = models(page)
    for name, one in HOSTED.items():
        assert (
            f"| [{name}](https://huggingface.co/{name}) | {one.what} | {one.licence} | `hf download {name}`"
            in told
        )
    assert "| a/critic | no | 15.2 (2) * | 34.0 |" in told
