"""The selector "states": the take that a probe expects most of by the hidden states it was made through.

Looks at no pixels: the states were kept while the take was made (engine/denoise/states.py). Invariant: a
take's score does not depend on the other takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import ConfigError, StoreError
from engine.loop.state_probe import FIT, StateProbe, read_probe
from engine.protocols import Selector
from engine.runs.states import read_states
from engine.types import Attempt, Scenario, SelectorSettings, Video


@dataclass(frozen=True, slots=True, kw_only=True)
class StateScore:
    probe: StateProbe

    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        """Expected points against other takes of this scenario; minus infinity where a take has no states.

        StoreError where no take has any, or a file of them is damaged; ConfigError where they are of other
        steps or layers than the probe reads.
        """
        if not any(attempt.states for attempt in attempts):
            raise StoreError(
                f"no take of {scenario.id} has hidden states, by which the selector states chooses",
                fix="make the run with --keep-states, or with states among its --selectors",
            )
        return [
            -math.inf if attempt.states is None else self.probe.points(read_states(attempt.states))
            for attempt in attempts
        ]


def build(settings: SelectorSettings) -> Selector:
    """ConfigError without a probe, or for a file that is none."""
    if settings.states_probe is None:
        raise ConfigError(
            "the selector states needs a probe, and none is bundled",
            fix=f"{FIT}; then give --states-probe FILE",
        )
    return StateScore(probe=read_probe(settings.states_probe))
