"""The section of controls: what prompts gain that hold no fact of their scene.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted

CONTROLS = {
    "suffix": "a sentence that everything obeys physics",
    "other_plan": "the plan of another scene",
    "filler": "as many words that say nothing",
}
ARMS = {
    "first_take": "the brief text",
    "plan_prompt": "the plan of its own scene",
    "chosen": "take that the loop chose",
}


def loop_controls(file: ResultFile) -> md.Section:
    document = file.document
    rows = [[label, md.interval(document[key]), md.NONE] for key, label in ARMS.items()]
    rows += [
        [label, md.interval(document[key]), md.interval(document["minus_first"][key], digits=1, sign="+")]
        for key, label in CONTROLS.items()
    ]
    best, gain = CONTROLS[document["best_control"]], document["above_best_control"]["chosen"]
    worse = all(document["minus_first"][key]["ci95"][1] < 0 for key in CONTROLS)
    told = "every control is worse than the brief text alone" if worse else f"the best control is {best}"
    return md.Section(
        title="Is it the plan that gains, or any longer prompt?",
        headline=f"{told}; chosen take minus the best control {md.interval(gain, digits=1, sign='+')} points",
        body=md.paragraphs(
            f"{counted(document['n'], 'held-out scenario')}, one take of each under the seed of the first.",
            md.table(["told", "Verified (95 %)", "minus the brief text's take"], rows),
        ),
    )
