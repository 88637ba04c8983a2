"""User errors. Each names the value, what is allowed, and the fix; the CLI prints them without a traceback.

Programmer errors are asserts, not these.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable


class RetakeError(Exception):
    """Base of every error that a user can cause and mend. `fix` is one imperative sentence."""

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(f"{problem}\n  fix: {fix}")
        self.problem = problem
        self.fix = fix

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Pickled by hand: a keyword-only argument does not survive the way back from a worker process."""
        return functools.partial(type(self), fix=self.fix), (self.problem,)


class ConfigError(RetakeError):
    """A setting or command-line value is unknown, of the wrong type or out of range."""


class DatasetError(RetakeError):
    """A dataset folder, its descriptions.csv or one of its clips is not usable."""


class VideoError(RetakeError):
    """A video file is missing, truncated, or has the wrong frame rate, length or size."""


class ModelError(RetakeError):
    """A model folder lacks a component or does not fit the family that should load it."""


class NotFinite(RetakeError):
    """A take holds values that are no numbers; it is never stored, and its scenario fails."""


class DoesNotFit(RetakeError):
    """The planned models do not fit the memory budget; the message holds the table."""


class DeviceError(RetakeError):
    """The GPU reported an error after which no work in this process can succeed; the run folder is intact."""


class StoreError(RetakeError):
    """A run folder is missing, damaged, of a newer schema, or was made with something else."""


class RunLost(StoreError):
    """The run folder takes no more writes, as on a full disk: the run ends, and what is stored stays."""


class BoundaryError(RetakeError):
    """The loop was about to open a file of the dataset that is not a question: a reference clip or a mask."""


class ScorerError(RetakeError):
    """A run or folder cannot be scored: clips are missing or do not match the dataset."""


class SystemRefused(RetakeError):
    """The system refused a file: no rights, no room, no such path."""


def nearest(value: str, allowed: Iterable[str]) -> str:
    """The allowed name closest to `value`, phrased for an error message; empty when nothing is close."""
    matches = difflib.get_close_matches(value, list(allowed), n=1, cutoff=0.5)
    return f"; nearest: {matches[0]}" if matches else ""


def unknown_name(what: str, value: str, allowed: Iterable[str]) -> ConfigError:
    """The standard error for a name that is not in a registry or a set of keys."""
    names = sorted(allowed)
    return ConfigError(
        f"{value!r} is not a {what}{nearest(value, names)}",
        fix=f"use one of: {', '.join(names)}",
    )
