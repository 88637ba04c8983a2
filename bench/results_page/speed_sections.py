"""The sections of speed: denoisers with their waterfalls, and tables of kernels or decoders by problem.

Measures nothing and holds no number: every figure comes from the file or is a ratio of two in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from bench.results_page.timed_rows import (
    Row,
    Unhelpful,
    best_stock,
    fastest,
    ratio,
    read_rows,
    timed,
    unhelpful_choices,
    unhelpful_steps,
)
from bench.results_page.waterfall import Bar, waterfall

PLOTS = "docs"
TITLES = {
    "attention": "How fast is attention alone?",
    "linear": "How fast is a linear layer alone?",
    "vae": "How fast are latents decoded to frames?",
    "aoti": "What does a package of native code bring?",
}
SPREAD = ("ms", "p10 to p90", "n")
CEILINGS = {
    "bf16_gemm_tflops": ("bf16 GEMM", "TFLOP/s", 0),
    "fp8_gemm_tflops": ("FP8 GEMM", "TFLOP/s", 0),
    "copy_tb_per_s": ("copy", "TB/s", 2),
}


def denoiser(file: ResultFile) -> md.Section:
    """A part for each subject, with its waterfall."""
    parts, headlines, plots = [], [], {}
    names = [subject["name"] for subject in file.document["subjects"]]
    for subject in file.document["subjects"]:
        rows = read_rows(subject["variants"], f"{file.path}, {subject['name']}")
        name = f"waterfall-{md.slug(file.name)}-{md.slug(subject['name'])}.svg"
        plot = _plot(subject, rows)
        if plot is not None:
            plots[name] = plot
            parts.append(_subject(subject, rows, f"![{subject['name']}, waterfall]({PLOTS}/{name})"))
        else:
            parts.append(_subject(subject, rows, None))
        headlines.append(f"{subject['name']}: {_fastest(rows, subject.get('roofline_ms'))}")
    return md.Section(
        title=f"How fast is a forward of {' and of '.join(names)}?",
        headline="; ".join(headlines),
        body=md.paragraphs(_ceilings(file.document.get("ceilings", {})), *parts),
        plots=plots,
    )


def row_tables(file: ResultFile) -> md.Section:
    """Rows by problem: kernels, decoders, packages."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in file.document["rows"]:
        groups.setdefault(str(entry.get("problem", entry.get("subject", ""))), []).append(entry)
    parts, headlines = [_ceilings(file.document.get("ceilings", {}))], []
    for problem, entries in groups.items():
        rows = read_rows(entries, f"{file.path}, {problem}")
        title = f"### {problem}" if problem else None
        parts.append(
            md.paragraphs(title, _choice_table(rows), _not_run(rows), _did_not_help(unhelpful_choices(rows)))
        )
        told = _fastest_by_accuracy(rows)
        headlines.append(f"{problem}: {told}" if problem else told)
    return md.Section(
        title=TITLES.get(file.kind, file.kind.replace("_", " ").capitalize()),
        headline="; ".join(headlines),
        body=md.paragraphs(*parts),
    )


def _subject(subject: Mapping[str, Any], rows: Sequence[Row], image: str | None) -> str:
    parts = (
        f"### {subject['name']}",
        _size(subject),
        f"Fastest: {_fastest(rows, subject.get('roofline_ms'))}.",
        _aim(subject, rows),
        image,
        _speed_table(subject, rows),
        _cost_table(rows),
        md.bullets([f"**{row.name}**: {_words(row)}" for row in rows if row.get("adds") or row.get("note")]),
        _kernel_sum(subject, rows),
        _not_run(rows),
        _did_not_help(unhelpful_steps(rows)),
    )
    return md.paragraphs(*parts)


def _size(subject: Mapping[str, Any]) -> str:
    facts = []
    if subject.get("tokens"):
        facts.append(f"{md.count(subject['tokens'])} tokens")
    if subject.get("tflop_per_forward"):
        facts.append(f"{subject['tflop_per_forward']:.1f} TFLOP a forward")
    for name, value in subject.get("roofline_ms", {}).items():
        facts.append(f"{name} roofline {md.ms(value)} ms")
    return f"{', '.join(facts)}." if facts else ""


