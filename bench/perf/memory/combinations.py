"""What is measured, as data: presets, lanes at once or in turn, and the memory that a run may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PRESETS_MEASURED = ("fast", "exact", "fastest")
"""In the order of their worth, should the time not be enough for all."""
BUDGETS = ("24GiB", "48GiB", "80GiB")
UNLIMITED = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    preset: str
    overlap: bool
    vram: str

    @property
    def name(self) -> str:
        return f"{self.preset}, {'overlap' if self.overlap else 'in turn'}, {self.vram or 'unlimited'}"

    @property
    def num_scenarios(self) -> int:
        """One plans while the other is generated, and is judged beside it; in turn one shows all steps."""
        return 2 if self.overlap else 1


def combinations(presets: Sequence[str], budgets: Sequence[str]) -> list[Combination]:
    """Those of a preset together; without a budget first, and last the smallest, which loads models anew."""
    return [
        Combination(preset=preset, overlap=overlap, vram=vram)
        for preset in presets
        for overlap in (True, False)
        for vram in (UNLIMITED, *budgets[1:], *budgets[:1])
    ]
