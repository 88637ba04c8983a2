"""Cards that one may plan for: found by name, with the memory that a run may take."""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from engine.machine.cards import CARDS, find
from engine.machine.memory import CONTEXT_BYTES, GIB


@pytest.mark.parametrize("name", ["RTX 4090", "rtx 4090", "NVIDIA GeForce RTX 4090"])
def test_a_card_is_found_by_its_name(name: str) -> None:
    card = find(name)
    assert (card.gib, card.capability) == (24, (8, 9))


def test_an_unknown_card_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="nearest: rtx 4090"):
        find("RTX 4900")


def test_a_run_may_take_less_than_a_card_has_but_not_more() -> None:
    card = CARDS["RTX 3090"]
    assert card.budget() == 24 * GIB - CONTEXT_BYTES
    assert card.budget("16GiB") == 16 * GIB - CONTEXT_BYTES
    with pytest.raises(ConfigError, match="has 24 GiB, not 48GiB"):
        card.budget("48GiB")
