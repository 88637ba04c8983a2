"""The scorer: metrics by hand on rectangles, both scores, and runs and folders of real files."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from odd_clips import with_made_up_frame
from scored_clips import VIEWS, make_dataset, score_frames, square_takes, submit
from sliding import SlidingSquare

from bench.scoring import physics_iq
from bench.scoring.official_csv import csv_text
from bench.scoring.physics_iq import main, score_folder
from bench.scoring.score_document import report
from bench.scoring.view_metrics import (
    Case,
    CaseMetrics,
    PairMetrics,
    ReducedClip,
    case_score,
    compare,
    original_score,
    score_case,
    verified_score,
)
from engine.errors import ScorerError
from engine.video.files import write_mp4
from engine.video.motion_masks import write_masks


def clip(level: int, masks: np.ndarray) -> ReducedClip:
    return ReducedClip(frames=np.full((*masks.shape, 3), level, np.uint8), masks=masks)


def rectangle(num_frames: int, on: range, left: int, width: int = 4) -> np.ndarray:
    masks = np.zeros((num_frames, 8, 12), bool)
    masks[list(on), 2:6, left : left + width] = True
    return masks


def test_pair_metrics_by_hand() -> None:
    """4 x 4 squares two columns apart: 8 pixels shared, 24 covered. Present in 2 and in 4 of 4 frames."""
    a, b = clip(0, rectangle(4, range(2), left=2)), clip(51, rectangle(4, range(4), left=4))
    pair = compare(a, b)
    assert pair.spatiotemporal == pytest.approx((1 / 3, 1 / 3, 0.0, 0.0))
    assert pair.spatial == pytest.approx(1 / 3)
    # shares: 8 px at .5 only in a, 8 px at min .5 / max 1, 8 px at 1 only in b: 4 / (4 + 8 + 8)
    assert pair.weighted_spatial == pytest.approx(0.2)
    assert pair.mse == pytest.approx((0.04,) * 4)  # (51 / 255)^2


def test_empty_masks_agree_fully() -> None:
    still = clip(10, np.zeros((3, 8, 12), bool))
    pair = compare(still, still)
    assert (pair.spatial, pair.weighted_spatial, pair.spatiotemporal) == (1.0, 1.0, (1.0,) * 3)
    assert score_case(still, still, still).score == pytest.approx(100.0, abs=1e-4)


def test_case_score_by_hand() -> None:
    """Variance: spatial 0.5, weighted 0.5, spatiotemporal 0.8, mse 0.002; ratios clipped at 1 each."""
    variance = PairMetrics(mse=(0.002,), spatiotemporal=(0.8, 0.8), spatial=0.5, weighted_spatial=0.5)
    found = PairMetrics(mse=(0.00804, 0.00796), spatiotemporal=(0.6, 0.2), spatial=0.9, weighted_spatial=0.1)
    score = case_score(CaseMetrics(take1=found, take2=found, variance=variance))
    assert score.spatial == 1.0
    assert score.weighted_spatial == pytest.approx(0.2, abs=1e-6)
    assert score.spatiotemporal == pytest.approx(0.5, abs=1e-6)
    assert score.mse == pytest.approx(0.25, abs=1e-4)
    assert score.score == pytest.approx(100 * (1.0 + 0.2 + 0.5 + 0.25) / 4, abs=1e-2)


def test_mse_of_a_still_view_follows_the_official_quirk() -> None:
    """A variance that rounds to 0 gives 0, unless the error rounds to 0 too."""
    variance = PairMetrics(mse=(0.00004,), spatiotemporal=(1.0,), spatial=1.0, weighted_spatial=1.0)

    def mse_score(error: float) -> float:
        found = PairMetrics(mse=(error,), spatiotemporal=(1.0,), spatial=1.0, weighted_spatial=1.0)
        return case_score(CaseMetrics(take1=found, take2=found, variance=variance)).mse

    assert mse_score(0.001) < 1e-4
    assert mse_score(0.00003) == 1.0


def case(scene: str, view: str, found: PairMetrics, variance: PairMetrics) -> Case:
    metrics = CaseMetrics(take1=found, take2=found, variance=variance)
    return Case(scenario_id=f"{scene}_{view}", scene=scene, view=view, category="c", metrics=metrics)


def hand_made_cases() -> list[Case]:
    variance = PairMetrics(mse=(0.01,), spatiotemporal=(0.8,), spatial=0.5, weighted_spatial=0.4)
    first = PairMetrics(mse=(0.03,), spatiotemporal=(0.4, 0.6), spatial=0.2, weighted_spatial=0.1)
    second = PairMetrics(mse=(0.01,), spatiotemporal=(0.3,), spatial=0.4, weighted_spatial=0.3)
    return [
        case("a", "left", first, variance),
        case("a", "right", second, variance),
        case("b", "left", second, variance),
    ]


def test_original_score_by_hand() -> None:
    """ST: a = mean(.4, .6, .3) = 13/30, b = .3. SP: left mean(.2, .4) = .3, right .4. WS: .2 and .3.
    MSE: a = .02, b = .01."""
    spatiotemporal, spatial, weighted = (13 / 30 + 0.3) / 2, 0.35, 0.25
    ratios = (spatiotemporal / 0.8 + spatial / 0.5 + weighted / 0.4) / 3
    assert original_score(hand_made_cases()) == round(100 * (ratios - (0.015 - 0.01)), 2)


def test_scores_do_not_depend_on_order() -> None:
    cases = hand_made_cases()
    assert original_score(cases[::-1]) == original_score(cases)
    assert verified_score(cases[::-1]) == pytest.approx(verified_score(cases))
    assert csv_text(cases[::-1]) == csv_text(cases)


def test_nothing_to_score_or_to_divide_by_has_no_score() -> None:
    assert original_score([]) is None and verified_score([]) is None
    apart = PairMetrics(mse=(0.0,), spatiotemporal=(0.0,), spatial=0.0, weighted_spatial=0.0)
    assert original_score([case("a", "left", apart, apart)]) is None


def test_frames_in_memory() -> None:
    takes = [SlidingSquare(0).render(take, "center")[24:] for take in (1, 2)]
    noise = np.random.default_rng(0).integers(0, 256, takes[0].shape, dtype=np.uint8)
    frozen = np.repeat(takes[0][:1], 40, axis=0)
    assert score_frames(takes[0], takes[1], takes[0]).score == pytest.approx(100.0, abs=1e-3)
    assert score_frames(takes[0], takes[1], noise).score < 20.0
    still = score_frames(takes[0], takes[1], frozen)
    assert (still.spatial, still.weighted_spatial) == (0.0, 0.0)
    assert still.score < 20.0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("scenes"))


def test_both_takes_score_about_100(dataset: Path, tmp_path: Path) -> None:
    submit(dataset, tmp_path / "one")
    first = report(score_folder(tmp_path / "one", dataset, jobs=1))
    assert first["physics_iq_verified"] == pytest.approx(100.0, abs=1e-3)
    assert first["physics_iq"] == 100.0
    assert first["num_cases"] == 4 and not first["unscored"]
    submit(dataset, tmp_path / "two", take=2)
    second = report(score_folder(tmp_path / "two", dataset, jobs=1))
    assert second["physics_iq_verified"] == pytest.approx(100.0, abs=0.1)
    assert second["physics_iq"] == pytest.approx(100.0, abs=0.1)


def test_breakdowns_use_the_same_functions(dataset: Path, tmp_path: Path) -> None:
    paths = submit(dataset, tmp_path / "clips")
    write_mp4(paths["0001_perspective-left"], np.repeat(square_takes(1, "left")[:1], 40, axis=0), 8.0)
    document = report(score_folder(tmp_path / "clips", dataset, jobs=1))
    assert document["by_category"]["Optics"] == pytest.approx(100.0, abs=1e-3)
    assert document["by_category"]["Solid Mechanics"] < 70.0
    assert document["by_view"]["perspective-right"] == pytest.approx(100.0, abs=1e-3)
    assert document["groups"]["perspective-left"]["num_cases"] == 2
    assert document["sub_scores"]["spatial"] == pytest.approx(75.0, abs=1e-3)


def test_processes_give_the_same_result(dataset: Path, tmp_path: Path) -> None:
    submit(dataset, tmp_path / "clips", take=2)
    scores = [score_folder(tmp_path / "clips", dataset, jobs=jobs) for jobs in (1, 2)]
    assert scores[0] == scores[1]


def test_another_frame_rate_or_nothing_is_refused(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScorerError, match="no readable clip"):
        score_folder(tmp_path / "empty", dataset)
    paths = submit(dataset, tmp_path / "clips")
    for path in paths.values():
        write_mp4(path, np.zeros((80, 16, 16, 3), np.uint8), 16.0)
    with pytest.raises(ScorerError, match=r"16 frames per second.*found: 8FPS"):
        score_folder(tmp_path / "clips", dataset)


def test_masks_that_do_not_ship_are_computed(dataset: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(dataset, bare)
    shutil.rmtree(bare / "physics-IQ-benchmark" / "video-masks")
    submit(dataset, tmp_path / "clips", take=2)
    with_masks, without = (report(score_folder(tmp_path / "clips", root, jobs=1)) for root in (dataset, bare))
    assert without["physics_iq"] == pytest.approx(with_masks["physics_iq"], abs=1.0)


def test_command_scores_a_run_with_all_attempts(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    paths = submit(dataset, run / "chosen")
    takes = run / "videos" / "0001_perspective-left"
    takes.mkdir(parents=True)
    write_mp4(takes / "attempt-0.mp4", np.repeat(square_takes(1, "left")[:1], 40, axis=0), 8.0)
    shutil.copyfile(paths["0001_perspective-left"], takes / "attempt-1.mp4")
    arguments = [str(run), "--dataset", str(dataset), "--all-attempts", "--jobs", "1", "--no-cache"]
    assert main([*arguments, "--csv", str(tmp_path / "scores.csv")]) == 0
    document = json.loads((run / "scores.json").read_text())
    first, second = document["attempts"]
    assert (first["attempt"], second["attempt"]) == (0, 1)
    assert first["score"] < 40.0 and second["score"] == pytest.approx(100.0, abs=1e-3)
    assert second["scenario_id"] == "0001_perspective-left" and len(document["cases"]) == 4
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and len(rows[0]) == 1 + 12 * len(VIEWS)
    assert len(json.loads(rows[0]["v1_mse_perspective-left"])) == 40


def test_scores_on_stdout_are_the_document_alone(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(dataset, tmp_path / "clips")
    monkeypatch.chdir(tmp_path)
    assert main(["clips", "--dataset", str(dataset), "--jobs", "1", "--no-cache", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["num_cases"] == 4 and "Verified" in err and not (tmp_path / "-").exists()


def test_command_fails_where_nothing_can_be_scored(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--dataset", str(dataset), "--no-cache"]) == 2
    assert "fix:" in capsys.readouterr().err
    assert not (tmp_path / "scores.json").exists()


def test_command_refuses_an_incomplete_folder_unless_told(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")  # lines stay whole
    paths = submit(dataset, tmp_path / "clips")
    paths["0002_perspective-right"].unlink()
    target = tmp_path / "scores.json"
    arguments = [str(tmp_path / "clips"), "--dataset", str(dataset), "--no-cache", "--json", str(target)]
    assert main(arguments) == 2
    assert "1 of 4 cases cannot be scored\n  0002_perspective-right: no file" in capsys.readouterr().err
    assert not target.exists()
    assert main([*arguments, "--allow-incomplete"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Verified sub-scores: spatial") and ", mse " in line for line in told)
    assert any(line.startswith("unscored 0002_perspective-right: no file") for line in told)
    document = json.loads(target.read_text())
    assert document["complete"] is False and document["num_cases"] == 3 and document["num_expected"] == 4
    assert [entry["scenario_id"] for entry in document["unscored"]] == ["0002_perspective-right"]


def test_command_refuses_what_turns_out_bad_only_when_decoded(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    shutil.copytree(dataset, root)
    masks = root / "physics-IQ-benchmark" / "video-masks" / "real" / "8FPS"
    write_masks(next(masks.glob("0003_*")), [np.zeros((32, 32), np.uint8)] * 40, 8.0)
    submit(dataset, tmp_path / "clips")
    target = tmp_path / "scores.json"
    arguments = [str(tmp_path / "clips"), "--dataset", str(root), "--no-cache", "--json", str(target)]
    assert main([*arguments, "--jobs", "1"]) == 1
    assert "masks of 32x32 pixels, the clip they belong to 64x64" in capsys.readouterr().err
    assert not target.exists()
    assert main([*arguments, "--jobs", "2", "--allow-incomplete"]) == 0
    assert json.loads(target.read_text())["num_cases"] == 3


def test_no_mean_holds_a_take_with_a_frame_that_the_decoder_made_up(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, target = tmp_path / "run", tmp_path / "scores.json"
    paths = submit(dataset, run / "chosen")
    arguments = [str(run), "--dataset", str(dataset), "--no-cache", "--jobs", "1", "--json", str(target)]
    assert main(arguments) == 0
    whole = json.loads(target.read_text())
    target.unlink()
    take = run / "videos" / "0002_perspective-right" / "attempt-0.mp4"
    take.parent.mkdir(parents=True)
    for path in (take, paths["0001_perspective-left"]):
        shutil.copyfile(paths["0002_perspective-right"], path)
        with_made_up_frame(path)
    assert main([*arguments, "--all-attempts"]) == 1
    told = capsys.readouterr().err
    assert "1 of 4 cases cannot be scored" in told and "damaged in frame" in told and not target.exists()
    assert main([*arguments, "--all-attempts", "--allow-incomplete"]) == 0
    document = json.loads(target.read_text())
    assert {(entry["scenario_id"], entry.get("attempt")) for entry in document["unscored"]} == {
        ("0001_perspective-left", None),
        ("0002_perspective-right", 0),
    }
    scored = {entry["scenario_id"]: entry["score"] for entry in whole["cases"]}
    del scored["0001_perspective-left"]
    assert {entry["scenario_id"]: entry["score"] for entry in document["cases"]} == scored
    assert document["physics_iq_verified"] == pytest.approx(np.mean(list(scored.values())))


def test_command_refuses_a_target_that_cannot_be_written(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(dataset, tmp_path / "clips")
    target = tmp_path / "absent" / "scores.csv"
    arguments = [str(tmp_path / "clips"), "--dataset", str(dataset), "--no-cache", "--csv", str(target)]
    assert main(arguments) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_document_says_what_was_compared(dataset: Path, tmp_path: Path) -> None:
    paths = submit(dataset, tmp_path / "clips", take=2)
    document = report(score_folder(tmp_path / "clips", dataset, jobs=1))
    assert document["complete"] is True
    assert document["dataset"]["tree"] == "physics-IQ-benchmark" and document["dataset"]["num_cases"] == 4
    assert document["versions"]["opencv"] == cv2.__version__
    assert document["by_scenario"].keys() == {"trimmed-sliding-square-0", "trimmed-sliding-square-1"}
    assert document["groups"]["trimmed-sliding-square-1"]["num_cases"] == 2
    assert document["official"]["final_score_origround"] == document["physics_iq"]
    assert document["official"]["final_score_view"] * 100 == pytest.approx(document["physics_iq_verified"])
    assert document["cases"][0]["means"]["found"]["num_frames"] == 40
    shutil.copyfile(paths["0001_perspective-left"], paths["0002_perspective-right"])
    again = report(score_folder(tmp_path / "clips", dataset, jobs=1))
    assert again["dataset"] == document["dataset"]  # of the real clips, whatever was compared with them
    assert again["physics_iq_verified"] != document["physics_iq_verified"]


def test_both_trees_are_read_alike_and_never_mixed(dataset: Path, tmp_path: Path) -> None:
    root, tree = tmp_path / "root", dataset / "physics-IQ-benchmark"
    root.mkdir()
    (root / "physics-IQ-benchmark-verified").symlink_to(tree)
    submit(dataset, tmp_path / "clips")
    scores = [score_folder(tmp_path / "clips", place, jobs=1) for place in (root, tree)]
    assert scores[0].cases == scores[1].cases and scores[0].revision == scores[1].revision
    (root / "physics-IQ-benchmark").symlink_to(tree)
    with pytest.raises(ScorerError, match="holds physics-IQ-benchmark and physics-IQ-benchmark-verified"):
        score_folder(tmp_path / "clips", root)


def test_user_files_stay_as_they_are(dataset: Path, tmp_path: Path) -> None:
    paths = submit(dataset, tmp_path / "clips")
    (tmp_path / "clips" / "notes.txt").write_text("mine")
    before = {path: path.stat() for path in (tmp_path / "clips").iterdir()}
    assert len(before) == len(paths) + 1
    score_folder(tmp_path / "clips", dataset, jobs=1, cache=tmp_path / "cache")
    after = {path: path.stat() for path in (tmp_path / "clips").iterdir()}
    assert after.keys() == before.keys()
    assert all(after[path].st_ctime_ns == stat.st_ctime_ns for path, stat in before.items())


def test_the_engine_does_not_import_the_scorer() -> None:
    engine = Path(physics_iq.__file__).parents[2] / "engine"
    for path in engine.rglob("*.py"):
        assert not re.search(r"^\s*(import|from) bench\b", path.read_text(), re.MULTILINE), path