def _ceilings(found: Mapping[str, float]) -> str:
    known = [
        f"{label} {found[key]:.{digits}f} {unit}"
        for key, (label, unit, digits) in CEILINGS.items()
        if key in found
    ]
    return f"Measured ceilings of this card: {', '.join(known)}." if known else ""


def _fastest(rows: Sequence[Row], roofs: Mapping[str, float] | None = None) -> str:
    """The fastest row against the first and the best stock row, and its distance to the lowest roofline."""
    best, first, stock = fastest(rows), next(iter(timed(rows)), None), best_stock(rows)
    if best is None or first is None:
        return "nothing could be timed"
    text = f"{best.name}, {md.ms(best.median_ms)} ms"
    others = {row.name: row for row in (first, stock) if row is not None and row is not best}
    compared = [f"{md.times(ratio(row, best))} {name}" for name, row in others.items()]
    if compared:
        text += f": {' and '.join(compared)}"
    if roofs:
        name, roof = min(roofs.items(), key=lambda limit: limit[1])
        text += f"; {md.whole(100 * roof / best.median_ms)} % of the {name} roofline of {md.ms(roof)} ms"
    return text


def _aim(subject: Mapping[str, Any], rows: Sequence[Row]) -> str:
    aim, best = subject.get("aim_ms"), fastest(rows)
    if aim is None or best is None:
        return ""
    reached = best.median_ms <= aim
    verdict = "reached" if reached else f"missed by {md.ms(best.median_ms - aim)} ms"
    return f"Aim: {md.ms(aim)} ms or less: {verdict}."


def _plot(subject: Mapping[str, Any], rows: Sequence[Row]) -> str | None:
    bars = [
        Bar(name=row.name, adds=str(row.get("adds") or ""), value=row.median_ms, stock=row.stock)
        for row in timed(rows)
        if row.cumulative
    ]
    limits = {f"{name} roofline": value for name, value in subject.get("roofline_ms", {}).items()}
    title = f"{subject['name']}: milliseconds of one forward"
    return waterfall(title, bars, limits) if bars else None


def _spread(row: Row) -> list[str]:
    if row.time is None:
        return [md.NONE] * len(SPREAD)
    return [md.ms(row.time.median), f"{md.ms(row.time.p10)} to {md.ms(row.time.p90)}", str(row.time.n)]


def _speed_table(subject: Mapping[str, Any], rows: Sequence[Row]) -> str:
    done = timed(rows)
    first, stock = next(iter(done), None), best_stock(rows)
    header = ["variant", *SPREAD, "against the first", "against the best stock", "TFLOP/s"]
    roofs: Mapping[str, float] = subject.get("roofline_ms") or {}
    header += [*(f"% of {name} roofline" for name in roofs), "% of roofline", "% of kernel sum"]
    flop = subject.get("tflop_per_forward")
    return md.table(
        header,
        [
            [
                row.name,
                *_spread(row),
                md.times(ratio(first, row)),
                md.times(ratio(stock, row)),
                md.whole(1e3 * flop / row.median_ms if flop else row.get("tflops")),
                *(md.whole(100 * roof / row.median_ms) for roof in roofs.values()),
                md.NONE if roofs else md.whole(row.get("percent_of_roofline")),
                md.whole(row.get("percent_of_kernel_sum")),
            ]
            for row in done
        ],
    )


def _cost_table(rows: Sequence[Row]) -> str:
    header = ["variant", "peak allocated GiB", "peak reserved GiB", "activations GiB"]
    header += ["relative error", "cosine", "W", "SM MHz", "first call s"]
    cells = [
        [
            row.name,
            md.gib(row.get("peak_allocated_bytes")),
            md.gib(row.get("peak_reserved_bytes")),
            md.gib(row.get("activation_peak_bytes")),
            md.small(row.get("relative_error")),
            md.near_one(row.get("cosine")),
            md.whole(row.get("power_w")),
            md.whole(row.get("sm_clock_mhz")),
            md.ms(row.get("first_call_s")),
        ]
        for row in timed(rows)
    ]
    empty = all(cell == md.NONE for line in cells for cell in line[1:])
    return "" if empty else md.table(header, cells)


