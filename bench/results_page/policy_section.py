"""The section of the precision policy: what was measured of each kind, and the errors by layer and timestep.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from engine.words import counted


def policy(file: ResultFile) -> md.Section:
    """Rows a kind and format, then attention block by block and the worst linear layer of each block."""
    document = file.document
    rows, budget, errors = document["rows"], document["budget"], document["errors"]
    header = ["kind and format", "layers", "median error", "largest error", "smallest cosine", "refused"]
    cells = [
        [
            row["name"],
            str(row["num_layers"]),
            md.small(row["median_error"]),
            md.small(row["worst_error"]),
            md.near_one(row["smallest_cosine"]),
            str(len(row["refused"])),
            f"`{row['worst_layer']}` at {row['worst_timestep']:.0f}",
        ]
        for row in rows
    ]
    refused = [
        f"{row['name']}, `{layer}` at {', '.join(f'{t:.0f}' for t in times)}"
        for row in rows
        for layer, times in row["refused"].items()
    ]
    return md.Section(
        title="Which layers of the bundled generator stand 8 bits?",
        headline="; ".join(f"{row['name']} {md.small(row['worst_error'])} at worst" for row in rows),
        body=md.paragraphs(
            f"{counted(document['num_scenarios'], 'training scene')}, every timestep of the schedule. "
            "Admitted: a "
            f"linear layer up to {md.small(budget['linear_relative_error'])} at its worst timestep, "
            f"attention up to {md.small(budget['attention_relative_error'])} at each.",
            md.table([*header, "the largest is of"], cells),
            md.paragraphs("Kept in 16 bits:", md.bullets(refused)) if refused else None,
            *(_grid(errors, *kind) for kind in dict.fromkeys((e["kind"], e["format"]) for e in errors)),
        ),
    )


def _grid(errors: Sequence[Mapping[str, Any]], kind: str, format: str) -> str:
    """A table of blocks and timesteps; of several layers in a block the worst."""
    chosen = [error for error in errors if (error["kind"], error["format"]) == (kind, format)]
    times = sorted({error["timestep"] for error in chosen}, reverse=True)
    worst: dict[tuple[int, float], float] = {}
    for error in chosen:
        place = int(error["layer"].split(".")[1]), error["timestep"]
        worst[place] = max(worst.get(place, 0.0), error["relative_error"])
    blocks = sorted({block for block, _ in worst})
    lines = [[str(b), *(f"{100 * worst[b, t]:.2f}" for t in times)] for b in blocks]
    what = f"{escape(kind)} {escape(format)}: relative error in percent" + (
        ", the worst layer of each block" if kind == "linear" else ""
    )
    return md.paragraphs(
        f"<details><summary>{what}, by block and timestep</summary>",
        md.table(["block", *(f"{t:.0f}" for t in times)], lines),
        "</details>",
    )
