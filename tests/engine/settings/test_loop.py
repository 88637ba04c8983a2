"""Settings of the loops: what contradicts itself is refused, with the way out."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import ConfigError
from engine.settings.loop import LoopConfig


@pytest.mark.parametrize(
    ("settings", "said", "fix"),
    [
        (
            {"scout_choosers": ("consensus", "critic_score")},
            "critic judges finished takes alone",
            "consensus",
        ),
        ({"scout_choosers": ()}, "is empty", "consensus"),
        ({"scouts": 4, "scout_halvings": 2}, "of 4 scouts halved 2 times 1 are left", "loop.scouts"),
        ({"scouts": 8, "finalists": 4}, "no choice of 4", "loop.finalists"),
        ({"finish_restarts": 1, "scout_kept": 0.5}, "no first steps to take again", "one of them"),
    ],
)
def test_scouts_that_are_no_choice_are_refused(settings: dict[str, Any], said: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        LoopConfig(method="scout", **settings)
    assert fix in refused.value.fix
    LoopConfig(method="paper", **settings)  # which has no scouts


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "scout", "samples": 2}, "loop.samples is of the paper loop, and loop.method is scout"),
        ({"method": "scout", "only_incomplete": True}, "loop.only_incomplete is of the paper loop"),
        ({"scouts": 16}, "loop.scouts is of the scout loop, and loop.method is paper"),
        ({"finalists": 2}, "loop.finalists is of the scout loop"),
        ({"scout_batch": 2}, "loop.scout_batch is of the scout loop"),
        ({"restart_share": 1.0}, "loop.restart_share is of the scout loop"),
    ],
)
def test_what_is_of_the_other_loop_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LoopConfig(**settings).refuse_unused()


@pytest.mark.parametrize("method", ["paper", "scout"])
def test_steps_are_taken_again_in_both_loops(method: str) -> None:
    LoopConfig(method=method, finish_restarts=2, restart_steps=3).refuse_unused()


def test_steps_that_are_not_taken_again_are_refused() -> None:
    with pytest.raises(ConfigError, match="restart_steps is 3, and no steps are taken again"):
        LoopConfig(restart_steps=3).refuse_unused()
    LoopConfig(method="scout", restart_steps=3).refuse_unused()  # as runs of earlier versions may have it


def test_how_many_takes_and_who_compares_them() -> None:
    paper, scout = LoopConfig(samples=3), LoopConfig(method="scout")
    assert (paper.takes_a_round, paper.compared_by, paper.all_selectors) == (
        3,
        ("critic_score",),
        ("critic_score",),
    )
    assert (scout.takes_a_round, scout.compared_by) == (1, ("critic_score",))
    assert scout.all_selectors == ("critic_score", "consensus")
    two = LoopConfig(method="scout", finalists=2, selectors=("consensus", "geometry"))
    assert two.compared_by == ("consensus", "geometry") == two.all_selectors
