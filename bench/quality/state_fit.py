"""Ridge regression of case scores on pooled hidden states, within scenarios, and how well it does elsewhere.

Every scenario's features and scores are taken against its own mean, so that neither its looks nor how hard it
is can be learned. Scenes are never split between fit and test, nor between the folds that choose where to
look and how strongly to shrink. Many columns of scores are fitted at once: the true ones, and permuted ones
as control, which go through all of it, choosing included.
N takes . F features . L columns of scores . A strengths
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.types import StateSites

Floats = NDArray[np.float64]
Site = tuple[int, int]
"""Position of a step and of a layer among those kept."""
FOLDS = 5
INNER_FOLDS = 4
STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-6, 3))
"""Of the ridge, as shares of the trace of the kernel: from hardly any to predictions that are all but 0."""
SMALLEST = 1e-6
"""Of a feature's deviation over that of a typical one: what does not vary is no evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Takes:
    """Of all scenarios. `features` [N, F] by site; `groups`: the scenario of each take, as a number."""

    sites: StateSites
    features: Mapping[Site, NDArray[np.float32]]
    scores: Floats  # [N], points
    groups: NDArray[np.int64]  # [N]
    scenes: tuple[str, ...]  # of each take
    prompts: tuple[str, ...]  # of each take

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Each of these steps with each of these layers, by position."""

    steps: tuple[int, ...]
    layers: tuple[int, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple((step, layer) for step in self.steps for layer in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossFitted:
    """What was predicted of each take by fits without its scene."""

    single: Mapping[Candidate, Floats]  # [N, L], by every candidate alone
    chosen: Floats  # [N, L], by the candidate that each fit chose for itself
    picked: tuple[Candidate, ...]  # of each fold, for the true scores


def candidates_of(sites: StateSites) -> list[Candidate]:
    """Each site alone, all layers of a step, and all there is."""
    steps, layers = range(len(sites.steps)), tuple(range(len(sites.layers)))
    alone = [Candidate(steps=(step,), layers=(layer,)) for step in steps for layer in layers]
    of_steps = [Candidate(steps=(step,), layers=layers) for step in steps]
    found = [*alone, *of_steps, Candidate(steps=tuple(steps), layers=layers)]
    return list(dict.fromkeys(found))


def standardised(takes: Takes, site: Site) -> tuple[Floats, Floats]:
    """The features of a site against the mean of their scenario, in deviations, [N, F], and what they were
    divided by, [F]. No score is looked at, so that it is done once for all folds."""
    rows = within(takes.features[site], takes.groups)
    scale = np.sqrt(np.mean(np.square(rows), axis=0))
    scale = np.maximum(scale, max(SMALLEST * float(np.median(scale)), float(np.finfo(np.float64).tiny)))
    return rows / scale, scale


def within(values: NDArray[Any], groups: NDArray[np.int64]) -> Floats:
    """Against the mean of each group; values [N] or [N, ...]."""
    sums = np.zeros((int(groups.max()) + 1, *values.shape[1:]))
    np.add.at(sums, groups, values)
    counts = np.bincount(groups).reshape(-1, *(1,) * (values.ndim - 1))
    return np.asarray(values - (sums / counts)[groups], np.float64)


def permuted(takes: Takes, count: int, seed: int = 0) -> Floats:
    """The scores [N, 1 + count] against the mean of their scenario: as they are, then permuted within it."""
    draw, scores = np.random.default_rng(seed), within(takes.scores, takes.groups)
    columns = [scores]
    for _ in range(count):
        column = scores.copy()
        for group in np.unique(takes.groups):
            rows = np.flatnonzero(takes.groups == group)
            column[rows] = column[draw.permutation(rows)]
        columns.append(column)
    return np.stack(columns, axis=1)


def cross_fitted(takes: Takes, labels: Floats) -> CrossFitted:
    """Out-of-fold predictions of `labels` [N, L]; candidate and strength are chosen within each fit."""
    candidates, kernels = candidates_of(takes.sites), _kernels(takes)
    single = {candidate: np.zeros_like(labels) for candidate in candidates}
    chosen, picked = np.zeros_like(labels), []
    columns = np.arange(labels.shape[1])
    for train, test in folds(takes.scenes, FOLDS):
        errors, predicted = [], []
        for candidate in candidates:
            kernel = kernels[candidate]
            found = _inner_errors(kernel, labels, train, [takes.scenes[row] for row in train])  # [A, L]
            outer = _ridge(kernel, labels, train, test)  # [A, test, L]
            best = found.argmin(axis=0)
            single[candidate][test] = outer[best, :, columns].T
            errors.append(found[best, columns])
            predicted.append(single[candidate][test])
        best = np.argmin(errors, axis=0)
        chosen[test] = np.stack(predicted)[best, :, columns].T
        picked.append(candidates[int(best[0])])
    return CrossFitted(single=single, chosen=chosen, picked=tuple(picked))


def fitted(takes: Takes) -> tuple[Candidate, dict[Site, Floats], float]:
    """The candidate that does best over all scenes, the weights [F] of each of its sites on features as they
    are, and the share that its ridge is of the trace."""
    labels = within(takes.scores, takes.groups)[:, None]
    kernels, everywhere = _kernels(takes), np.arange(len(takes))
    errors = {
        candidate: _inner_errors(kernel, labels, everywhere, takes.scenes)[:, 0]
        for candidate, kernel in kernels.items()
    }
    best = min(errors, key=lambda candidate: float(errors[candidate].min()))
    strength = STRENGTHS[int(errors[best].argmin())]
    kernel = kernels[best]
    duals = np.linalg.solve(kernel + strength * np.trace(kernel) * np.eye(len(takes)), labels[:, 0])
    weights = {}
    for site in best.sites:
        rows, scale = standardised(takes, site)
        weights[site] = rows.T @ duals / scale
    return best, weights, strength


def folds(scenes: Sequence[str], count: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(train, test) rows: all takes of a scene are on one side. Scenes go round by name."""
    place = {scene: index % count for index, scene in enumerate(sorted(set(scenes)))}
    fold = np.array([place[scene] for scene in scenes])
    return [(np.flatnonzero(fold != one), np.flatnonzero(fold == one)) for one in range(count)]


