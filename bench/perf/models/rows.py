"""What is measured, as data: rows by name, each of a model and a stage that has a process of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.perf.models.sizes import NAMES
from engine.errors import unknown_name

BUDGETED, BESIDE, LORA = "budget", "diffusers", "lora"
STAGES = (BUDGETED, BESIDE, LORA)
BUDGETS = ("48GiB", "80GiB", "24GiB")
"""What keeps to less need not run under more; the smallest last, since it loads models anew."""
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
    def process(self) -> tuple[str, str]:
        """Rows with the same one are measured with the same models loaded."""
        return self.model, self.stage


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
    found = [row for row in ROWS if name in (row.name, row.model, "/".join(row.process))]
    if not found:
        raise unknown_name("row, model or stage", name, [*NAMES, *(row.name for row in ROWS)])
    return found
