"""The section on the critic's stages: a column a form, differences in points, faults by true and named."""

from __future__ import annotations

from typing import Any

from bench.results_page.page import SECTIONS
from bench.results_page.result_files import ResultFile
from bench.results_page.stages_section import critic_stages


def mean(value: float, half: float = 0.05) -> dict[str, Any]:
    return {"mean": value, "ci95": [value - half, value + half]}


def form(balanced: float, pairs: dict[str, dict[str, int]], **more: Any) -> dict[str, Any]:
    faults = {"num": 4, "fault_accuracy": mean(0.5), "fault_accuracy_balanced": mean(0.25), "pairs": pairs}
    return {
        "threshold": 70.0,
        "num_acceptable": 3,
        "balanced_accuracy": mean(balanced),
        "balanced_accuracy_sure": None,
        "accepted": mean(0.4),
        "unreadable": mean(0.0, 0.0),
        "within_scene": 0.204,
        "calibration_error": 33.9,
        "faults": {**faults, "fault_accuracy_named": None},
        **more,
    }


PAIRS = {"wrong fact": {"model": 1, "wrong fact": 2}, "model": {"model": 1}}
DOCUMENT = {
    "num_takes": 7,
    "num_scenes": 3,
    "forms": {
        "staged": form(0.62, PAIRS),
        "unstaged": form(0.55, {}, within_scene=None, unreadable=mean(0.25)),
    },
    "difference": {
        "unstaged": {
            "balanced_accuracy": mean(0.07),
            "balanced_accuracy_sure": None,
            "fault_accuracy": mean(-0.1),
        }
    },
}


def test_forms_differences_and_faults() -> None:
    section = critic_stages(ResultFile(name="a", kind="critic_stages", document=DOCUMENT))
    assert SECTIONS["critic_stages"] is critic_stages
    assert (
        section.headline == "right verdicts, balanced: 62 % (57 to 67) with stages, 55 % (50 to 60) without"
    )
    assert "7 takes of 3 held-out scenes, 3 of them acceptable by a case score of 70." in section.body
    lines = section.body.splitlines()
    assert "| figure (95 %) | with stages | without |" in lines
    assert "| replies that could not be read | 0 % (0 to 0) | 25 % (20 to 30) |" in lines
    assert "| correlation with the case score within a scene | 0.20 | – |" in lines
    right = "verdicts right, both kinds of takes weighed equally"
    assert f"| {right} | +7.0 (+2.0 to +12.0) |" in lines
    assert "| faults named right, of takes that are not acceptable | -10.0 (-15.0 to -5.0) |" in lines
    assert "| true fault | n | model | wrong fact |" in lines
    assert "| model | 1 | 1 | 0 |" in lines and "| wrong fact | 3 | 1 | 2 |" in lines


def test_without_a_take_that_is_not_acceptable_there_is_no_table_of_faults() -> None:
    forms = {**DOCUMENT["forms"], "staged": form(0.62, {})}
    section = critic_stages(ResultFile(name="a", kind="critic_stages", document={**DOCUMENT, "forms": forms}))
    assert "| true fault |" not in section.body
