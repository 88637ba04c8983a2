"""Every Triton kernel compiles to machine code for the GPUs we name and fits their shared memory; no GPU.

Triton's interpreter, which runs the kernels elsewhere in the tests, knows no types of products, no smallest
tile and no shared memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("triton")

TESTS = Path(__file__).resolve().parents[1]
CAPABILITIES = ("8.0", "8.9", "9.0", "12.0")
MAX_STACK_BYTES = 256
"""Per thread, of what is used without a tuning run. A few spilled registers cost little; beyond that the tile
is too large for the card."""


@cache
def compiled(which: str) -> dict[str, list[dict]]:
    """Rows by capability, of one process for all: here the kernels may be decorated for the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(TESTS.parent), environment.get("PYTHONPATH")))
    )
    command = [sys.executable, str(TESTS / "support" / "triton_offline.py"), which, *CAPABILITIES]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {one: [row for row in rows if row["capability"] == spelled(one)] for one in CAPABILITIES}


def spelled(capability: str) -> list[int]:
    return [int(part) for part in capability.split(".")]


def check(rows: list[dict], capability: str) -> None:
    failed = [row for row in rows if "error" in row]
    assert not failed, "\n".join(f"{row['case']}: {row['error']}" for row in failed)
    expected = {"_kernel", "_gemm_kernel", "_forward", "_int8_rows", "_prefix_sparse"}
    if capability != "8.0":
        expected |= {"_chunk_amax", "_quantize"}
    assert expected <= {row["kernel"] for row in rows}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_what_is_used_first_compiles(capability: str) -> None:
    rows = compiled("few")[capability]
    check(rows, capability)
    spilled = [row for row in rows if row["stack"] > MAX_STACK_BYTES]
    assert not spilled, "\n".join(f"{row['case']}: {row['stack']} bytes of stack" for row in spilled)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_everything_in_the_tables_compiles(capability: str) -> None:
    rows = compiled("all")[capability]
    check(rows, capability)
    assert "_epilogue_kernel" in {row["kernel"] for row in rows}
