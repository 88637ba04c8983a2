"""What a worker is given of a scenario that was begun: the files that it is to look at, no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_run import SCENARIOS

from engine.cluster.driver import _assignment
from engine.runs.folder import place_of_scout
from engine.runs.store import RunStore
from engine.types import Prompt, Scout, ScoutForm


@pytest.mark.parametrize(("restarts", "given"), [(False, [2]), (True, [1, 2])])
def test_previews_of_the_last_round_are_given_where_they_say_where_takes_begin_anew(
    tmp_path: Path, restarts: bool, given: list[int]
) -> None:
    """The first two were compared, and of an earlier round no take is left to make."""
    one, prompt = SCENARIOS[0], Prompt(text="a ball", negative="", seed=1, revision=0)
    with RunStore.create(tmp_path / "run", SCENARIOS) as store:
        for number, (round_number, place) in enumerate([(0, 0), (1, 0), (1, None)]):
            path = place_of_scout(store.folder, one.id, number)
            (store.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (store.folder / path).write_bytes(bytes([number]))
            look = Scout(
                number=number,
                round=round_number,
                stage=0,
                candidate=number,
                prompt=prompt,
                form=ScoutForm(steps=2, whole=True),
                video_path=path,
                place=place,
            )
            store.scout(one.id, look)
        found = _assignment(one, store, restarts=restarts).previews
    assert {number: clip for number, (clip, _) in found.items()} == {n: bytes([n]) for n in given}
