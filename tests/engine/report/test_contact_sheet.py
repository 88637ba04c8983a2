"""The contact sheet of scouts: every look in its stage, what each chooser said, who went on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_run import make_run

from engine.loop.policy import RefinementPolicy
from engine.loop.scout_policy import ScoutPolicy
from engine.report.contact_sheet import contact_sheet
from engine.report.run_data import Media, Record
from engine.report.write import StoredRecords, write_report
from engine.runs.folder import place_of_scout
from engine.runs.store import RunStore
from engine.settings.config import LoopConfig
from engine.types import Scout
from engine.video.files import write_mp4

NO_MEDIA = Media(src=None, embedded=False)
POLICY = ScoutPolicy(
    refinement=RefinementPolicy(settings=LoopConfig(method="scout", scouts=4, scout_steps=1), negative="")
)


def add_scouts(store: RunStore, scenario_id: str) -> None:
    """Four looks at candidates, two of them again; the best one has the prompt of take 0."""
    first = store.attempts(scenario_id)[0].prompt
    number = 0
    for stage, places in enumerate([[0, 1, 2, 3], [0, 1]]):
        looks = []
        for candidate in places:
            path = place_of_scout(store.folder, scenario_id, number)
            write_mp4(store.folder / path, np.full((8, 32, 32, 3), 60 * candidate, np.uint8), 8.0)
            look = Scout(
                number=number,
                round=0,
                stage=stage,
                candidate=candidate,
                prompt=replace(first, seed=first.seed + candidate),
                form=POLICY.forms[stage],
                video_path=path,
                timings={"scout": 0.5},
            )
            store.scout(scenario_id, look)
            looks.append(look)
            number += 1
        said = [{"consensus": 4.0 - s.candidate, "geometry": float(s.candidate == 2)} for s in looks]
        store.ranked(scenario_id, POLICY.ranked(looks, said))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("run"), scored=False)
    with RunStore.open(folder) as store:
        add_scouts(store, store.scenarios()[0].id)
    return folder


@pytest.fixture(scope="module")
def record(run: Path) -> Record:
    with RunStore.open(run, read_only=True) as store:
        return StoredRecords(store)[0]


def test_every_look_stands_in_its_stage_the_best_first(record: Record) -> None:
    sheet = contact_sheet(record, lambda scout: NO_MEDIA)
    assert sheet.num_looks == 6 and [stage.steps for stage in sheet.stages] == [1, 2]
    first, second = sheet.stages
    assert (first.num_kept, first.is_last, second.num_kept, second.is_last) == (2, False, 1, True)
    assert [look.scout.candidate for look in first.looks] == [0, 1, 2, 3], "of equal means the earlier"
    by = first.looks[2].by
    assert (by["consensus"].place, by["geometry"].place, by["geometry"].score) == (3, 1, 1.0)
    assert [look.scout.candidate for look in second.looks] == [0, 1]
    assert (second.looks[0].take, second.looks[1].take) == (0, None)
    assert sheet.why == {
        0: "scout 0: place 1 of 4 after 1 step by consensus 4, geometry 0; "
        "place 1 of 2 after 2 steps by consensus 4, geometry 0"
    }


def test_what_was_taken_again_is_told(record: Record) -> None:
    loop = {"finish_restarts": 2, "restart_steps": 4, "restart_share": 0.25}
    (said,) = contact_sheet(record, lambda scout: NO_MEDIA, loop).why.values()
    assert said.endswith(
        "geometry 0; steps 2 to 4 taken 2 times more from fresh noise in 25 % of it, where the last scouts "
        "disagree most"
    )


def test_looks_that_were_not_compared_are_told_so(record: Record) -> None:
    waiting = tuple(replace(s, place=None, kept=False, scores={}) for s in record.scouts[:2])
    sheet = contact_sheet(replace(record, scouts=waiting, attempts=()), lambda scout: NO_MEDIA)
    assert [look.scout.candidate for look in sheet.stages[0].looks] == [0, 1]
    assert sheet.stages[0].choosers == () and sheet.why == {}
    assert contact_sheet(replace(record, scouts=()), lambda scout: NO_MEDIA).stages == ()


def test_the_page_shows_them_and_a_changed_preview_is_none(run: Path, record: Record) -> None:
    (run / record.scouts[1].video_path).write_bytes(b"another")
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count('data-role="scout"') == 5 and "not as it was stored" in page
    assert "Take 0 is scout 0" in page and "6 scouts" in page
