"""Choosing again among stored takes: ranks over selectors, chosen sets of attempts, clips to be scored."""

from __future__ import annotations

import shutil
import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from critiques import bare_critique
from odd_clips import NUM_FRAMES, with_made_up_frame, write_clip

from engine.errors import ConfigError, StoreError, VideoError
from engine.loop.selection import StoredTakes, TakeScorer, load_selectors, reselect
from engine.runs.store import RunStore
from engine.types import Attempt, Clip, Outcome, Prompt, Scenario
from engine.video.files import read_frames, write_mp4

SHADES = (40, 120, 122, 200)


def scenario(number: int) -> Scenario:
    clip = Clip(path=Path("prefix.mp4"), fps=8.0, num_frames=24, width=16, height=16)
    return Scenario(id=f"000{number}_x", text="a", prefix=clip, category="c", output_name=f"{number}.mp4")


def make_run(folder: Path, scores: list[list[float | None]]) -> Path:
    """One scenario a list; take i is a grey clip of SHADES[i]. A failed scenario comes last."""
    scenarios = [scenario(number) for number in range(1, len(scores) + 2)]
    with RunStore.create(folder, scenarios) as store:
        for entry, values in zip(scenarios, scores, strict=False):
            attempts = []
            for index, score in enumerate(values):
                path = store.video_path(entry.id, index)
                write_mp4(folder / path, np.full((4, 16, 16, 3), SHADES[index], np.uint8), 8.0)
                prompt = Prompt(text="a", negative="", seed=index, revision=index)
                attempts.append(
                    Attempt(index=index, prompt=prompt, video_path=path, critique=bare_critique(score))
                )
                store.attempt(entry.id, attempts[-1])
            store.outcome(Outcome(scenario_id=entry.id, attempts=tuple(attempts), chosen=0, stopped="loops"))
        store.outcome(Outcome(scenario_id=scenarios[-1].id, attempts=(), failure="no clip"))
    return folder


def chosen(folder: Path, *by: str, attempts: tuple[int, ...] = ()) -> list[int]:
    return [entry.chosen for entry in reselect(folder, by=by, attempts=attempts)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", [[10.0, 30.0, 20.0, None], [None, None, None], [50.0]])


def test_the_best_score_among_all_takes(run: Path) -> None:
    assert chosen(run, "critic_score") == [1, 0, 0]  # where nothing is scored, the first take


def test_a_chosen_set_of_takes(run: Path) -> None:
    assert chosen(run, "critic_score", attempts=(0, 2)) == [2, 0, 0]
    assert chosen(run, "critic_score", attempts=(2, 3)) == [
        2,
        2,
        0,
    ]  # the last one stopped before: all it has


def test_another_selector_and_both(run: Path) -> None:
    assert chosen(run, "consensus")[0] in (1, 2)  # the two that look alike
    both = reselect(run, by=("consensus", "critic_score"))[0]
    assert set(both.scores[0]) == {"consensus", "critic_score"}
    assert set(both.scores[3]) == {"consensus"}  # a take without a readable critique has no critic's score
    assert both.chosen == 1
    assert both.before == 0


def test_clips_are_copied_under_their_benchmark_names(run: Path, tmp_path: Path) -> None:
    reselect(run, by=("critic_score",), out=tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1.mp4", "2.mp4", "3.mp4"]
    assert abs(float(read_frames(tmp_path / "out" / "1.mp4").mean()) - SHADES[1]) < 4


def test_the_run_is_left_as_it_was(run: Path) -> None:
    with RunStore.open(run, read_only=True) as store:
        before = store.outcomes()
    reselect(run, by=("consensus",))
    with RunStore.open(run, read_only=True) as store:
        assert store.outcomes() == before


def test_takes_of_a_finished_scenario_leave_memory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    told: list[tuple[int, int]] = []
    whole = TakeScorer.scores

    def scores(self: TakeScorer, one: Scenario, attempts: Sequence[Attempt]) -> list[dict[str, float]]:
        assert self._cache == {}
        found = whole(self, one, attempts)
        held.append(len(self._cache))
        return found

    monkeypatch.setattr(TakeScorer, "scores", scores)
    reselect(run, by=("consensus",), progress=lambda done, total: told.append((done, total)))
    assert held == [4, 3, 0]  # consensus looks at no single take
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_wrong_names_and_takes(run: Path) -> None:
    with pytest.raises(ConfigError, match="nearest: consensus"):
        reselect(run, by=("consensu",))
    with pytest.raises(ConfigError, match="no selector"):
        reselect(run, by=())
    with pytest.raises(ConfigError, match="take 4"):
        reselect(run, by=("critic_score",), attempts=(4,))


def test_missing_scores_are_left_out(run: Path) -> None:
    with RunStore.open(run, read_only=True) as store:
        first = store.scenarios()[0]
        attempts = store.attempts(first.id)
    scores = TakeScorer(run, load_selectors(["critic_score"])).scores(first, attempts)
    assert scores == [{"critic_score": 10.0}, {"critic_score": 30.0}, {"critic_score": 20.0}, {}]


@pytest.mark.parametrize("by", ["critic_score", "consensus"])
def test_a_take_that_is_not_the_one_that_was_stored_is_never_chosen(
    run: Path, tmp_path: Path, by: str
) -> None:
    take = run / "videos" / "0001_x" / "attempt-1.mp4"
    write_mp4(take, np.full((4, 16, 16, 3), 90, np.uint8), 8.0)
    with pytest.raises(StoreError, match=r"attempt-1\.mp4 is recorded, .* not as it was stored\n") as error:
        reselect(run, by=(by,), out=tmp_path / "out")
    assert "--remake-takes" in error.value.fix and not (tmp_path / "out").exists()
    take.unlink()
    with pytest.raises(StoreError, match="is missing or"):
        reselect(run, by=(by,))


def test_selectors_see_no_frame_that_the_decoder_made_up(tmp_path: Path) -> None:
    write_clip(tmp_path / "take.mp4")
    takes = StoredTakes(tmp_path, [Path("take.mp4")], OrderedDict())
    assert len(takes[0].frames) == NUM_FRAMES
    with_made_up_frame(tmp_path / "take.mp4")
    with pytest.raises(VideoError, match="damaged in frame"):
        StoredTakes(tmp_path, [Path("take.mp4")], OrderedDict())[0]


def test_a_damaged_take_of_an_older_run_is_never_chosen(run: Path, tmp_path: Path) -> None:
    take = run / "videos" / "0001_x" / "attempt-1.mp4"
    shutil.copyfile(with_made_up_frame(write_clip(tmp_path / "take.mp4")), take)
    with sqlite3.connect(run / "run.sqlite") as database:
        database.execute("UPDATE attempts SET video_sha256 = NULL")
    with pytest.raises(StoreError, match=r"attempt-1\.mp4 is recorded"):
        reselect(run, by=("critic_score",))
