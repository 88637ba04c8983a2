"""What a take is worth by its hidden states: a linear probe, fitted on scenes whose scores are known.

Its points are of differences within a scenario (bench/quality/fit_states.py): how hard a scenario is, it does
not say. Knows no model. The file is safetensors: `weights`, and in the header as JSON where they are read,
what they were fitted on and with, and how well they told takes apart there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from engine.errors import ConfigError
from engine.types import MOMENTS, States, StateSites
from kernels.files import parse_json, whole_file

PROBE_FILE: Final = "states.probe"
"""In a generator's folder. No suffix of weights, since it is none of the model's."""
KIND: Final = "state_probe"
SCHEMA: Final = 1
FIT: Final = "fit one: python -m bench.quality.fit_states --help"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StateProbe:
    """`sites`: each of their steps with each of their layers is read."""

    sites: StateSites
    weights: NDArray[np.float32]  # [steps, layers, MOMENTS, width], points per unit
    offset: float  # of the takes that it was fitted on, so that their mean is 0
    made_with: Mapping[str, Any]  # whose states they are, as `engine.build.probing` says it
    fitted_on: str  # in words
    found: Mapping[str, Any] = field(default_factory=dict)
    """How it did on scenes that were left out, for whoever asks."""

    def __post_init__(self) -> None:
        shape = (len(self.sites.steps), len(self.sites.layers), len(MOMENTS), self.sites.width)
        assert self.weights.shape == shape, f"weights {self.weights.shape} for {shape}"

    def points(self, states: States) -> float:
        """Of the case score, against other takes of its scenario. ConfigError as `require`."""
        self.require(states.sites)
        steps = [states.sites.steps.index(step) for step in self.sites.steps]
        layers = [states.sites.layers.index(layer) for layer in self.sites.layers]
        read = states.values[np.ix_(steps, layers)].astype(np.float64)
        return float(np.vdot(self.weights.astype(np.float64), read)) - self.offset

    def require(self, sites: StateSites) -> None:
        """ConfigError where `sites` have not what it reads: other steps, noise, layers or widths."""
        there = dict(zip(sites.steps, sites.timesteps, strict=True))
        problem = None
        if sites.width != self.sites.width:
            problem = f"{self.sites.width} channels, and these takes have {sites.width}"
        elif not set(self.sites.layers) <= set(sites.layers):
            problem = f"the layers {_listed(self.sites.layers)}, and kept are {_listed(sites.layers)}"
        for step, timestep in zip(self.sites.steps, self.sites.timesteps, strict=True):
            if there.get(step) != timestep:
                found = "not kept" if step not in there else f"at timestep {there[step]:g}"
                problem = f"step {step + 1} at timestep {timestep:g}, which is {found} in these takes"
                break
        if problem is not None:
            raise ConfigError(
                f"the probe of hidden states reads {problem}", fix=f"{FIT}, on takes like these"
            )


def write_probe(path: Path, probe: StateProbe) -> None:
    document = {
        "schema": SCHEMA,
        "sites": asdict(probe.sites),
        "offset": probe.offset,
        "made_with": probe.made_with,
        "fitted_on": probe.fitted_on,
        "found": probe.found,
    }
    header = {KIND: json.dumps(document, allow_nan=False)}
    with whole_file(path) as part:
        part.write_bytes(save({"weights": np.ascontiguousarray(probe.weights)}, metadata=header))


def read_probe(path: Path) -> StateProbe:
    """ConfigError for what `write_probe` did not write."""
    try:
        with safe_open(path, framework="numpy") as file:
            document, weights = parse_json((file.metadata() or {})[KIND]), file.get_tensor("weights")
        if document["schema"] != SCHEMA:
            raise ConfigError(f"{path} is no probe of hidden states of schema {SCHEMA}", fix=FIT)
        sites = document["sites"]
        return StateProbe(
            sites=StateSites(
                steps=tuple(map(int, sites["steps"])),
                timesteps=tuple(map(float, sites["timesteps"])),
                layers=tuple(map(int, sites["layers"])),
                width=int(sites["width"]),
            ),
            weights=np.asarray(weights, np.float32),
            offset=float(document["offset"]),
            made_with=dict(document["made_with"]),
            fitted_on=str(document["fitted_on"]),
            found=dict(document["found"]),
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{path} is no whole probe of hidden states: {error}", fix=FIT) from error


def _listed(layers: tuple[int, ...]) -> str:
    return ", ".join(str(layer + 1) for layer in layers)
