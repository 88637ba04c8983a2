"""Phases of a start: which is in which, in what order, and what an error or a thread leaves."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from engine.machine.phases import BEFORE, collecting, phase, process_age_s


def test_phases_nest_add_up_and_keep_their_order() -> None:
    with collecting() as found:
        with phase("prepare"):
            with phase("imports"):
                time.sleep(0.02)
            with phase("clips"):
                pass
            with phase("imports"):
                time.sleep(0.02)
        with phase("load"):
            pass
    found.pop(BEFORE, None)
    assert list(found) == ["prepare", "prepare/imports", "prepare/clips", "load"]
    assert found["prepare"] >= found["prepare/imports"] >= 0.04


def test_a_phase_that_fails_is_told_and_closed() -> None:
    with collecting() as found:
        with pytest.raises(ValueError), phase("load"), phase("critic"):
            raise ValueError
        with phase("hash"):
            pass
    assert {"load", "load/critic", "hash"} <= found.keys(), "hash is in no other"


def test_outside_a_collection_nothing_is_kept() -> None:
    with phase("load"):
        pass
    with collecting() as found:
        pass
    assert "load" not in found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell")
def test_the_age_of_a_process_counts_from_its_start() -> None:
    code = "import time; time.sleep(0.3); from engine.machine import phases; print(phases.process_age_s())"
    began_s = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0.25 <= float(told) <= time.perf_counter() - began_s + 0.05, "to a hundredth: the clock's ticks"
    mine = process_age_s()
    assert mine is not None and mine > float(told)
