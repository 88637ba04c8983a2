"""The results table as terminal table, plain text, Markdown or LaTeX (booktabs), from its JSON document.

Computes nothing: every figure is in the document.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.console import PAGE_WIDTH

FORMATS = ("text", "markdown", "latex", "json")
TITLES = {"physics_iq": "Original", "physics_iq_verified": "Verified"}
"""Of the two scores of Physics-IQ, which is the name of neither."""
Document = Mapping[str, Any]


def render(document: Document, form: str) -> str:
    """One of FORMATS but json, ending with a line break."""
    return {"text": _text, "markdown": _markdown, "latex": _latex}[form](document)


def rich_table(document: Document) -> tuple[Table, list[str]]:
    """The table and the lines to print below it."""
    header, body = _cells(document)
    table = Table(title="Physics-IQ of attempt sets and ensembles", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, name in enumerate(header):
        short = name.replace(" (Original)", "\norig.").replace(" (Verified)", "\nver.")
        # where the terminal is narrow, cells break between words and no figure is cut
        words = [word for cell in (short, *(row[index] for row in body)) for word in cell.split()]
        width = 8 if index == 0 else max(map(len, words))
        table.add_column(short, justify="left" if index == 0 else "right", overflow="fold", min_width=width)
    last_single = sum(entry["chooser"] is None for entry in document["rows"]) - 1
    for index, row in enumerate(body):
        table.add_row(*row, end_section=index == last_single)
    return table, [*_comparisons(document), *document["notes"]]


def _text(document: Document) -> str:
    table, lines = rich_table(document)
    buffer = io.StringIO()
    console = Console(file=buffer, width=PAGE_WIDTH, no_color=True)
    console.print(table)
    return buffer.getvalue() + "".join(f"{line}\n" for line in lines)


def _markdown(document: Document) -> str:
    header, body = _cells(document)
    align = ["---", *["--:"] * (len(header) - 1)]
    rows = [header, align, *([cell.replace("*", r"\*") for cell in row] for row in body)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    notes = [
        f"{line.replace('*', chr(92) + '*')}  " for line in (*_comparisons(document), *document["notes"])
    ]
    return "\n".join([*lines, "", *notes]) + "\n"


def _latex(document: Document) -> str:
    """A booktabs table; the notes become its footnote block. Needs \\usepackage{booktabs}."""
    header, body = _cells(document)
    singles = sum(entry["chooser"] is None for entry in document["rows"])
    lines = [" & ".join(_tex_cell(cell) for cell in row) + r" \\" for row in body]
    notes = " ".join(_tex(line) for line in (*_comparisons(document), *document["notes"]))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(_tex(cell) for cell in header) + r" \\",
            r"\midrule",
            *lines[:singles],
            *([r"\midrule", *lines[singles:]] if lines[singles:] else []),
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\smallskip\footnotesize",
            notes,
            r"\end{table}",
            "",
        ]
    )


def _cells(document: Document) -> tuple[list[str], list[list[str]]]:
    """Header and body; the columns that say nothing in any row are left out."""
    rows, scores = document["rows"], document["scores"]
    sampled = any(entry["sample"] for entry in rows)
    gained = any(entry["chooser"] is not None for entry in rows)
    header = ["Run", "Loop", *(["Sample"] if sampled else []), "Steps", *(TITLES[score] for score in scores)]
    if gained:
        several = len(scores) > 1
        header += [
            f"{what} ({TITLES[score]})" if several else what for score in scores for what in ("Gain", "Share")
        ]
    return header, [_row(entry, scores, sampled=sampled, gained=gained) for entry in rows]


def _row(entry: Document, scores: Sequence[str], *, sampled: bool, gained: bool) -> list[str]:
    name = entry["run"] if entry["chooser"] is None else f"ensemble {entry['run']}"
    cells = [name, _number(entry["loop"]), *([_number(entry["sample"])] if sampled else [])]
    cells += [_number(entry["steps"]), *(_score(entry[score], partial=entry["partial"]) for score in scores)]
    for score in scores if gained else ():
        found = entry[score]
        gain, share = found.get("gain"), found.get("share")
        cells += ["" if gain is None else f"{gain:+z.2f}", "" if share is None else percent(share)]
    return cells


def percent(share: float) -> str:
    """Whole percent, without a minus sign before 0."""
    return f"{round(100 * share)} %"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _score(found: Document, *, partial: bool) -> str:
    if found["mean"] is None:
        return "-"
    spread = "" if found["std"] is None else f" ± {found['std']:.2f}"
    return f"{found['mean']:z.2f}{spread}{'*' if partial else ''}"


def _comparisons(document: Document) -> list[str]:
    return [
        f"{entry['a']} minus {entry['b']}: "
        + ", ".join(f"{TITLES[score]} {difference_text(entry[score])}" for score in document["scores"])
        for entry in document["comparisons"]
    ]


def difference_text(found: Document) -> str:
    """ "+1.20 (-0.30 to +2.40)"; without an interval where there is none."""
    if found["mean"] is None:
        return "-"
    if found["ci95"] is None:
        return f"{found['mean']:+z.2f}"
    low, high = found["ci95"]
    return f"{found['mean']:+z.2f} ({low:+z.2f} to {high:+z.2f})"


_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "_": r"\_",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "^": r"\^{}",
    "~": r"\~{}",
    "±": r"$\pm$",
    "*": r"$^{*}$",
}


def _tex_cell(text: str) -> str:
    """A signed number is set in math, where its sign is no hyphen."""
    return f"${text}$" if re.fullmatch(r"[+-][\d.]+", text) else _tex(text)


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
