"""What a run folder holds but for the clock: rows, and digests of videos. Equal runs hold the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.runs.states import SUFFIX
from engine.runs.store import RunStore
from kernels.files import file_digest


def stored(folder: Path) -> dict[str, Any]:
    """All but the clock: rows, and digests of videos."""
    with RunStore.open(folder, read_only=True) as store:
        outcomes = {
            key: replace(
                one,
                attempts=tuple(
                    replace(a, timings={}, critique=a.critique and replace(a.critique, seconds=0.0))
                    for a in one.attempts
                ),
            )
            for key, one in store.outcomes().items()
        }
        plans = {key: replace(store.history(key).plan, seconds=0.0) for key in outcomes}  # type: ignore[type-var]
        scouts = {
            one.id: [replace(s, timings={}) for s in store.scouts.of(one.id)] for one in store.scenarios()
        }
        return {
            "scouts": scouts,
            "previews": store.scouts.digests(),
            "outcomes": outcomes,
            "plans": plans,
            "videos": store.video_digests(),
            "states": {
                str(path.relative_to(folder)): file_digest(path)
                for path in folder.glob(f"videos/*/*{SUFFIX}")
            },
            # a process of its own sees no file that another one writes; threads do
            "opened": [path for path in store.opened_files() if "conditioning" in path.name],
            "damaged": store.changed_takes() | store.changed_chosen(),  # type: ignore[operator]
        }
