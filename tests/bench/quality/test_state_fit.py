"""The fit on hidden states: a planted direction is found where it is, and none in permuted scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.quality.state_figures import auc, figure, groups_of, rank_correlation, share_of_oracle
from bench.quality.state_fit import (
    FOLDS,
    Candidate,
    Takes,
    _ridge,
    candidates_of,
    cross_fitted,
    fitted,
    folds,
    permuted,
    within,
)
from engine.types import StateSites

SITES = StateSites(steps=(0, 1), timesteps=(1000.0, 937.0), layers=(1, 3), width=4)
PLANTED = Candidate(steps=(1,), layers=(0,))


def takes(num_scenes: int = 40, num_takes: int = 4, *, signal: float = 1.0, seed: int = 0) -> Takes:
    """Scores follow the first feature of one site, features and scores the scenario's level too."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_scenes), num_takes)
    level = 30 * draw.normal(size=num_scenes)[groups]
    features = {
        (step, layer): (draw.normal(size=(len(groups), 12)) + level[:, None]).astype(np.float32)
        for step in range(2)
        for layer in range(2)
    }
    planted = within(features[1, 0][:, 0], groups)
    return Takes(
        sites=SITES,
        features=features,
        scores=50 - level + 4 * signal * planted + draw.normal(size=len(groups)),
        groups=groups,
        scenes=tuple(f"s{group // 2}" for group in groups),  # two scenarios a scene
        prompts=("a",) * len(groups),
    )


def test_every_site_alone_each_step_and_all() -> None:
    found = candidates_of(SITES)
    assert len(found) == 4 + 2 + 1 and PLANTED in found
    assert candidates_of(replace(SITES, steps=(0,), layers=(1,))) == [Candidate(steps=(0,), layers=(0,))]


def test_a_scene_is_on_one_side_of_a_fold() -> None:
    scenes = takes().scenes
    held = []
    for train, test in folds(scenes, FOLDS):
        assert not {scenes[row] for row in train} & {scenes[row] for row in test}
        held += test.tolist()
    assert sorted(held) == list(range(len(scenes)))


def test_the_dual_form_is_ridge_regression() -> None:
    draw = np.random.default_rng(1)
    rows, labels = draw.normal(size=(20, 6)), draw.normal(size=(20, 2))
    train, test = np.arange(15), np.arange(15, 20)
    found = _ridge(rows @ rows.T, labels, train, test)
    x = rows[train]
    strength = 10.0**-3 * np.trace(x @ x.T)
    weights = np.linalg.solve(x.T @ x + strength * np.eye(6), x.T @ labels[train])
    assert np.allclose(found[0], rows[test] @ weights)


def test_what_was_planted_is_found_where_it_is_and_only_in_true_scores() -> None:
    made = takes()
    labels = permuted(made, 20)
    out = cross_fitted(made, labels)
    assert out.picked == (PLANTED,) * FOLDS
    groups = groups_of(made.groups.tolist(), made.scenes)
    found = figure(rank_correlation, out.chosen, labels, groups)
    assert found["n"] == 40 and found["mean"] > 0.6 > 0.3 > found["control"]["p95"]
    assert abs(found["control"]["mean"]) < 0.15 and found["control"]["p"] == pytest.approx(1 / 21)
    assert figure(auc, out.chosen, labels, groups)["mean"] > 0.8
    assert share_of_oracle(out.chosen[:, 0], made.scores, groups)["value"] > 0.6
    elsewhere = figure(rank_correlation, out.single[Candidate(steps=(0,), layers=(0,))], labels, groups)
    assert elsewhere["mean"] < 0.3


def test_of_noise_it_says_that_it_is_no_better_than_its_control() -> None:
    made = takes(signal=0.0, seed=3)
    labels = permuted(made, 20)
    groups = groups_of(made.groups.tolist(), made.scenes)
    found = figure(rank_correlation, cross_fitted(made, labels).chosen, labels, groups)
    assert found["mean"] < found["control"]["p95"] and found["control"]["p"] > 0.05


def test_the_level_of_a_scenario_changes_nothing() -> None:
    made = takes()
    level = 100.0 * made.groups
    moved = replace(
        made,
        scores=made.scores + level,
        features={
            site: (f + 2.0 * made.groups[:, None]).astype(np.float32) for site, f in made.features.items()
        },
    )
    one, other = (cross_fitted(each, permuted(each, 0)).chosen for each in (made, moved))
    assert np.allclose(one, other, atol=1e-3)


def test_the_fit_to_all_has_the_planted_direction() -> None:
    best, weights, strength = fitted(takes())
    assert best == PLANTED and set(weights) == {(1, 0)} and strength < 1
    assert int(np.abs(weights[1, 0]).argmax()) == 0 and weights[1, 0][0] > 0
    assert np.abs(weights[1, 0][1:]).max() < 0.3 * weights[1, 0][0]


def test_features_that_do_not_vary_are_no_evidence() -> None:
    made = takes()
    features = {site: values.copy() for site, values in made.features.items()}
    features[1, 0][:, 5] = 7.0
    _, weights, _ = fitted(replace(made, features=features))
    assert weights[1, 0][5] == pytest.approx(0.0, abs=1e-9)


def test_figures_by_hand() -> None:
    scores = np.array([1.0, 2.0, 3.0, 4.0])
    assert auc(scores, scores) == 1.0 and auc(-scores, scores) == 0.0 and auc(0 * scores, scores) == 0.5
    assert auc(scores, np.ones(4)) is None
    assert rank_correlation(scores[:2], scores[:2]) is None and rank_correlation(scores, -scores) == -1.0
    groups = groups_of(["a", "a", "b", "b", "c"], ["s", "s", "t", "t", "u"])
    assert [(group.scene, group.rows.tolist()) for group in groups] == [("s", [0, 1]), ("t", [2, 3])]
    share = share_of_oracle(np.array([1.0, 0, 0, 1, 9]), np.array([5.0, 1, 7, 3, 0]), groups)
    assert share["value"] == pytest.approx(0.0)  # 2 points above the mean of one, 2 below that of the other


def test_permuted_scores_stay_in_their_scenario() -> None:
    made = takes(num_scenes=6)
    labels = permuted(made, 5)
    for group in range(6):
        rows = np.sort(labels[made.groups == group], axis=0)
        assert np.allclose(rows, rows[:, :1])
    assert not np.allclose(labels[:, 1], labels[:, 0])
