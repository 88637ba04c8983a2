"""The report's reader: what a run folder gives, what is optional, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from report_run import SCENES, TRUE, make_run

from engine.errors import RetakeError, ScorerError, StoreError
from engine.report.page import build_scenes, measured
from engine.report.write import gather, read_scores, write_report
from engine.runs.store import RunStore
from engine.runs.takes import takes_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("scored"))


def test_gather_reads_every_part_of_the_run(run: Path) -> None:
    data = gather(run)
    assert [record.scenario.id for record in data.records] == [name for name, _, _ in SCENES]
    assert [len(record.attempts) for record in data.records] == [4, 2, 4, 2, 1, 2]
    assert data.records[5].outcome is None and data.records[0].plan is not None
    assert data.scores is not None and data.scores.attempts[SCENES[1][0], 1] == TRUE[1][1]
    assert measured(data) == "Verified score"
    assert data.totals is not None and data.totals.wall_s > 90
    assert data.timeline is not None and data.timeline.startswith("<svg")
    assert data.manifest["seed"] == 7


def test_a_second_report_replaces_the_first(run: Path) -> None:
    (run / "report.html").write_text("old")
    assert write_report(run) == run / "report.html"
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert list(run.glob("*.partial")) == []


def test_without_scores_the_critic_is_the_measure_and_the_page_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, scored=False)
    data = gather(run)
    assert measured(data) == "critic's score"
    assert (data.scores, data.timeline, data.totals, data.manifest) == (None, None, None, {})
    assert build_scenes(data, max_embedded=40)[0].row.gain == 88 - 38
    page = write_report(run).read_text(encoding="utf-8")
    assert "not scored against reference clips" in page and 'id="lanes"' not in page


def test_scores_of_other_takes_are_left_out_and_the_page_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = run / "scores.json"
    document = json.loads(path.read_text())
    with RunStore.open(run) as store:
        now = takes_of(store)
        path.write_text(json.dumps(document | {"takes": now}))
        assert gather(run).scores is not None
        store.forget_takes({SCENES[0][0]: 1})
    data = gather(run)
    assert data.scores is None and data.has_stale_scores
    assert "other takes than this run has now" in write_report(run).read_text(encoding="utf-8")


def test_a_take_that_is_not_the_one_that_was_stored_is_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert gather(run).changed_takes == frozenset()
    with RunStore.open(run, read_only=True) as store:
        first, second = store.attempts(SCENES[0][0])[:2]
    shutil.copyfile(run / first.video_path, run / second.video_path)
    (run / first.video_path).unlink()  # the page says of it that it is missing
    data = gather(run)
    assert data.changed_takes == {(SCENES[0][0], second.index)}
    assert write_report(run).read_text(encoding="utf-8").count("not as it was stored") == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"physics_iq": 1}', '{"physics_iq": "high", "cases": []}'])
def test_damaged_scores_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(text)
    with pytest.raises(ScorerError, match=r"scores\.json is not a scores file"):
        read_scores(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("manifest.json", "{"),
        ("manifest.json", "[]"),
        ("manifest.json", '{"a":' * 99_999),
        ("trace.json", "{}"),
        ("scores.json", "[" * 99_999),
    ],
)
def test_damaged_side_files_are_refused(run: Path, tmp_path: Path, name: str, text: str) -> None:
    shutil.copy(run / "run.sqlite", tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(RetakeError, match=re.escape(name)):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no run\.sqlite"):
        write_report(tmp_path)


def test_scores_of_unknown_optional_parts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text(
        json.dumps({"physics_iq": 12, "cases": [{"scenario_id": "a", "category": "b", "score": 3}]})
    )
    scores = read_scores(path)
    assert scores is not None and scores.cases == {"a": 3.0} and scores.physics_iq_verified is None
