"""Which takes a run has and which it chose, as a scorer notes it; and whether they are still those.

Scores nothing. Invariant: equal only where every take, by its digest, and every choice is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import StoreError
from engine.runs.store import RunStore
from engine.words import command_line, counted


def takes_of(store: RunStore) -> dict[str, Any]:
    """By scenario id: {"chosen": number or null, "sha256": of each take, null where it is not known}.

    With "loops", the number or null that the loop chose, where the user chose another.
    """
    digests, choices, numbers = store.video_digests(), store.overview.choices(), store.overview.take_numbers()
    found: dict[str, Any] = {}
    for scenario in store.scenarios():
        chosen, loops = choices.get(scenario.id, (None, None))
        found[scenario.id] = {
            "chosen": chosen,
            "sha256": [digests.get((scenario.id, number)) for number in numbers.get(scenario.id, ())],
        }
        if chosen != loops:
            found[scenario.id]["loops"] = loops
    return found


def is_of(document: Any, store: RunStore, *, whoever_chosen: bool = False) -> bool:
    """Whether scores are of the takes as they are now.

    Those of older scorers do not say, but no user could choose then. whoever_chosen: whichever of them was
    chosen, which the scores of single takes do not rest on.
    """
    noted = document.get("takes") if isinstance(document, dict) else None
    if noted is None:
        return whoever_chosen or all(chosen == loops for chosen, loops in store.overview.choices().values())
    now = takes_of(store)
    return (_digests(noted) == _digests(now)) if whoever_chosen else noted == now


def _digests(takes: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {name: entry["sha256"] for name, entry in takes.items()}
    except (AttributeError, KeyError, TypeError):  # a foreign file: of no takes that we know
        return {}


def refuse_changed(run: Path, changed: Mapping[tuple[str, int], Path], otherwise: str = "") -> None:
    """Raise StoreError where there is any; `changed` as `RunStore.changed_takes` gives it.

    otherwise: another way out than to mend the run.
    """
    if not changed:
        return
    first = next(iter(changed.values()))
    more = f", and {counted(len(changed) - 1, 'more take')} like it" if len(changed) > 1 else ""
    raise StoreError(
        f"{first} is recorded, and is missing or not as it was stored{more}",
        fix=f"put it back; or `{command_line('retake', 'resume', run, '--remake-takes')}`{otherwise}",
    )
