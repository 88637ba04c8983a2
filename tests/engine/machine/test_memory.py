"""The memory plan: sums, refusal with table and fixes, the check after warm-up, this machine's budget."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import DoesNotFit
from engine.machine import memory
from engine.machine.memory import GIB, MemoryPlan, check, device_budget
from engine.types import Footprint

PARTS = {
    "generator": Footprint(weights_bytes=10 * GIB, activation_bytes=4 * GIB),
    "critic": Footprint(weights_bytes=6 * GIB, activation_bytes=1 * GIB),
}


def test_overlap_sums_activations_and_serial_takes_the_largest() -> None:
    overlapped = MemoryPlan.solve(24 * GIB, PARTS, overlap=True, reserve_fraction=0.0)
    serial = MemoryPlan.solve(24 * GIB, PARTS, overlap=False, reserve_fraction=0.0)
    assert (overlapped.weights_bytes, overlapped.activation_bytes) == (16 * GIB, 5 * GIB)
    assert (serial.weights_bytes, serial.activation_bytes) == (16 * GIB, 4 * GIB)
    assert MemoryPlan.solve(100 * GIB, PARTS, overlap=True).reserve_bytes == 10 * GIB


def test_refusal_names_the_parts_and_three_fixes() -> None:
    with pytest.raises(DoesNotFit) as caught:
        MemoryPlan.solve(20 * GIB, PARTS, overlap=True)
    text = str(caught.value)
    assert "23.00 GiB of 20.00 GiB" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["generator", "10.00", "GiB", "4.00", "GiB"] in rows and [
        "critic",
        "6.00",
        "GiB",
        "1.00",
        "GiB",
    ] in rows
    assert all(fix in caught.value.fix for fix in ("smaller", "--no-overlap", "nf4"))
    with pytest.raises(DoesNotFit) as caught:
        MemoryPlan.solve(20 * GIB, PARTS, overlap=False)
    assert "--no-overlap" not in caught.value.fix, "it is off already"


def test_exact_fit_and_one_byte_less() -> None:
    MemoryPlan.solve(21 * GIB, PARTS, overlap=True, reserve_fraction=0.0)
    with pytest.raises(DoesNotFit):
        MemoryPlan.solve(21 * GIB - 1, PARTS, overlap=True, reserve_fraction=0.0)
    assert MemoryPlan.solve(0, {}, overlap=True).required_bytes == 0


footprints = st.builds(Footprint, weights_bytes=st.integers(0, 2**40), activation_bytes=st.integers(0, 2**40))


@given(st.dictionaries(st.text(max_size=3), footprints, max_size=5), st.integers(0, 2**43), st.booleans())
def test_a_plan_that_exists_fits_and_serial_needs_no_more(
    parts: dict[str, Footprint], budget_bytes: int, overlap: bool
) -> None:
    try:
        plan = MemoryPlan.solve(budget_bytes, parts, overlap=overlap)
    except DoesNotFit:
        return
    assert plan.required_bytes <= budget_bytes
    serial = MemoryPlan.solve(budget_bytes, parts, overlap=False)
    assert serial.required_bytes <= plan.required_bytes
    assert len(plan.table()) == len(parts) + 4


def test_check_compares_part_by_part() -> None:
    plan = MemoryPlan.solve(24 * GIB, PARTS, overlap=True)
    measured = PARTS | {"critic": Footprint(weights_bytes=6 * GIB, activation_bytes=2 * GIB)}
    usages = {usage.part: usage for usage in check(plan, measured)}
    assert usages["critic"].over and not usages["generator"].over
    assert (usages["critic"].planned_bytes, usages["critic"].measured_bytes) == (7 * GIB, 8 * GIB)
    with pytest.raises(DoesNotFit):
        check(plan, PARTS | {"critic": Footprint(weights_bytes=9 * GIB, activation_bytes=2 * GIB)})
    with pytest.raises(AssertionError, match="planned"):
        check(plan, {"generator": PARTS["generator"]})


def test_budget_of_the_host() -> None:
    total_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < device_budget("cpu") <= total_bytes


def test_budget_respects_a_container(tmp_path: Path) -> None:
    assert memory._container_available_bytes(tmp_path / "none") == 2**63
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("600000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 100000\n")
    assert memory._container_available_bytes(tmp_path) == 500000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._container_available_bytes(tmp_path) == 2**63


@pytest.mark.gpu
def test_budget_of_the_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    assert 0 < device_budget("cuda") <= torch.cuda.get_device_properties(0).total_memory
