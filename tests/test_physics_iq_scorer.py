"""The scorer: metrics by hand on rectangles, both scores, and runs and folders of real files."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sliding import SlidingSquare

from bench.suites import physics_iq
from bench.suites.official_csv import csv_text
from bench.suites.physics_iq import main, report, score_folder
from bench.suites.view_metrics import (
    Case,
    CaseMetrics,
    PairMetrics,
    ReducedClip,
    case_score,
    compare,
    original_score,
    score_case,
    score_frames,
    verified_score,
)
from engine.datasets.physics_iq import read_descriptions
from engine.demo.layout import write_dataset
from engine.errors import ScorerError
from engine.types import Frames
from engine.video import write_mp4

VIEWS = ("perspective-left", "perspective-right")


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
    assert score_frames(*takes, takes[0]).score == pytest.approx(100.0, abs=1e-3)
    assert score_frames(*takes, noise).score < 20.0
    still = score_frames(*takes, frozen)
    assert (still.spatial, still.weighted_spatial) == (0.0, 0.0)
    assert still.score < 20.0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    write_dataset(out, [SlidingSquare(0), SlidingSquare(1, category="Optics")], views=VIEWS)
    return out


def submit(dataset: Path, folder: Path, *, take: int = 1) -> dict[str, Path]:
    """The real clips of `take` as a submission; by scenario id."""
    folder.mkdir(parents=True)
    rows = read_descriptions(dataset)
    testing = dataset / "physics-IQ-benchmark" / "split-videos" / "testing" / "8FPS"
    second = {(row.view, row.scene): row for row in rows if row.take == f"take-{take}"}
    paths = {}
    for row in (row for row in rows if row.take == "take-1"):
        source = testing / second[(row.view, row.scene)].file_name("testing-videos", 8)
        paths[row.scenario_id] = folder / row.output_name
        shutil.copyfile(source, paths[row.scenario_id])
    return paths


def square_takes(take: int, view: str, number: int = 0) -> Frames:
    return SlidingSquare(number).render(take, view)[24:]


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


def test_missing_damaged_and_strange_clips_are_unscored(dataset: Path, tmp_path: Path) -> None:
    paths = submit(dataset, tmp_path / "clips")
    paths["0001_perspective-left"].unlink()
    damaged = paths["0002_perspective-right"]
    damaged.write_bytes(damaged.read_bytes()[:900])
    write_mp4(paths["0003_perspective-left"], square_takes(1, "left")[:30], 8.0)
    write_mp4(tmp_path / "clips" / "holiday.mp4", square_takes(1, "left"), 8.0)
    scores = score_folder(tmp_path / "clips", dataset, jobs=1)
    assert [entry.scenario_id for entry in scores.cases] == ["0004_perspective-right"]
    reasons = {entry.scenario_id: entry.reason for entry in scores.unscored}
    assert "no file 0001_perspective-left_trimmed" in reasons["0001_perspective-left"]
    assert "readable" in reasons["0002_perspective-right"]
    assert "30 frames" in reasons["0003_perspective-left"]
    assert "not a generated_video_name" in reasons["holiday"]


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
    arguments = [str(run), "--dataset", str(dataset), "--all-attempts", "--jobs", "1"]
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


def test_command_fails_where_nothing_can_be_scored(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--dataset", str(dataset)]) == 1
    assert "fix:" in capsys.readouterr().out
    assert not (tmp_path / "scores.json").exists()


def test_the_engine_does_not_import_the_scorer() -> None:
    engine = Path(physics_iq.__file__).parents[2] / "engine"
    for path in engine.rglob("*.py"):
        assert "import bench" not in path.read_text() and "from bench" not in path.read_text(), path
