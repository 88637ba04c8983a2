"""The record goes on where it was, and the table has every count and no trial of other sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import campaign
from faults.evidence import Damage
from faults.trial import Finding, Trial, message
from faults.workload import Workload
from rich.progress import Progress


def nowhere(folder: Path) -> Workload:
    return Workload(
        root=folder, dataset=folder, generator=folder, critic=folder, options=(), first=lambda: None
    )


def part(folder: Path, *trials: tuple[str, str, Callable[[], Finding]]) -> campaign.Part:
    made = [Trial(fault=fault, name=name, run=lambda load, make=make: make()) for fault, name, make in trials]
    return campaign.Part(load=nowhere(folder), trials=made)


def carry_out(found: campaign.Part, record: Path, only: str = "") -> None:
    with Progress(disable=True) as progress:
        campaign.carry_out([found], record, only=only, progress=progress)


def test_a_stopped_campaign_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def make(name: str) -> Callable[[], Finding]:
        def trial() -> Finding:
            calls.append(name)
            if name == "b" and calls.count("b") == 1:
                raise KeyboardInterrupt
            return Finding(kills=1)

        return trial

    found = part(tmp_path, *(("fault", name, make(name)) for name in "abc"))
    record = tmp_path / "trials.jsonl"
    with pytest.raises(KeyboardInterrupt):
        carry_out(found, record)
    with record.open("a") as file:
        file.write('{"sources": "cut o')
    record.write_text(record.read_text() + "\n")
    carry_out(found, record)
    assert calls == ["a", "b", "b", "c"]
    assert [entry["name"] for entry in campaign.read_record(record)] == ["a", "b", "c"]
    carry_out(found, record)
    assert calls == ["a", "b", "b", "c"]
    monkeypatch.setattr(campaign, "source_digest", lambda: "other sources")
    assert campaign.read_record(record) == []


def test_only_is_part_of_a_fault(tmp_path: Path) -> None:
    found = part(tmp_path, ("SIGKILL", "0", Finding), ("a full disk", "0", Finding))
    carry_out(found, tmp_path / "trials.jsonl", only="disk")
    assert [entry["fault"] for entry in campaign.read_record(tmp_path / "trials.jsonl")] == ["a full disk"]


def test_every_count_reaches_the_table(tmp_path: Path) -> None:
    damage = Damage(lost=["take 0"], duplicated=["a", "b"], corrupt=["c"] * 3, unequal=["d"] * 4)
    found = part(
        tmp_path,
        ("kill", "0", lambda: Finding(kills=1, damage=damage)),
        ("kill", "1", lambda: Finding(kills=2, message="StoreError x", damage=Damage(left_over=["p"]))),
        ("kill", "2", lambda: Finding(kills=2, message="StoreError x", unclear=["Traceback"])),
        ("kill", "3", lambda: Finding(skipped="no tmpfs")),
        ("texts", "generated", lambda: Finding(tried=50, unclear=["in /a/b-c/d.py, line 1"])),
    )
    carry_out(found, tmp_path / "trials.jsonl")
    made = campaign.document(campaign.read_record(tmp_path / "trials.jsonl"), [])
    assert made["summary"] == {"kills": 5, "lost": 1, "duplicated": 2, "corrupt": 3, "unequal": 4}
    kill, texts = made["rows"]
    assert (kill["fault"], kill["tried"], kill["skipped"], kill["unclear"]) == ("kill", 3, 1, 1)
    assert (kill["left_over"], kill["message"], kill["examples"][0]) == (1, "StoreError x", "0: take 0")
    assert texts["examples"] == ["generated: in d.py, line 1"]
    assert texts["tried"] == 50 and made["soak"] is None
    assert made["manifest"]["machine"]["python"] and json.dumps(made)


def test_the_message_is_what_a_user_reads() -> None:
    panel = (
        "plan read\n╭─ StoreError ─────╮\n│ /tmp/x/run holds  │\n│ a run already     │\n"
        "│ Fix: choose       │\n╰──────────────────╯\n"
    )
    assert message(panel) == "StoreError run holds a run already"
    trace = "Traceback (most recent call last):\n  File x\nsqlite3.OperationalError: disk is full\n"
    assert message(trace) == "sqlite3.OperationalError: disk is full"
    assert message("all done") == ""
