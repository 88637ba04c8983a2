"""A probe of hidden states for a tiny generator, whatever it is worth; no test of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.build.probing import made_with
from engine.generators.wan import generator as wan
from engine.loop.state_probe import StateProbe, write_probe
from engine.runs.manifest import weight_digests


def write_tiny_probe(path: Path, generator: Path) -> Path:
    """Of all states that its takes keep, with random weights."""
    sites = wan.load(generator, device="cpu", dtype="fp32", with_weights=False, states=True).sites
    assert sites is not None
    size = (len(sites.steps), len(sites.layers), 3, sites.width)
    weights = np.random.default_rng(0).normal(size=size).astype(np.float32)
    of = made_with(weight_digests(generator), ())
    write_probe(path, StateProbe(sites=sites, weights=weights, offset=0.0, made_with=of, fitted_on="nothing"))
    return path
