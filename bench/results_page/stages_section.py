"""The section on the critic's stages: its judgement with and without them, and the faults that it names.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted

STAGED, UNSTAGED = "staged", "unstaged"
FORMS = {
    STAGED: "with stages",
    "staged_again": "with stages, of the stored clip",
    UNSTAGED: "without",
    "unstaged_free": "without, not constrained",
    "empty_stages": "with empty stages",
    "swapped_stages": "with those of another scene",
}
SHARES = {
    "balanced_accuracy": "verdicts right, both kinds of takes weighed equally",
    "balanced_accuracy_sure": "the same, of takes more than ten points from the threshold",
    "accepted": "takes accepted",
    "unreadable": "replies that could not be read",
}
FAULTS = {
    "fault_accuracy": "faults named right, of takes that are not acceptable",
    "fault_accuracy_balanced": "the same, true faults weighed equally",
    "fault_accuracy_named": "the same, of takes of which a fault was named",
}
DIFFERENCES = {
    "balanced_accuracy": SHARES["balanced_accuracy"],
    "balanced_accuracy_sure": SHARES["balanced_accuracy_sure"],
    "fault_accuracy": FAULTS["fault_accuracy"],
}


def critic_stages(file: ResultFile) -> md.Section:
    document = file.document
    forms: Mapping[str, Any] = document["forms"]
    staged, unstaged = forms[STAGED], forms[UNSTAGED]
    rows = [[label, *(md.share(form[key]) for form in forms.values())] for key, label in SHARES.items()]
    rows += [
        [
            "correlation with the case score within a scene",
            *(md.two(f["within_scene"]) for f in forms.values()),
        ],
        ["calibration error of the score, points", *(md.ms(f["calibration_error"]) for f in forms.values())],
    ]
    rows += [
        [label, *(md.share(form["faults"][key]) for form in forms.values())] for key, label in FAULTS.items()
    ]
    less = [
        [label, *(_points(found[key]) for found in document["difference"].values())]
        for key, label in DIFFERENCES.items()
    ]
    others = [FORMS[name] for name in document["difference"]]
    return md.Section(
        title="What are the critic's stages worth?",
        headline=f"right verdicts, balanced: {md.share(staged['balanced_accuracy'])} with stages, "
        f"{md.share(unstaged['balanced_accuracy'])} without",
        body=md.paragraphs(
            f"{counted(document['num_takes'], 'take')} of "
            f"{counted(document['num_scenes'], 'held-out scene')}, "
            f"{staged['num_acceptable']} of them acceptable by a case score of {staged['threshold']:g}.",
            md.table(["figure (95 %)", *(FORMS[name] for name in forms)], rows),
            "With stages minus without, paired, in percentage points:",
            md.table(["difference (95 %)", *others], less),
            *_pairs(staged["faults"]),
        ),
    )


def _pairs(faults: Mapping[str, Any]) -> list[str]:
    """Which fault was named for which, with stages."""
    pairs: Mapping[str, Mapping[str, int]] = faults["pairs"]
    if not pairs:
        return []
    stated = sorted({name for found in pairs.values() for name in found})
    rows = [
        [true, str(sum(found.values())), *(str(found.get(name, 0)) for name in stated)]
        for true, found in sorted(pairs.items())
    ]
    takes = counted(faults["num"], "take that is", "takes that are")
    told = f"The fault that it named with stages, of {takes} not acceptable:"
    return [told, md.table(["true fault", "n", *stated], rows)]


def _points(found: Mapping[str, Any] | None) -> str:
    if found is None or found["mean"] is None:
        return md.NONE
    bounds = [100 * bound for bound in found["ci95"]]
    return md.interval({"mean": 100 * found["mean"], "ci95": bounds}, sign="+")
