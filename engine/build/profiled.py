"""A run folder as a profile: its trace read, its lanes drawn, its memory beside what was planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import StoreError
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.profile import Profile, profile
from engine.runs.store import RunStore
from engine.runs.timeline import Timeline
from engine.runs.trace_file import TRACE, read_trace
from kernels.files import whole_file

PICTURE = "profile.svg"
PICTURE_PX = 1600


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    run: Path
    profile: Profile
    trace: Path
    picture: Path
    memory: tuple[dict[str, Any], ...]
    """Plan and measurement, an entry for each process that could tell."""
    setup_s: Mapping[str, float]
    """Of the process that began the run, before its first span."""

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return self.profile.document() | {
            "run": str(self.run),
            "trace": str(self.trace),
            "picture": str(self.picture),
            "memory": list(self.memory),
            "setup_s": dict(self.setup_s),
        }


def profiled(run: Path) -> Profiled:
    """Of a run folder; its picture is written into it. StoreError: it has no trace, or a damaged one."""
    spans = list(read_trace(run))
    if not spans:
        raise StoreError(
            f"{run} holds no trace of a run", fix="give a run folder in which a scenario was worked on"
        )
    picture = run / PICTURE
    with whole_file(picture) as part:
        part.write_text(Timeline(spans, PICTURE_PX).svg(), encoding="utf-8")
    manifest = read_manifest(run / MANIFEST)
    with RunStore.open(run, read_only=True) as store:
        unfinished = {scenario.id for scenario in store.pending()}
    return Profiled(
        run=run,
        profile=profile(spans, unfinished),
        trace=run / TRACE,
        picture=picture,
        memory=tuple(manifest.get("memory_used", ())),
        setup_s=manifest.get("setup_s", {}),
    )
