"""What is found in a folder before scoring: usable clips, reasons for the others, the refusal as a list."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from scored_clips import make_dataset, record_takes, square_takes, submit

from bench.scoring.case_scoring import CHOSEN
from bench.scoring.submission import MAX_LISTED, Submission, read_submission
from engine.datasets.physics_iq import Description, open_dataset, read_descriptions
from engine.errors import ScorerError
from engine.runs.store import RunStore
from engine.types import Outcome
from engine.video.files import write_mp4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("scenes"))


def read(folder: Path, dataset: Path) -> Submission:
    return read_submission(folder, read_descriptions(dataset))


def reasons(submission: Submission) -> dict[str, str]:
    return {entry.scenario_id: entry.reason for entry in (*submission.unscored, *submission.strange)}


def test_complete_folder_has_no_refusal(dataset: Path, tmp_path: Path) -> None:
    paths = submit(dataset, tmp_path / "clips")
    found = read(tmp_path / "clips", dataset)
    assert found.refusal is None and not reasons(found) and not found.notes and found.fps == 8.0
    assert found.clips == {key: ((CHOSEN, path),) for key, path in paths.items()}


def test_every_bad_file_is_named_with_its_reason(dataset: Path, tmp_path: Path) -> None:
    paths = submit(dataset, tmp_path / "clips")
    paths["0001_perspective-left"].unlink()
    damaged = paths["0002_perspective-right"]
    damaged.write_bytes(damaged.read_bytes()[:900])
    write_mp4(paths["0003_perspective-left"], square_takes(1, "left")[:39], 8.0)
    write_mp4(tmp_path / "clips" / "holiday.mp4", square_takes(1, "left"), 8.0)
    (tmp_path / "clips" / "README.txt").write_text("text")
    (tmp_path / "clips" / ".DS_Store").write_bytes(b"")
    (tmp_path / "clips" / "old").mkdir()
    found = read(tmp_path / "clips", dataset)
    why = reasons(found)
    assert "no file 0001_perspective-left_trimmed" in why["0001_perspective-left"]
    assert "truncated" in why["0002_perspective-right"]
    assert "39 frames (4.875 s at 8 fps); 40" in why["0003_perspective-left"]
    assert why["holiday"] == "holiday.mp4 is not a generated_video_name of the dataset"
    assert why["README"] == "README.txt is not an mp4 file and was not read" and "old" in why
    assert len(why) == 6
    assert found.refusal is not None
    lines = found.refusal.splitlines()
    assert lines[0] == f"{tmp_path / 'clips'} is incomplete: 3 of 4 cases cannot be scored"
    assert lines[4] == "3 other files lie there, perhaps under a wrong name"
    assert len(lines) == 1 + 3 + 1 + 3


def test_extra_files_alone_are_no_reason_to_refuse(dataset: Path, tmp_path: Path) -> None:
    submit(dataset, tmp_path / "clips")
    (tmp_path / "clips" / "notes.txt").write_text("text")
    found = read(tmp_path / "clips", dataset)
    assert found.refusal is None and [entry.scenario_id for entry in found.strange] == ["notes"]


def test_one_frame_rate_counts(dataset: Path, tmp_path: Path) -> None:
    paths = submit(dataset, tmp_path / "clips")
    write_mp4(paths["0004_perspective-right"], np.zeros((80, 16, 16, 3), np.uint8), 16.0)
    found = read(tmp_path / "clips", dataset)
    assert found.fps == 8.0 and "16 frames per second; 8 is needed" in str(reasons(found))
    assert found.clips["0004_perspective-right"] == ()


def test_longer_clip_is_used_and_noted(dataset: Path, tmp_path: Path) -> None:
    paths = submit(dataset, tmp_path / "clips")
    path = paths["0001_perspective-left"]
    write_mp4(path, np.concatenate([square_takes(1, "left")] * 2), 8.0)
    found = read(tmp_path / "clips", dataset)
    assert found.refusal is None
    assert found.notes == (f"{path.name} is 10.000 s long; the first 5 s were scored",)


def test_long_lists_are_cut_with_the_count(dataset: Path, tmp_path: Path) -> None:
    paths = submit(dataset, tmp_path / "clips")
    rows = [
        Description(
            number=number,
            view="v",
            take="take-1",
            scene="s",
            text="t",
            category="c",
            output_name=f"{number}.mp4",
        )
        for number in range(100, 130)
    ]
    found = read_submission(tmp_path / "clips", [*read_descriptions(dataset), *rows])
    assert len(found.unscored) == 30 and len(found.rows) == len(paths) + 30
    assert found.refusal is not None and found.refusal.endswith(f"  and {30 - MAX_LISTED} more")


def test_what_is_no_folder_of_clips_is_an_error(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="is not a folder"):
        read(tmp_path / "absent", dataset)
    (tmp_path / "0001_perspective-left_trimmed-sliding-square-0.mp4").write_text("no video")
    with pytest.raises(ScorerError, match=r"no readable clip of the dataset \(1 candidate file\)"):
        read(tmp_path, dataset)


def test_a_run_is_complete_with_its_own_scenarios(dataset: Path, tmp_path: Path) -> None:
    run, paths = tmp_path / "run", submit(dataset, tmp_path / "clips")
    scenarios = open_dataset(dataset).scenarios(8.0)[:3]
    with RunStore.create(run, scenarios) as store:
        for scenario in scenarios[:2]:
            record_takes(store, scenario, paths[scenario.id])
        unfinished = read(run, dataset)
        store.outcome(Outcome(scenario_id=scenarios[2].id, attempts=(), failure="out of memory"))
        failed = read(run, dataset)
        store.forget_failures()
        record_takes(store, scenarios[2], paths[scenarios[2].id])
    complete = read(run, dataset)
    assert complete.refusal is None and len(complete.rows) == 3 and not complete.strange
    assert "the run has not finished it" in str(unfinished.refusal)
    assert "1 of 3 cases cannot be scored" in str(failed.refusal) and "out of memory" in str(failed.refusal)
    store_file = run / "chosen" / paths[scenarios[0].id].name
    store_file.unlink()
    assert "its file is gone" in str(read(run, dataset).refusal)


def test_attempts_of_a_run_are_found_in_their_order(dataset: Path, tmp_path: Path) -> None:
    run, paths = tmp_path / "run", submit(dataset, tmp_path / "clips")
    scenarios = open_dataset(dataset).scenarios(8.0)[:1]
    short = tmp_path / "short.mp4"
    write_mp4(short, square_takes(1, "left")[:20], 8.0)
    good = paths[scenarios[0].id]
    with RunStore.create(run, scenarios) as store:
        record_takes(store, scenarios[0], *[short if number == 3 else good for number in range(11)])
    takes = run / "videos" / scenarios[0].id
    shutil.copyfile(good, takes / "attempt-11.mp4")  # a killed run wrote it and did not record it
    shutil.copyfile(good, takes / "attempt-0 (copy).mp4")
    (takes / "attempt-4.mp4").unlink()
    found = read_submission(run, read_descriptions(dataset), all_attempts=True)
    assert [label for label, _ in found.clips[scenarios[0].id]] == [CHOSEN, 0, 1, 2, *range(5, 11)]
    reasons = {entry.attempt: entry.reason for entry in found.unscored}
    assert reasons.keys() == {3, 4} and "20 frames" in reasons[3] and "does not exist" in reasons[4]
    assert found.refusal is None  # a bad attempt does not make the submission incomplete


def test_a_mirrored_clip_is_refused_as_opencv_does_not_see_that(dataset: Path, tmp_path: Path) -> None:
    paths = submit(dataset, tmp_path / "clips")
    clip = paths["0002_perspective-right"]
    data = bytearray(clip.read_bytes())
    struct.pack_into(">i", data, data.index(b"tkhd") + 44, -(1 << 16))  # first entry of the display matrix
    clip.write_bytes(data)
    assert (
        "mirrored by its display matrix"
        in reasons(read(tmp_path / "clips", dataset))["0002_perspective-right"]
    )
