"""Ranks over several selectors: ties, missing scores, order."""

from __future__ import annotations

import itertools

from engine.loop.ranking import mean_ranks


def test_one_chooser_ranks_by_its_score() -> None:
    assert mean_ranks([{"a": 1.0}, {"a": 3.0}, {"a": 2.0}]) == [2.0, 0.0, 1.0]


def test_equal_scores_share_a_rank() -> None:
    assert mean_ranks([{"a": 1.0}, {"a": 1.0}, {"a": 0.0}]) == [0.0, 0.0, 2.0]


def test_scales_do_not_matter() -> None:
    small = [{"a": 0.1, "b": 5.0}, {"a": 0.2, "b": 1.0}, {"a": 0.3, "b": 4.0}]
    large = [{"a": 1e9 * entry["a"], "b": entry["b"]} for entry in small]
    assert mean_ranks(small) == mean_ranks(large) == [1.0, 1.5, 0.5]


def test_an_item_that_one_chooser_left_out_has_no_rank_but_the_others_do() -> None:
    assert mean_ranks([{"a": 1.0, "b": 1.0}, {"a": 2.0}, {"a": 0.0, "b": 2.0}]) == [1.0, None, 1.0]


def test_nothing_is_scored() -> None:
    assert mean_ranks([{}, {}]) == [None, None]
    assert mean_ranks([]) == []


def test_the_order_of_the_items_does_not_matter() -> None:
    items = [{"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 2.0}, {"a": 0.0, "b": 3.0}, {"b": 1.0}]
    expected = mean_ranks(items)
    for order in itertools.permutations(range(4)):
        found = mean_ranks([items[i] for i in order])
        assert found == [expected[i] for i in order]