def _fastest_by_accuracy(rows: Sequence[Row]) -> str:
    """Of each class of accuracy the fastest, against the best stock row."""
    stock, told = best_stock(rows), []
    for accuracy in dict.fromkeys(row.get("accuracy") for row in timed(rows)):
        best = fastest([row for row in rows if row.get("accuracy") == accuracy])
        assert best is not None, f"no timed row of accuracy {accuracy}"
        text = f"{accuracy} " if accuracy else ""
        text += f"{best.name} {md.ms(best.median_ms)} ms"
        if stock is not None and best is not stock:
            text += f" ({md.times(ratio(stock, best))} {stock.name})"
        told.append(text)
    return ", ".join(told) or "nothing could be timed"


def _choice_table(rows: Sequence[Row]) -> str:
    """Kernels or ways that do the same work, each against every stock one, else against the first."""
    done = timed(rows)
    if not done:
        return ""
    bases = [row for row in done if row.stock] or done[:1]
    header = ["name", "accuracy", *SPREAD, *(f"against {base.name}" for base in bases), "TFLOP/s", "GB/s"]
    header += ["relative error", "cosine", "PSNR dB", "peak allocated GiB", "first call s", "tiles"]
    return md.table(
        header,
        [
            [
                row.name,
                str(row.get("accuracy") or md.NONE),
                *_spread(row),
                *(md.times(ratio(base, row)) for base in bases),
                md.whole(row.get("tflops")),
                md.whole(row.get("gb_per_s")),
                md.small(row.get("relative_error")),
                md.near_one(row.get("cosine")),
                md.ms(row.get("psnr_db")),
                md.gib(row.get("peak_allocated_bytes")),
                md.ms(row.get("first_call_s")),
                str(row.get("tiles") or md.NONE),
            ]
            for row in done
        ],
    )


def _kernel_sum(subject: Mapping[str, Any], rows: Sequence[Row]) -> str:
    parts: Mapping[str, float] = subject.get("kernel_sum_ms") or {}
    if not parts:
        return ""
    whole = next((row for row in timed(rows) if row.name == subject.get("kernel_sum_of")), None)
    total = sum(parts.values())
    text = f"Stand-alone kernels of {subject.get('kernel_sum_of', 'the forward')}: {md.ms(total)} ms together"
    if whole is not None:
        text += f", {md.whole(100 * total / whole.median_ms)} % of the {md.ms(whole.median_ms)} ms it takes"
    lines = [[name, md.ms(value), md.whole(100 * value / total)] for name, value in parts.items()]
    return md.paragraphs(f"{text}.", md.table(["kernel", "ms", "% of the sum"], lines))


def _words(row: Row) -> str:
    return ". ".join(str(row.get(key)).rstrip(".") for key in ("adds", "note") if row.get(key))


def _not_run(rows: Sequence[Row]) -> str:
    lines = [f"{row.name}: {row.get('reason')}" for row in rows if row.time is None]
    return md.paragraphs("Not timed:", md.bullets(lines)) if lines else ""


def _did_not_help(entries: Sequence[Unhelpful]) -> str:
    lines = []
    for found in entries:
        change = found.row.median_ms - found.against.median_ms
        line = (
            f"{found.row.name}: {md.ms(found.row.median_ms)} ms against {md.ms(found.against.median_ms)} of "
            f"{found.against.name} ({'+' if change >= 0 else '−'}{md.ms(abs(change))} ms, "
            f"{md.times(ratio(found.against, found.row))})"
        )
        note = found.row.get("note")
        lines.append(f"{line}. {note}" if note else line)
    return md.paragraphs("What did not help:", md.bullets(lines)) if lines else ""
