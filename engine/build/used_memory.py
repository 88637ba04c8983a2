"""The memory that a process of a run took, beside what was planned for it: into its manifest, when it ends.

On a CPU nothing is measured; what a lane had to give up for want of memory is noted on any device.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.build.prepare import Prepared
from engine.machine import usage
from engine.machine.memory import PEAK, check, in_gib
from engine.runs.folder import writing
from engine.runs.manifest import MANIFEST, read_manifest, write_manifest

log = logging.getLogger(__name__)

USED = "memory_used"
"""Key of a manifest: one entry for each process of the run that had anything to tell."""
TOLERATED = 0.1
"""Error of a plan above which a run says so."""


@contextmanager
def note_used(
    folder: Path,
    prepared: Prepared,
    loaded: Mapping[str, int],
    streams: Mapping[str, Any],
    relieved: Sequence[str],
) -> Iterator[None]:
    """Measures when the block ends or is interrupted; after an error a GPU may say nothing any more."""
    if prepared.device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(prepared.device)
    can_tell = False
    try:
        yield
        can_tell = True
    except KeyboardInterrupt:
        can_tell = True
        raise
    finally:
        if can_tell:
            _note(folder, prepared, loaded, streams, relieved)


def _note(
    folder: Path,
    prepared: Prepared,
    loaded: Mapping[str, int],
    streams: Mapping[str, Any],
    relieved: Sequence[str],
) -> None:
    entry: dict[str, Any] = {"relieved": list(relieved)} if relieved else {}
    if prepared.device == "cuda":
        entry |= document(prepared, usage.of_run(loaded, streams, prepared.device))
    if not entry:
        return
    path = folder / MANIFEST
    with writing(folder):
        facts = read_manifest(path)
        write_manifest(path, {**facts, USED: [*facts.get(USED, []), entry]})


def document(prepared: Prepared, found: usage.Measured) -> dict[str, Any]:
    """Plan and measurement of one process, as JSON values in bytes."""
    parts = check(prepared.memory, found.parts)
    peak = next(part for part in parts if part.part == PEAK)
    if abs(peak.error) > TOLERATED:
        log.warning(
            "memory: %s was planned for the models and their steps, %s was taken",
            in_gib(peak.planned_bytes), in_gib(peak.measured_bytes),
        )  # fmt: skip
    return {
        "parts": [part.document() for part in parts],
        "reserved_bytes": dict(found.reserved),
        "peak_allocated_bytes": found.peak_allocated,
        "peak_reserved_bytes": found.peak_reserved,
    }
