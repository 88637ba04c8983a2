"""The probe: points by hand, whose states it can read, and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.errors import ConfigError
from engine.loop.state_probe import KIND, StateProbe, read_probe, write_probe
from engine.types import States, StateSites

KEPT = StateSites(steps=(0, 1, 3), timesteps=(1000.0, 937.0625, 800.0), layers=(1, 3, 5), width=2)
READ = StateSites(steps=(1, 3), timesteps=(937.0625, 800.0), layers=(3,), width=2)
VALUES = np.arange(3 * 3 * 3 * 2, dtype=np.float32).reshape(3, 3, 3, 2)


def probe(sites: StateSites = READ) -> StateProbe:
    weights = np.zeros((len(sites.steps), len(sites.layers), 3, sites.width), np.float32)
    weights[0, 0, 2, 1], weights[-1, 0, 0, 0] = 2.0, 0.5
    return StateProbe(
        sites=sites,
        weights=weights,
        offset=1.5,
        made_with={"generator": {"a": "b"}, "loras": []},
        fitted_on="x",
    )


def test_points_by_hand() -> None:
    read = VALUES[1, 1, 2, 1], VALUES[2, 1, 0, 0]
    assert probe().points(States(sites=KEPT, values=VALUES)) == 2.0 * read[0] + 0.5 * read[1] - 1.5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"width": 3}, "reads 2 channels, and these takes have 3"),
        ({"layers": (1, 2, 5)}, "reads the layers 4, and kept are 2, 3, 6"),
        (
            {"timesteps": (1000.0, 909.0, 800.0)},
            "step 2 at timestep 937.062, which is at timestep 909 in these",
        ),
        ({"steps": (0, 1, 2)}, "step 4 at timestep 800, which is not kept in these takes"),
    ],
)
def test_states_of_another_kind_are_refused(change: dict[str, Any], problem: str) -> None:
    """A take in another number of steps has other noise at a step, so that its states mean something else."""
    with pytest.raises(ConfigError, match=problem):
        probe().require(replace(KEPT, **change))
    probe().require(KEPT)


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    given = replace(probe(), found={"auc": {"mean": 0.7}})
    write_probe(tmp_path / "states.probe", given)
    read = read_probe(tmp_path / "states.probe")
    assert np.array_equal(read.weights, given.weights)
    for name in ("sites", "offset", "made_with", "fitted_on", "found"):
        assert getattr(read, name) == getattr(given, name)


def test_what_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "states.probe"
    path.write_bytes(b"no such thing")
    with pytest.raises(ConfigError, match="is no whole probe"):
        read_probe(path)
    save_file({"weights": np.zeros(2, np.float32)}, path, metadata={KIND: '{"schema": 2}'})
    with pytest.raises(ConfigError, match="is no probe of hidden states of schema 1"):
        read_probe(path)
    save_file({"weights": np.zeros(2, np.float32)}, path, metadata={KIND: '{"schema": 1}'})
    with pytest.raises(ConfigError, match="is no whole probe"):
        read_probe(path)
    write_probe(path, probe())
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ConfigError, match="is no whole probe"):
        read_probe(path)
