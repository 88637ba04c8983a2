"""The user's own choice of a take, over the loop's: made, undone, and told wherever a run is summed up.

Generates and scores nothing. Invariant: the loop's choice stays on record, so every choice can be undone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.errors import ConfigError, StoreError, nearest
from engine.runs.store import RunStore
from engine.runs.takes import refuse_changed
from engine.types import Outcome
from engine.words import command_line


def choose(folder: Path, scenario_id: str, take: int | None) -> tuple[Outcome, Outcome]:
    """Choose a take of one scenario, or with None the loop's own again; what it was and what it is now.

    `chosen/` follows. ConfigError for a scenario or take that does not exist, StoreError where the scenario
    is not finished, the take's file is missing or not as it was stored, or another process writes the run.
    """
    with RunStore.open(folder) as store:
        before = _outcome(store, scenario_id)
        last = len(before.attempts) - 1
        if last < 0:
            raise StoreError(
                f"{scenario_id} has no take: {before.failure}",
                fix=f"make one with `{command_line('retake', 'resume', folder)}`",
            )
        if take is not None and not 0 <= take <= last:
            raise ConfigError(
                f"{scenario_id} has no take {take}",
                fix=f"give one of 0 to {last}, as in the report",
            )
        after = before.own if take is None else before.with_take(take)
        if after.chosen is not None:
            changed = store.changed_takes(only=(scenario_id, after.chosen))
            refuse_changed(folder, changed, "; or choose another take")
        store.choose(after)
    return before, after


def require_scenario(store: RunStore, scenario_id: str) -> None:
    """ConfigError for a name that there is not."""
    known = [scenario.id for scenario in store.scenarios()]
    if scenario_id not in known:
        raise ConfigError(
            f"{store.folder} has no scenario {scenario_id!r}{nearest(scenario_id, known)}",
            fix="give the name of a scenario as in the report",
        )


def _outcome(store: RunStore, scenario_id: str) -> Outcome:
    require_scenario(store, scenario_id)
    found = store.outcome_of(scenario_id, store.attempts(scenario_id))
    if found is None:
        raise StoreError(
            f"{scenario_id} is not finished",
            fix=f"finish it first: {command_line('retake', 'resume', store.folder)}",
        )
    return found


def describe(outcome: Outcome) -> str:
    """ "take 2 of 0 to 3, chosen by you; the loop's was take 1 (accepted)"."""
    own = outcome.own
    loops = f"take {own.chosen} ({own.stopped})" if own.chosen is not None else f"none ({own.failure})"
    if outcome.overruled is None:
        return f"{loops}, chosen by the loop"
    return f"{numbered(outcome)}, chosen by you; the loop's was {loops}"


def numbered(outcome: Outcome) -> str:
    """ "take 2 of 0 to 3": its number, as everywhere, and those of all."""
    last = len(outcome.attempts) - 1
    return f"take {outcome.chosen}" + (f" of 0 to {last}" if last else "")


def users_choices(outcomes: Iterable[Outcome]) -> list[str]:
    """A line for each scenario of which the user chose the take."""
    return [f"{one.scenario_id}: {describe(one)}" for one in outcomes if one.overruled is not None]


def command(folder: Path, scenario_id: str, take: int | None) -> str:
    """What to type to choose this take, or with None the loop's own."""
    return command_line("retake", "choose", folder, scenario_id, "--undo" if take is None else take)


def command_for(folder: Path, outcome: Outcome | None, take: int) -> str | None:
    """What to type to choose this take, or to undo the user's choice; None where that does nothing."""
    if outcome is None or take == outcome.own.chosen == outcome.chosen:
        return None
    undoes = take in (outcome.chosen, outcome.own.chosen)
    return command(folder, outcome.scenario_id, None if undoes else take)
