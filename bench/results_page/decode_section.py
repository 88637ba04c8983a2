"""The section of decoding: tokens per second of the library and of our slots, and the 4-bit GEMM alone.

Measures nothing and holds no number: every figure comes from the file or is a ratio of two in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile

Variants = Mapping[str, Mapping[str, Any]]


def decode(file: ResultFile) -> md.Section:
    """A row a variant, beside the library's with the same weights and number of replies; then the GEMMs."""
    document = file.document
    variants: Variants = document["variants"]
    ours = {name: row for name, row in variants.items() if "of_roofline" in row}
    return md.Section(
        title="How fast does a critic decode?",
        headline="; ".join(
            f"{name} {md.whole(row['tokens_per_s'])} tokens/s, {md.times(_gain(name, variants))}"
            for name, row in ours.items()
        ),
        body=md.paragraphs(
            f"Qwen3-VL of {document['command'].rpartition(' ')[2]} shape, prompt of "
            f"{document['prompt_tokens']} tokens. Against: `generate` with the same weights and as many "
            "replies at a time. The roofline is reading weights and cache once.",
            _variants(variants),
            _agreement(variants),
            "The 4-bit GEMM alone, weights not in the L2 cache:" if document["gemms"] else None,
            _gemms(document["gemms"]) if document["gemms"] else None,
        ),
    )


def stock_of(name: str, variants: Variants) -> str | None:
    """The library's variant with the same weights and as many replies, the fastest of several."""
    if not name.startswith("slots"):
        return None
    weights, replies = name.split(", ")[1], variants[name]["replies"]
    like = [
        other
        for other, row in variants.items()
        if other.startswith("generate") and weights in other.split(", ") and row["replies"] == replies
    ]
    return max(like, key=lambda other: variants[other]["tokens_per_s"], default=None)


def _gain(name: str, variants: Variants) -> float | None:
    stock = stock_of(name, variants)
    return None if stock is None else variants[name]["tokens_per_s"] / variants[stock]["tokens_per_s"]


def _variants(variants: Variants) -> str:
    header = ["variant", "replies", "tokens/s", "ms a step", "n", "against", "of roofline"]
    return md.table(
        header,
        [
            [
                name,
                str(row["replies"]),
                md.whole(row["tokens_per_s"]),
                md.ms(row["ms_per_step"]),
                str(row.get("n", md.NONE)),
                md.times(_gain(name, variants)),
                md.whole(100 * row["of_roofline"], " %") if "of_roofline" in row else md.NONE,
            ]
            for name, row in variants.items()
        ],
    )


def _agreement(variants: Variants) -> str:
    told = []
    for name, row in variants.items():
        if "logits_to_fp32" in row:
            told.append(
                f"{name}: relative error of the logits against the library in fp32 "
                f"{md.small(row['logits_to_fp32'])}, of the library's own {md.small(row['library_to_fp32'])}"
            )
        elif "logits_to_library" in row:
            told.append(f"{name}: logits differ from the library's by {md.small(row['logits_to_library'])}")
    return md.bullets(told)


def _gemms(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["K → N, rows", "4 bit us", "bf16 us", "against bf16", "of roofline"]
    return md.table(
        header,
        [
            [
                f"{row['k']} → {row['n']}, {row['rows']}",
                md.ms(row["four_bit_us"]),
                md.ms(row["bf16_us"]),
                md.times(row["bf16_us"] / row["four_bit_us"]),
                md.whole(100 * row["of_roofline"], " %"),
            ]
            for row in rows
        ],
    )
