"""Faults put into the engine itself, to see that the harness finds them: each breaks one promise of a store.

Each is called in a forked process before the command.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.loop.policy import RefinementPolicy
from engine.protocols import Display, Sink
from engine.runs.store import RunStore
from engine.runs.watched import Watched
from engine.types import Attempt


def announced_too_early() -> None:
    """What is not safe yet is shown: a kill in between loses what a user was told of."""

    def attempt(self: Any, scenario_id: str, made: Attempt) -> None:
        store: Sink = self._store
        display: Display = self._display
        display.attempt(scenario_id, made)
        store.attempt(scenario_id, made)

    Watched.attempt = attempt  # type: ignore[method-assign]


def stored_before_it_is_whole() -> None:
    """A row is committed while its clip is half there."""
    store_attempt = RunStore.attempt

    def attempt(self: RunStore, scenario_id: str, made: Attempt) -> None:
        clip = self.folder / made.video_path
        whole = clip.read_bytes()
        clip.write_bytes(whole[: len(whole) // 2])
        store_attempt(self, scenario_id, made)
        clip.write_bytes(whole)

    RunStore.attempt = attempt  # type: ignore[method-assign]


def begun_anew() -> None:
    """Resuming forgets what is stored of unfinished scenarios, and makes it again."""
    open_store = RunStore.open

    def opened(folder: Path, *, read_only: bool = False) -> RunStore:
        store = open_store(folder, read_only=read_only)
        with store._database.transaction() as database:
            for table in ("plans", "attempts"):
                database.execute(
                    f"DELETE FROM {table} WHERE scenario_id NOT IN (SELECT scenario_id FROM outcomes)"
                )
        return store

    RunStore.open = opened  # type: ignore[method-assign, assignment]


def of_this_process() -> None:
    """What is made depends on the process that makes it."""
    first = RefinementPolicy.first

    def other_seed(self: RefinementPolicy, scenario: Any) -> Any:
        return replace(first(self, scenario), seed=os.getpid())

    RefinementPolicy.first = other_seed  # type: ignore[method-assign]


SABOTAGES: dict[str, tuple[str, Callable[[], None]]] = {
    "announced too early": ("lost", announced_too_early),
    "stored before it is whole": ("corrupt", stored_before_it_is_whole),
    "begun anew": ("duplicated", begun_anew),
    "of this process": ("unequal", of_this_process),
}
"""Name -> the count in which it must show."""
