"""The selectors' measurement as terminal tables and as the Markdown table of RESULTS.md, from its JSON.

Computes nothing: every figure is in the document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.words import counted

Document = Mapping[str, Any]
ALL_TAKES = "all_takes"


def print_tables(document: Document, console: Console) -> None:
    """One table a set, then what each selector costs."""
    for name, figures in document["sets"].items():
        title = f"{_title(name, document)}: {counted(figures['n'], 'scenario')}"
        table = Table("choice", "score", "minus first", "minus random", "share of oracle", title=title)
        for label in ("first_take", "loop", "random"):
            table.add_row(label, _interval(figures[label]))
        for label, found in figures["choosers"].items():
            gains = [_interval(found[key]) for key in ("minus_first", "minus_random")]
            table.add_row(label, _interval(found), *gains, share(found["share"]))
        table.add_row("oracle", _interval(figures["oracle"]), "", _interval(figures["oracle_minus_random"]))
        console.print(table)
    table = Table("selector", "rank correlation", "s per scenario", "takes scored")
    for name, found in document["selectors"].items():
        correlation, scored = _correlation(found["rank_correlation"]), f"{100 * found['scored_takes']:.0f} %"
        table.add_row(name, correlation, _seconds(found), scored)
    console.print(table)
    for line in _remarks(document):
        console.print(line, markup=False, highlight=False)


def markdown(document: Document) -> str:
    """A row a choice, score and share for each set, for RESULTS.md. The other pairs are in the JSON."""
    sets = document["sets"]
    header = ["choice", *(cell for name in sets for cell in (_title(name, document), "share of oracle"))]
    timed = any(found["seconds_per_scenario"] is not None for found in document["selectors"].values())
    own_columns = ["rank correlation", *(["s per scenario"] if timed else [])]
    header += own_columns
    no_cells = [""] * len(own_columns)
    lines = [header, ["---", *["--:"] * (len(header) - 1)]]
    for key, label in {"first_take": "first take", "loop": "loop", "random": "random choice"}.items():
        lines.append(
            [label, *(cell for found in sets.values() for cell in (_interval(found[key]), "")), *no_cells]
        )
    for name in shown(document):
        cells = [label_of(name, document)]
        for found in sets.values():
            cells += [_interval(found["choosers"][name]), share(found["choosers"][name]["share"])]
        own = document["selectors"].get(name)
        own_cells = no_cells if own is None else [_correlation(own["rank_correlation"]), _seconds(own)]
        cells += own_cells[: len(own_columns)]
        lines.append(cells)
    bounds = [cell for found in sets.values() for cell in (_interval(found["oracle"]), "100 %")]
    lines.append(["oracle (a bound, not a result)", *bounds, *no_cells])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    counts = ", ".join(f"{_title(name, document)} {found['n']}" for name, found in sets.items())
    return f"{table}\n\nScenarios: {counts}. {' '.join(_remarks(document))}\n"


def label_of(name: str, document: Document) -> str:
    tuned = document["tuned"]
    label = name.replace("+", " + ")
    return f"{label} (tuned on other scenes)" if tuned and tuned["combination"] == name else label


def shown(document: Document) -> list[str]:
    """Single selectors, the sum of all, the tuned combination: none was picked on the measured scenes."""
    names = list(document["selectors"])
    tuned = document["tuned"]["combination"] if document["tuned"] else None
    measured = next(iter(document["sets"].values()))["choosers"]
    wanted = dict.fromkeys([*names, "+".join(names), *([tuned] if tuned else [])])
    return [name for name in wanted if name in measured]


def _title(name: str, document: Document) -> str:
    takes = document["sets"][name]["takes_per_scenario"]
    return {
        ALL_TAKES: f"all takes ({takes:.1f} on average)",
        "brief_text": f"brief text, best of {document['samples']}",
        "brief_text_compared": "the same, the plan's takes seen too",
        "plan_prompt": f"plan's prompt, best of {document['samples']}",
    }[name]


def _remarks(document: Document) -> list[str]:
    remarks = [f"{counted(document['num_scenes'], 'scene')}, {counted(document['num_takes'], 'take')}."]
    if document["num_scenes_trained_on"]:
        remarks.append(
            f"{document['num_scenes_trained_on']} of them were trained or tuned on: not a held-out figure."
        )
    tuned = document["tuned"]
    if tuned:
        remarks.append(
            f"{tuned['combination']} was the best combination on "
            f"{counted(tuned['num_tuning_scenes'], 'other scene')} "
            f"({tuned['gain_on_tuning_scenes']:+.2f} over random choice there)."
        )
    partial = [name for name, found in document["selectors"].items() if found["scored_takes"] < 1]
    if partial:
        remarks.append(f"Not every take has a score of {', '.join(partial)}.")
    if document["left_out"]:
        left_out = counted(len(document["left_out"]), "scenario is", "scenarios are")
        remarks.append(f"{left_out} left out: some takes have no score.")
    return remarks


def _interval(found: Document) -> str:
    low, high = found["ci95"]
    return f"{found['mean']:z.1f} ({low:z.1f} to {high:z.1f})"


def share(found: Document) -> str:
    """Whole percent with their interval, - where the oracle gains nothing."""
    if found["value"] is None:
        return "-"
    low, high = (round(100 * bound) for bound in found["ci95"])
    return f"{round(100 * found['value'])} % ({low} to {high})"


def _correlation(found: Document) -> str:
    return "-" if found["mean"] is None else f"{found['mean']:z.2f}"


def _seconds(found: Document) -> str:
    seconds = found["seconds_per_scenario"]
    if seconds is None:
        return "-"
    return f"{seconds:.2g}" if seconds >= 0.01 else "< 0.01"
