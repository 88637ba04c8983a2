"""The section of the policy: every number from the file, the worst layer of a block, what was refused."""

from __future__ import annotations

from typing import Any

from bench.quality.policy_calibration import document as make_document
from bench.results_page.page import SECTIONS
from bench.results_page.policy_section import policy
from bench.results_page.result_files import ResultFile
from engine.quant.calibration import Budget, LayerError, choose


def error(layer: str, timestep: float, relative: float) -> LayerError:
    return LayerError(
        layer=layer,
        kind="attention" if layer.endswith("attn1") else "linear",
        format="fp8",
        timestep=timestep,
        cosine=1 - relative**2 / 2,
        relative_error=relative,
    )


ERRORS = [
    error("blocks.1.attn1", 900.0, 0.012),
    error("blocks.1.attn1", 100.0, 0.2),
    error("blocks.1.ffn.net.2", 900.0, 0.0312),
    error("blocks.1.attn1.to_q", 900.0, 0.0215),
    error("blocks.10.attn1.to_q", 900.0, 0.04),
]


def section(errors: list[LayerError]) -> Any:
    made = choose(errors, Budget(), source="x", producer="a test")
    document = make_document(errors, made, Budget(), 3, {})
    return policy(ResultFile(name="policy_calibration", kind="policy", document=document))


def test_the_document_of_the_suite_is_shown() -> None:
    made = section(ERRORS)
    assert made.headline == "attention fp8 0.2 at worst; linear fp8 0.04 at worst"
    assert "3 training scenes" in made.body
    assert "| attention fp8 | 1 | 0.2 | 0.2 | 0.98000 | 1 | `blocks.1.attn1` at 100 |" in made.body
    assert "| linear fp8 | 3 | 0.031 | 0.04 | 0.99920 | 0 | `blocks.10.attn1.to_q` at 900 |" in made.body
    assert "- attention fp8, `blocks.1.attn1` at 100" in made.body
    assert "| block | 900 | 100 |" in made.body and "| 1 | 1.20 | 20.00 |" in made.body
    assert "| 1 | 3.12 |\n| 10 | 4.00 |" in made.body, "the worst of a block, block 10 last"


def test_nothing_refused_is_not_told() -> None:
    assert "Kept in 16 bits" not in section(ERRORS[2:]).body
    assert SECTIONS["policy"] is policy