def _kernels(takes: Takes) -> dict[Candidate, Floats]:
    """Products of the features of takes [N, N]; that of several sites is the sum of theirs."""
    of_site = {}
    for site in takes.features:
        rows, _ = standardised(takes, site)
        of_site[site] = rows @ rows.T
    return {
        candidate: np.sum([of_site[site] for site in candidate.sites], axis=0)
        for candidate in candidates_of(takes.sites)
    }


def _inner_errors(kernel: Floats, labels: Floats, train: NDArray[np.int64], scenes: Sequence[str]) -> Floats:
    """Mean squared error [A, L] over folds of the rows `train`, whose scenes these are."""
    total = np.zeros((len(STRENGTHS), labels.shape[1]))
    for inner, held in folds(scenes, INNER_FOLDS):
        predicted = _ridge(kernel, labels, train[inner], train[held])
        total += np.square(predicted - labels[train[held]]).sum(axis=1)
    return total / len(train)


def _ridge(kernel: Floats, labels: Floats, train: NDArray[np.int64], test: NDArray[np.int64]) -> Floats:
    """Predictions [A, test, L] of a fit to the rows `train`, for each of STRENGTHS.

    Dual form: with K = U diag(e) U', the predictions are K_test U (e + strength trace)^-1 U' y.
    """
    values, vectors = np.linalg.eigh(kernel[np.ix_(train, train)])
    values = np.maximum(values, 0.0)
    ahead, behind = kernel[np.ix_(test, train)] @ vectors, vectors.T @ labels[train]
    trace = max(float(values.sum()), np.finfo(np.float64).tiny)
    return np.stack([ahead @ (behind / (values + s * trace)[:, None]) for s in STRENGTHS])
