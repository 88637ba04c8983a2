"""The memory plan: sums, refusal with its table, the check against measurements, sizes and budgets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.machine import memory
from engine.machine.memory import (
    CONTEXT_BYTES,
    GIB,
    GRAPHS,
    MOST_RESERVE_BYTES,
    PEAK,
    SLOTS,
    MemoryPlan,
    allowed_bytes,
    check,
    device_budget,
    enforce_budget,
    planned_parts,
    read_size,
)
from engine.types import Footprint

PARTS = {
    "generator": Footprint(
        held={"transformer": 8 * GIB, "autoencoder": 2 * GIB},
        working={"denoise step": 4 * GIB, "pass": 3 * GIB},
    ),
    "critic": Footprint(held={"model": 5 * GIB, SLOTS: 1 * GIB}, working={"prompt": 1 * GIB}),
}


def plan(budget_bytes: int, *, overlap: bool = True, reserve_share: float = 0.0) -> MemoryPlan:
    return MemoryPlan.of(budget_bytes, PARTS, overlap=overlap, reserve_share=reserve_share)


def test_overlap_sums_what_works_and_serial_takes_the_largest() -> None:
    overlapped, serial = plan(24 * GIB), plan(24 * GIB, overlap=False)
    assert (overlapped.held_bytes, overlapped.working_bytes) == (16 * GIB, 5 * GIB)
    assert (serial.held_bytes, serial.working_bytes) == (16 * GIB, 4 * GIB)
    assert overlapped.peak_bytes == 21 * GIB and serial.peak_bytes == 20 * GIB


@pytest.mark.parametrize(("budget", "reserve"), [(10 * GIB, GIB), (141 * GIB, MOST_RESERVE_BYTES)])
def test_the_reserve_does_not_grow_with_a_large_card(budget: int, reserve: int) -> None:
    assert MemoryPlan.of(budget, PARTS, overlap=True).reserve_bytes == reserve


def test_a_refusal_names_every_part() -> None:
    refused = plan(20 * GIB).refused("take another card")
    rows = [line.split() for line in str(refused).splitlines()]
    assert "21.00 GiB of 20.00 GiB" in str(refused) and refused.fix == "take another card"
    assert ["generator:", "transformer", "8.00", "GiB"] in rows
    assert ["critic:", "prompt", "1.00", "GiB"] in rows


def test_exact_fit_and_one_byte_less() -> None:
    assert plan(21 * GIB).fits and not plan(21 * GIB - 1).fits
    assert MemoryPlan.of(0, {}, overlap=True).required_bytes == 0


sizes = st.dictionaries(st.text(max_size=3), st.integers(0, 2**40), max_size=3)
footprints = st.builds(Footprint, held=sizes, working=sizes)


@given(st.dictionaries(st.text(max_size=3), footprints, max_size=5), st.integers(0, 2**43))
def test_serial_needs_no_more_and_every_part_has_a_row(parts: dict[str, Footprint], budget: int) -> None:
    plans = [MemoryPlan.of(budget, parts, overlap=overlap) for overlap in (True, False)]
    assert plans[1].required_bytes <= plans[0].required_bytes
    assert len(plans[0].table()) == 4 + sum(len(part.held) + len(part.working) for part in parts.values())


def test_check_compares_part_by_part() -> None:
    made = plan(24 * GIB)
    assert dict(planned_parts(made)) == {
        "generator loaded": 10 * GIB,
        "generator lane": 4 * GIB,
        "critic loaded": 5 * GIB,
        "critic lane": 2 * GIB,
        GRAPHS: 0,
        PEAK: 21 * GIB,
    }
    found = {usage.part: usage for usage in check(made, {"critic lane": 4 * GIB, PEAK: 20 * GIB})}
    assert found["critic lane"].over and found["critic lane"].error == -0.5
    assert not found[PEAK].over and found[PEAK].error == pytest.approx(0.05)
    with pytest.raises(AssertionError, match="planned"):
        check(made, {"selectors": GIB})


@pytest.mark.parametrize(
    ("text", "size"), [("24GiB", 24 * GIB), ("24 gib", 24 * GIB), ("24G", 24 * GIB), ("1.5GB", 1_500_000_000)]
)
def test_sizes(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "24 TiB", "-1GiB", "0GiB", "24GiB 3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="not an amount of memory"):
        read_size(text)


def test_a_budget_is_what_is_free_or_what_the_user_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_free_bytes", lambda device: 40 * GIB)
    assert device_budget("cuda") == 40 * GIB == device_budget("cuda", "141GiB")
    assert device_budget("cuda", "24GiB") == 24 * GIB - CONTEXT_BYTES
    assert device_budget("cpu", "24GiB") == 24 * GIB, "a process on a CPU has no context"
    with pytest.raises(ConfigError, match="before a model"):
        allowed_bytes("cuda", "500MiB")


def test_the_allocator_is_told_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    told: list[float] = []
    properties = type("Properties", (), {"total_memory": 96 * GIB})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: told.append(share)
    )
    enforce_budget("cpu", "24GiB")
    enforce_budget("cuda", "")
    assert told == []
    enforce_budget("cuda", "24GiB")
    enforce_budget("cuda", "400GiB")
    assert told == [pytest.approx((24 * GIB - CONTEXT_BYTES) / (96 * GIB)), 1.0]


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


@pytest.mark.gpu
def test_the_allocator_keeps_to_the_budget() -> None:
    torch = pytest.importorskip("torch")
    try:
        enforce_budget("cuda", "3GiB")
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(3 * GIB, dtype=torch.uint8, device="cuda")
        assert torch.empty(GIB, dtype=torch.uint8, device="cuda").nbytes == GIB
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
