"""The sections of decoding: whole decodes and single convolutions, and what FP8 costs the picture.

Measures nothing and holds no number: every figure comes from the file or is a ratio of two in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from bench.results_page.speed_sections import row_tables
from bench.results_page.timed_rows import Row, fastest, ratio, read_rows, timed

FP8 = "FP8"


def vae(file: ResultFile) -> md.Section:
    """The tables of decodes, then a row for each convolution where those were measured."""
    section = row_tables(file)
    entries = file.document.get("convolutions", ())
    if not entries:
        return section
    problems = list(dict.fromkeys(str(entry["problem"]) for entry in entries))
    lines = [
        _convolution(problem, read_rows([one for one in entries if one["problem"] == problem], file.path))
        for problem in problems
    ]
    header = ["convolution", "bf16", "bf16 ms", "FP8", "FP8 ms", "FP8 TFLOP/s", "error", "gain"]
    body = md.paragraphs(section.body, "### One convolution", md.table(header, lines))
    return replace(section, body=body)


def _convolution(problem: str, rows: Sequence[Row]) -> list[str]:
    """The fastest in bf16 and in FP8."""
    done = timed(rows)
    wide = fastest([row for row in done if not row.name.startswith(FP8)])
    rounded = fastest([row for row in done if row.name.startswith(FP8)])
    return [
        problem.removeprefix("convolution "),
        "" if wide is None else wide.name,
        md.ms(None if wide is None else wide.median_ms),
        "" if rounded is None else rounded.name.removeprefix(f"{FP8}, "),
        md.ms(None if rounded is None else rounded.median_ms),
        md.whole(None if rounded is None else rounded.get("tflop_per_s")),
        md.small(None if rounded is None else rounded.get("error")),
        md.times(None if rounded is None else ratio(wide, rounded)),
    ]


def vae_calibration(file: ResultFile) -> md.Section:
    """Each convolution alone, and all together."""
    document = file.document
    measured = [row for row in document["rows"] if "psnr_db" in row]
    left_out = [f"`{row['name']}`: {row['reason']}" for row in document["rows"] if "reason" in row]
    lines = [
        [
            row["name"],
            f"{row['psnr_db']:.1f}",
            "" if "multiplications" not in row else f"{100 * row['multiplications'] / _work(measured):.1f}",
            {True: "yes", False: "no", None: ""}[row.get("chosen")],
        ]
        for row in measured
    ]
    number = len(document["chosen"])
    return md.Section(
        title="Which convolutions of a decoder keep the picture in FP8?",
        headline=f"{number} of {number + len(left_out) + _refused(measured)}",
        body=md.paragraphs(
            f"PSNR of the worst clip to the exact decode; those together that keep "
            f"{document['min_psnr_db']:.0f} dB are chosen.",
            md.table(["in FP8", "PSNR dB", "% of their multiplications", "chosen"], lines),
            md.paragraphs("Cannot be FP8:", md.bullets(left_out)) if left_out else None,
        ),
    )


def _work(rows: Sequence[dict[str, float]]) -> float:
    return sum(row.get("multiplications", 0.0) for row in rows)


def _refused(rows: Sequence[dict[str, object]]) -> int:
    return sum(row.get("chosen") is False for row in rows)
