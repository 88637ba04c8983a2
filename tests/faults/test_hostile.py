"""Hostile texts and files, a few of each; `make faults` tries thousands."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.hostile import PROPERTIES, Property, run_check, sought, tried
from faults.workload import Workload
from hypothesis import strategies as st

EXAMPLES = 12


@pytest.mark.parametrize("one", PROPERTIES, ids=[one.fault for one in PROPERTIES])
def test_any_value_is_taken_or_refused_with_its_fix(one: Property) -> None:
    sought(one, EXAMPLES)(lambda value: run_check(one, value))()


def test_a_fault_is_found_and_told(tmp_path: Path) -> None:
    """Each kind of defect that a property can show, put in by hand."""
    nowhere = Workload(
        root=tmp_path, dataset=tmp_path, generator=tmp_path, critic=tmp_path, options=(), first=lambda: None
    )

    def wrong(value: int, folder: Path) -> None:
        assert value < 10, f"{value} was taken for something else"

    def raising(value: int, folder: Path) -> None:
        if value >= 10:
            raise KeyError(value)

    values = st.integers(0, 100)
    unequal = tried(Property(fault="x", values=values, check=wrong), 50, nowhere)
    assert unequal.damage.unequal and "10 was taken" in unequal.damage.unequal[0] and not unequal.unclear
    unclear = tried(Property(fault="x", values=values, check=raising), 50, nowhere)
    assert unclear.unclear and "KeyError" in unclear.unclear[0] and not unclear.damage
    sound = tried(Property(fault="x", values=values, check=lambda value, folder: None), 50, nowhere)
    assert sound.tried == 50 and not sound.damage and not sound.unclear
