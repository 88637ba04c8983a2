"""Scoring many cases: results are kept by content, found after an interrupt, and never outlive a change."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from odd_clips import with_made_up_frame
from scored_clips import FPS, make_dataset, square_takes, submit

from bench.scoring import case_scoring
from bench.scoring.case_scoring import CHOSEN, Scorer, Unscored, Work, score_works
from bench.scoring.frame_errors import FrameErrors
from bench.scoring.reference_cache import RealTakes
from bench.scoring.references import references
from bench.scoring.view_metrics import CaseMetrics
from engine.datasets.physics_iq import read_descriptions
from engine.errors import ScorerError
from engine.video.files import read_frames, write_mp4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("scenes"))


def works_of(dataset: Path, clips: dict[str, Path]) -> list[Work]:
    real = references(dataset, read_descriptions(dataset), FPS)
    return [Work(reference=real[key], clips=((CHOSEN, path),), fps=FPS) for key, path in clips.items()]


def count_measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the clips that are really compared from here on."""
    seen: list[str] = []
    measure = case_scoring.measure_clip

    def counted(takes: RealTakes, clip: Path, threads: int, errors: FrameErrors) -> CaseMetrics:
        seen.append(clip.name[:4])
        return measure(takes, clip, threads, errors)

    monkeypatch.setattr(case_scoring, "measure_clip", counted)
    return seen


