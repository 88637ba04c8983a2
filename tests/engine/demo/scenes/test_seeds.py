"""The sets of scenes: disjoint, balanced, and the worlds that their digests say."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from engine.demo.scenes import WIDE, all_kinds, make_scene
from engine.demo.scenes.base import HELD_OUT_SEED0
from engine.demo.scenes.seeds import (
    BROKEN_SHARES,
    CHECK,
    DIGESTS,
    FACTS,
    HELD_OUT,
    SETS,
    TRAINING_PARTS,
    TUNING,
    SeedSet,
    digest,
    facts_digest,
)


def test_no_two_sets_share_a_seed() -> None:
    for (one, first), (two, second) in combinations(SETS.items(), 2):
        assert not set(first.seeds) & set(second.seeds), (one, two)


def test_training_stays_below_the_held_out_seeds_and_the_others_above() -> None:
    assert max(part.seeds[-1] for part in TRAINING_PARTS.values()) < HELD_OUT_SEED0
    assert min(part.first for part in (CHECK, TUNING, HELD_OUT)) >= HELD_OUT_SEED0


def test_sets_are_balanced_over_kinds_and_categories() -> None:
    kinds = all_kinds(WIDE)
    for part in SETS.values():
        assert part.first % len(kinds) == 0 and part.count % len(kinds) == 0
    categories = Counter(scene.category for scene in HELD_OUT.scenes())
    assert len(categories) == 5 and set(categories.values()) == {48}


@pytest.mark.parametrize("name", DIGESTS)
def test_the_seeds_draw_the_worlds_that_were_committed(name: str) -> None:
    """Fails when a kind draws other scenes: then sets, digests and all that was measured on them are old."""
    part = SETS[name]
    head = SeedSet(first=part.first, count=min(part.count, 240))
    assert digest(head.scenes()) == DIGESTS[name]


@pytest.mark.parametrize("name", FACTS)
def test_what_comes_of_them_is_what_was_committed(name: str) -> None:
    """Fails when simulation, description or labels of a kind change, though the seeds draw the same."""
    assert facts_digest(SETS[name].scenes()[:30]) == FACTS[name]


def test_a_digest_tells_worlds_apart() -> None:
    kinds = all_kinds(WIDE)
    scenes = [make_scene(seed, kinds) for seed in range(20)]
    assert digest(scenes) == digest(list(scenes)) != digest(scenes[:-1])
    assert digest(scenes) != digest([make_scene(seed + len(kinds), kinds) for seed in range(20)])
    assert facts_digest(scenes) != facts_digest(scenes[:-1])


def test_three_shares_and_none_among_them() -> None:
    assert len(BROKEN_SHARES) == 3 and BROKEN_SHARES[0] == 0.0 and max(BROKEN_SHARES) < 0.5
