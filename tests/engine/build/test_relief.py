"""What is given up where the device had no memory: in order, recorded, and no more than there is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from engine.build.relief import EMPTIED, Relief


def test_first_the_caches_then_what_the_generator_can_do_without() -> None:
    released: list[int] = []
    steps = iter(["smaller passes", None, None])
    generator: Any = SimpleNamespace(relieve=lambda: next(steps))
    relief = Relief(generator, lambda: released.append(len(released)))
    for _ in range(3):
        relief()
    assert relief.record == [EMPTIED, "smaller passes", EMPTIED]
    assert released == [0, 1, 2], "each time what the allocator keeps is given back"
