"""How long the parts of a start take, from the process on to the first step of a run.

Costs two readings of a clock a phase; outside `collecting` nothing is kept. Work of other threads counts in
the phase that waits for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final

BEFORE: Final = "process"
"""From the start of the process to that of the collection: Python, the command line, imports of its own."""
INSIDE: Final = "/"

_Open = tuple[dict[str, float], str]
_collection: ContextVar[_Open | None] = ContextVar("phases", default=None)


@contextmanager
def collecting() -> Iterator[dict[str, float]]:
    """Seconds by phase, in the order in which they begin; one inside another is "outer/inner".

    Filled while the block runs. Seconds of an outer phase have those of its inner ones in them.
    """
    found: dict[str, float] = {}
    if (age_s := process_age_s()) is not None:
        found[BEFORE] = age_s
    token = _collection.set((found, ""))
    try:
        yield found
    finally:
        _collection.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Adds the seconds of the block to phase `name`, also where the block raises."""
    if (collection := _collection.get()) is None:
        yield
        return
    found, outer = collection
    path = outer + name
    found.setdefault(path, 0.0)
    token = _collection.set((found, path + INSIDE))
    began_s = time.perf_counter()
    try:
        yield
    finally:
        found[path] += time.perf_counter() - began_s
        _collection.reset(token)


def process_age_s() -> float | None:
    """Seconds since this process was started; None where the system does not tell (only Linux does)."""
    try:
        after_name = Path("/proc/self/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        return since_boot_s - int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5): starttime
    except (OSError, AttributeError, IndexError, ValueError):
        return None
