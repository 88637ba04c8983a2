"""A revised plan as what it changes: the fields of a plan that are new, each whole; the rest stays.

Knows no model and no text. A list is replaced as a whole, never by entry: a model that miscounts an index
would change another entry, and nothing would tell; a list that stands there whole says what it means, and a
reply that repeats the whole plan is a patch too. Entries would save little: 16 real critiques have 5550
tokens in full, 4222 with whole fields, 4162 with single entries.
Invariant: `merged(old, patch_of(old, new)) == new`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPatch:
    """New values of fields of a plan; None: the field stays. The empty patch changes nothing."""

    objects: tuple[PlanObject, ...] | None = None
    motion: tuple[PlanMotion, ...] | None = None
    events: tuple[PlanEvent, ...] | None = None
    rest: tuple[PlanRest, ...] | None = None
    still: tuple[str, ...] | None = None
    camera: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a critic writes it: the changed fields only, in the order of a plan."""
        whole = asdict(self)
        return {name: value for name, value in whole.items() if value is not None}


def merged(plan: PhysicsPlan, patch: PlanPatch) -> PhysicsPlan:
    """The plan with the fields of the patch in the place of its own."""
    new = {field.name: getattr(patch, field.name) for field in fields(patch)}
    return replace(plan, **{name: value for name, value in new.items() if value is not None})


def patch_of(old: PhysicsPlan, new: PhysicsPlan) -> PlanPatch:
    """The smallest patch that makes `new` of `old`."""
    values = {field.name: getattr(new, field.name) for field in fields(PlanPatch)}
    return PlanPatch(**{name: value for name, value in values.items() if value != getattr(old, name)})
