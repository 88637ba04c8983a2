"""The selector "states": points by the probe from kept states alone, and who has none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import ConfigError, StoreError
from engine.loop.state_probe import StateProbe, write_probe
from engine.runs.states import keep_states, place_of_states, with_states
from engine.selectors import states as selector
from engine.types import Attempt, Clip, Prompt, Scenario, SelectorSettings, States, StateSites

SITES = StateSites(steps=(0,), timesteps=(1000.0,), layers=(1,), width=2)
SCENARIO = Scenario(
    id="0001",
    text="",
    prefix=Clip(path=Path("no_such.mp4"), fps=8.0, num_frames=24, width=64, height=64),
    category="",
    output_name="0001.mp4",
)


@pytest.fixture
def settings(tmp_path: Path) -> SelectorSettings:
    weights = np.array([[[[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]], np.float32)
    probe = StateProbe(sites=SITES, weights=weights, offset=2.0, made_with={}, fitted_on="")
    write_probe(tmp_path / "states.probe", probe)
    return SelectorSettings(states_probe=tmp_path / "states.probe")


def attempts(folder: Path, values: list[float | None]) -> list[Attempt]:
    found = []
    for index, value in enumerate(values):
        video = Path(f"attempt-{index}.mp4")
        (folder / video).touch()
        if value is not None:
            full = np.full((1, 1, 3, 2), value, np.float32)
            keep_states(folder, video, States(sites=SITES, values=full))
        prompt = Prompt(text="", negative="", seed=index, revision=0)
        found.append(Attempt(index=index, prompt=prompt, video_path=video, critique=None))
    return with_states(folder, found)


def test_points_come_from_states_alone(tmp_path: Path, settings: SelectorSettings) -> None:
    """Takes are not looked at, nor the prefix, and a take without states has no invented score."""
    made = attempts(tmp_path, [5.0, None, 3.0])
    built = selector.build(settings)
    assert built.score(SCENARIO, [], made) == [3.0, -math.inf, 1.0]
    assert built.score(SCENARIO, [], made[::-1]) == [1.0, -math.inf, 3.0]
    assert built.score(SCENARIO, [], made[2:]) == [1.0]


def test_without_probe_or_states_it_says_what_to_do(tmp_path: Path, settings: SelectorSettings) -> None:
    with pytest.raises(ConfigError, match="needs a probe, and none is bundled"):
        selector.build(SelectorSettings())
    with pytest.raises(StoreError, match="no take of 0001 has hidden states") as told:
        selector.build(settings).score(SCENARIO, [], attempts(tmp_path, [None, None]))
    assert "--keep-states" in told.value.fix


def test_states_of_other_steps_or_damaged_ones_are_refused(
    tmp_path: Path, settings: SelectorSettings
) -> None:
    made = attempts(tmp_path, [5.0])
    others = replace(SITES, timesteps=(900.0,))
    keep_states(
        tmp_path, Path("attempt-0.mp4"), States(sites=others, values=np.zeros((1, 1, 3, 2), np.float32))
    )
    with pytest.raises(ConfigError, match="the probe of hidden states reads step 1 at timestep 1000"):
        selector.build(settings).score(SCENARIO, [], made)
    path = place_of_states(tmp_path, Path("attempt-0.mp4"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="cannot be read"):
        selector.build(settings).score(SCENARIO, [], made)
