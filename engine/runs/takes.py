"""Which takes a run has and which it chose, as a scorer notes it; and whether they are still those.

Scores nothing. Invariant: equal only where every take, by its digest, and every choice is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import StoreError
from engine.runs.store import RunStore


def takes_of(store: RunStore) -> dict[str, Any]:
    """By scenario id: {"chosen": number or null, "sha256": of each take, null where it is not known}."""
    digests, outcomes = store.video_digests(), store.outcomes()
    return {
        scenario.id: {
            "chosen": outcomes[scenario.id].chosen if scenario.id in outcomes else None,
            "sha256": [digests.get((scenario.id, take.index)) for take in store.attempts(scenario.id)],
        }
        for scenario in store.scenarios()
    }


def is_of(document: Any, store: RunStore) -> bool:
    """Whether scores are of the takes as they are now; those of older scorers do not say."""
    noted = document.get("takes") if isinstance(document, dict) else None
    return noted is None or noted == takes_of(store)


def refuse_changed(run: Path, changed: Mapping[tuple[str, int], Path], otherwise: str = "") -> None:
    """Raise StoreError where there is any; `changed` as `RunStore.changed_takes` gives it.

    otherwise: another way out than to mend the run.
    """
    if not changed:
        return
    first = next(iter(changed.values()))
    more = f", and {len(changed) - 1} more takes like it" if len(changed) > 1 else ""
    raise StoreError(
        f"{first} is recorded, and is missing or not as it was stored{more}",
        fix=f"put it back; or `retake resume {run} --remake-takes`{otherwise}",
    )
