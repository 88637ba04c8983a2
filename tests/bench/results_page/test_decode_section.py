"""The section of decoding: every number from the file, ratios against the library's like variant."""

from __future__ import annotations

from typing import Any

from bench.results_page.decode_section import decode, stock_of
from bench.results_page.page import SECTIONS
from bench.results_page.result_files import ResultFile


def row(replies: int, tokens_per_s: float, **more: Any) -> dict[str, Any]:
    return {
        "replies": replies,
        "tokens_per_s": tokens_per_s,
        "ms_per_step": 1e3 * replies / tokens_per_s,
    } | more


VARIANTS = {
    "generate, nf4": row(1, 20.0),
    "generate, nf4, batch of 8": row(8, 160.0),
    "generate, bf16": row(1, 30.0),
    "generate, static cache, bf16": row(1, 100.0),
    "slots, bf16, 1": row(1, 150.0, of_roofline=0.5, logits_to_fp32=0.012, library_to_fp32=0.013),
    "slots, nf4, 8": row(8, 1600.0, of_roofline=0.25, n=3, logits_to_library=0.002),
}
GEMM = {
    "k": 64,
    "n": 32,
    "rows": 4,
    "four_bit_us": 2.0,
    "bf16_us": 5.0,
    "roofline_us": 1.0,
    "of_roofline": 0.5,
}


def section(gemms: list[dict[str, Any]]) -> Any:
    document = {
        "command": "python -m bench.perf.vlm_decode --size 8b",
        "prompt_tokens": 77,
        "variants": VARIANTS,
        "gemms": gemms,
    }
    return decode(ResultFile(name="vlm_decode", kind="vlm_decode", document=document))


def test_a_variant_stands_beside_the_fastest_like_it() -> None:
    assert stock_of("slots, bf16, 1", VARIANTS) == "generate, static cache, bf16"
    assert stock_of("slots, nf4, 8", VARIANTS) == "generate, nf4, batch of 8"
    assert stock_of("generate, bf16", VARIANTS) is None
    assert stock_of("slots, bf16, 8", VARIANTS | {"slots, bf16, 8": row(8, 500.0)}) is None


def test_every_number_is_of_the_file() -> None:
    assert SECTIONS["vlm_decode"] is decode
    made = section([GEMM])
    assert made.headline == "slots, bf16, 1 150 tokens/s, 1.50×; slots, nf4, 8 1600 tokens/s, 10.00×"
    assert "8b shape, prompt of 77 tokens" in made.body
    assert "| slots, nf4, 8 | 8 | 1600 | 5 | 3 | 10.00× | 25 % |" in made.body
    assert "| generate, bf16 | 1 | 30 | 33.3 | – | – | – |" in made.body
    assert "- slots, bf16, 1: relative error of the logits against the library in fp32 0.012" in made.body
    assert "- slots, nf4, 8: logits differ from the library's by 0.002" in made.body
    assert "| 64 → 32, 4 | 2 | 5 | 2.50× | 50 % |" in made.body
    assert "4-bit GEMM" not in section([]).body
