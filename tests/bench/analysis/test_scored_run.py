"""A scored run is read with the scores of its own takes, or refused with the command that makes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scored_runs import Made, make_run

from bench.analysis.scored_run import read_run
from engine.errors import ScorerError, StoreError
from engine.runs.store import RunStore
from engine.runs.takes import takes_of

TWO_TAKES = [[Made(round=0, verified=10.0), Made(round=1, verified=20.0)]]


def test_scores_of_other_takes_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", TWO_TAKES)
    path = run / "scores.json"
    with RunStore.open(run, read_only=True) as store:
        now = takes_of(store)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"takes": now}))
    assert len(read_run(run).records) == 2
    (scenario_id,) = now
    other = {scenario_id: now[scenario_id] | {"sha256": ["0" * 64, now[scenario_id]["sha256"][1]]}}
    path.write_text(json.dumps(document | {"takes": {scenario_id: now[scenario_id] | {"chosen": 0}}}))
    assert len(read_run(run).records) == 2  # each take has its score, whichever is chosen
    for takes in (other, {}, "all"):
        path.write_text(json.dumps(document | {"takes": takes}))
        with pytest.raises(ScorerError, match="is of other takes than the run has now") as caught:
            read_run(run)
        assert "retake score" in caught.value.fix


@pytest.mark.parametrize("text", ["", "[]", "[" * 99_999, '{"attempts": 3, "unscored": [], "fps": 8}'])
def test_alien_scores_are_refused(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path / "run", TWO_TAKES)
    (run / "scores.json").write_text(text)
    with pytest.raises(ScorerError, match=r"scores\.json"):
        read_run(run)


def test_an_alien_manifest_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", TWO_TAKES)
    (run / "manifest.json").write_text('{"models": {"generator": "demo"}}')
    with pytest.raises(StoreError, match="the generator has no digests"):
        read_run(run)