def test_interrupted_scoring_goes_on_where_it_stopped(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = works_of(dataset, submit(dataset, tmp_path / "clips", take=2))
    expected = score_works(Scorer(cache=None), works, jobs=1)
    scorer = Scorer(cache=tmp_path / "cache")

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_works(scorer, works, jobs=1, progress=stop)
    seen = count_measured(monkeypatch)
    assert score_works(scorer, works, jobs=1) == expected
    assert seen == ["0003", "0004"]
    assert score_works(scorer, works, jobs=1) == expected
    assert len(seen) == 2


def test_changed_clip_is_scored_again_though_its_stamps_are_old(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = submit(dataset, tmp_path / "clips")
    scorer, works = Scorer(cache=tmp_path / "cache"), works_of(dataset, clips)
    before = score_works(scorer, works, jobs=1)
    path = clips["0002_perspective-right"]
    stamp = path.stat()
    write_mp4(path, np.repeat(square_takes(1, "right")[:1], 40, axis=0), FPS)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    seen = count_measured(monkeypatch)
    after = score_works(scorer, works, jobs=1)
    assert seen == ["0002"] and after[1] != before[1]
    assert [after[0], *after[2:]] == [before[0], *before[2:]]


def test_changed_reference_is_scored_again(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    shutil.copytree(dataset, root)
    scorer, works = Scorer(cache=tmp_path / "cache"), works_of(root, submit(dataset, tmp_path / "clips"))
    before = score_works(scorer, works, jobs=1)
    masks = works[2].reference.masks
    shutil.copyfile(masks[0], masks[1])
    seen = count_measured(monkeypatch)
    after = score_works(scorer, works, jobs=1)
    assert seen == ["0003"]
    assert after[2].key != before[2].key and after[2].results != before[2].results


def test_a_renamed_clip_is_known_by_its_content(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(cache=tmp_path / "cache")
    before = score_works(scorer, works_of(dataset, submit(dataset, tmp_path / "first")), jobs=1)
    seen = count_measured(monkeypatch)
    again = score_works(scorer, works_of(dataset, submit(dataset, tmp_path / "second")), jobs=1)
    assert again == before and seen == []


@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b'{"take1": 1}', b"null"])
def test_damaged_result_is_measured_again(dataset: Path, tmp_path: Path, damage: bytes) -> None:
    scorer, works = Scorer(cache=tmp_path / "cache"), works_of(dataset, submit(dataset, tmp_path / "clips"))
    before = score_works(scorer, works[:1], jobs=1)
    (result,) = (tmp_path / "cache" / "results").rglob("*.json")
    result.write_bytes(damage)
    assert score_works(scorer, works[:1], jobs=1) == before
    assert result.read_bytes() != damage


def test_a_bad_clip_costs_itself_only(dataset: Path, tmp_path: Path) -> None:
    clips = submit(dataset, tmp_path / "clips")
    work = works_of(dataset, clips)[0]
    short = tmp_path / "short.mp4"
    write_mp4(short, square_takes(1, "left")[:30], FPS)
    absent = tmp_path / "absent.mp4"
    several = ((CHOSEN, clips["0001_perspective-left"]), (0, short), (1, absent))
    for cache in (None, tmp_path / "cache"):
        (finished,) = score_works(
            Scorer(cache=cache), [Work(reference=work.reference, clips=several, fps=FPS)], jobs=1
        )
        (_, good), (_, bad), (_, missing) = finished.results
        assert not isinstance(good, Unscored)
        assert isinstance(bad, Unscored) and "30 frames" in bad.reason and bad.attempt == 0
        assert isinstance(missing, Unscored) and "does not exist" in missing.reason and missing.attempt == 1


def test_a_clip_with_a_frame_that_the_decoder_made_up_is_not_scored(dataset: Path, tmp_path: Path) -> None:
    clips = submit(dataset, tmp_path / "clips")
    works = works_of(dataset, clips)
    with_made_up_frame(clips["0001_perspective-left"])
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        finished = score_works(Scorer(cache=cache), works, jobs=1)
        ((_, entry),) = finished[0].results
        assert isinstance(entry, Unscored) and "damaged in frame" in entry.reason
        assert not any(isinstance(value, Unscored) for work in finished[1:] for _, value in work.results)


@pytest.mark.parametrize("part", ["take", "masks"])
def test_a_reference_with_a_frame_that_the_decoder_made_up_unscores_its_case(
    dataset: Path, tmp_path: Path, part: str
) -> None:
    root = tmp_path / "root"
    shutil.copytree(dataset, root)
    works = works_of(root, submit(dataset, tmp_path / "clips"))
    reference = works[0].reference
    if part == "masks":  # those of datasets on the net are H.264
        write_mp4(reference.masks[1], read_frames(reference.masks[1]), FPS)
    with_made_up_frame((reference.takes if part == "take" else reference.masks)[1])
    ((_, entry),) = score_works(Scorer(cache=None), works[:1], jobs=1)[0].results
    assert isinstance(entry, Unscored) and "take-2" in entry.reason and "damaged in frame" in entry.reason


def test_missing_reference_unscores_its_case(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(dataset, root)
    works = works_of(root, submit(dataset, tmp_path / "clips"))
    works[0].reference.takes[1].unlink()
    finished = score_works(Scorer(cache=tmp_path / "cache"), works, jobs=1)
    ((label, entry),) = finished[0].results
    assert label == CHOSEN and isinstance(entry, Unscored)
    assert "take-2" in entry.reason and "does not exist" in entry.reason
    assert not any(isinstance(value, Unscored) for work in finished[1:] for _, value in work.results)


def test_progress_counts_cases(dataset: Path, tmp_path: Path) -> None:
    works = works_of(dataset, submit(dataset, tmp_path / "clips"))
    told: list[tuple[int, int]] = []
    score_works(Scorer(cache=None), works, jobs=1, progress=lambda *count: told.append(count))
    assert told == [(done, 4) for done in range(5)]


def test_a_users_error_comes_back_from_a_process(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    works = works_of(dataset, submit(dataset, tmp_path / "clips"))
    with pytest.raises(ScorerError, match="cannot write") as caught:
        score_works(Scorer(cache=tmp_path / "file"), works, jobs=2)
    assert "--no-cache" in caught.value.fix
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_processes_ignore_an_interrupt_from_their_first_instruction() -> None:
    """Otherwise Ctrl-C, which reaches all of them, prints a traceback for each that is still importing."""
    context = multiprocessing.get_context("spawn")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with case_scoring._interrupts_ignored(), ProcessPoolExecutor(1, mp_context=context) as pool:
            assert pool.submit(signal.getsignal, signal.SIGINT).result() is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
