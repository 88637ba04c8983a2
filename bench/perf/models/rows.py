"""What is measured, as data: rows by name, each of a model, which has a process of its own, and a stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.perf.models.sizes import NAMES
from engine.errors import unknown_name

BUDGETED, BESIDE, LORA = "budget", "diffusers", "lora"
STAGES = (BUDGETED, BESIDE, LORA)
BUDGETS = ("24GiB", "48GiB", "80GiB")
"""The smallest first: what keeps to it need not run under more, and the largest leaves the models that are
then measured without one."""
DIFFERENCE = "difference"
ROUNDS = ("round-0", "round-1")


@dataclass(frozen=True, slots=True)
class Row:
    """`detail`: a budget, the difference from the library or a round beside it; of a LoRA nothing."""

    model: str
    stage: str
    detail: str = ""

    @property
    def name(self) -> str:
        return "/".join(part for part in (self.model, self.stage, self.detail) if part)

    @property
    def part(self) -> str:
        """Model and stage."""
        return f"{self.model}/{self.stage}"


def _of(model: str) -> list[Row]:
    return [
        *(Row(model, BUDGETED, vram) for vram in BUDGETS),
        *(Row(model, BESIDE, what) for what in (DIFFERENCE, *ROUNDS)),
        Row(model, LORA),
    ]


ROWS = tuple(row for model in NAMES for row in _of(model))


def chosen(names: Sequence[str] | None) -> list[Row]:
    """Those whose row, model or stage (MODEL/STAGE) is named; None: all. ConfigError for other names."""
    if names is None:
        return list(ROWS)
    return [row for row in ROWS if row.name in {found.name for name in names for found in _named(name)}]


def _named(name: str) -> Iterable[Row]:
    found = [row for row in ROWS if name in (row.name, row.model, row.part)]
    if not found:
        raise unknown_name("row, model or stage", name, [*NAMES, *(row.name for row in ROWS)])
    return found
