"""The side-by-side check sees differences, and a stand-in for the official tool is run as the real one is.

With the real one: `pytest -m slow --official DIR [--official-python PYTHON]` and the path of this file.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bench.scoring.check import compare as compare_script
from bench.scoring.check.compare import (
    Check,
    Subject,
    compare,
    other_files,
    require_equal,
    summary,
    timing_record,
)
from bench.scoring.check.datasets import EXACTNESS, Made, make
from bench.scoring.check.tools import Measured, Official, Ours, Scored, read_cells, run_measured
from engine.errors import ScorerError
from engine.settings.environment import usable_cores
from engine.video.files import read_frames

MEASURED = Measured(wall_s=1.0, cpu_s=1.0, peak_rss_bytes=1)
NUMBERS = {"final_score_origround": 50.0, "final_score_view": 0.25, "score_mse": None}
SUBJECT = Subject(dataset="made", submission="submission-1", official="abc, functions", cache="cold")

# A package with the official tool's modules and no evaluation in it: metrics are constants.
STAND_IN = {
    "binary_mask_generator": (
        "import os\n"
        "def generate_binary_masks(source, target, is_real):\n"
        "    os.makedirs(target)\n"
        "    open(f'{target}/{is_real}', 'w').close()\n"
    ),
    "calculate_and_write_metrics_to_csv": (
        "def process_videos(real, made, real_masks, made_masks, csv, fps, first, n_processes):\n"
        "    with open(csv, 'w') as file:\n"
        "        file.write(f'scenario,a,b\\ntrimmed-x.mp4,\"[{fps}, 0.5]\",{n_processes}.0\\n')\n"
    ),
    "calculate_iq_score": "def calculate_iq_score(csv):\n    return 12.34, 0.0\n",
    "calculate_iq_score_stable": (
        "class IQTable:\n"
        "    @classmethod\n"
        "    def from_csv(cls, csv):\n"
        "        return cls()\n"
        "    def get_output_dict(self):\n"
        "        return {'final_score_view': 0.5, 'score_spatial': float('nan')}\n"
    ),
}


def scored(path: Path, text: str, numbers: dict[str, float | None] = NUMBERS) -> Scored:
    path.write_text(text, encoding="ascii")
    view = numbers.get("final_score_view")
    return Scored(
        csv=path,
        numbers=numbers,
        original=numbers["final_score_origround"],
        verified=None if view is None else 100 * view,
        measured=MEASURED,
    )


CSV = 'scenario,mse,iou\ntrimmed-x.mp4,"[0.25, 0.5]",1.0\n'


def test_equal_tools_pass(tmp_path: Path) -> None:
    found = compare(SUBJECT, scored(tmp_path / "a", CSV), scored(tmp_path / "b", CSV), NUMBERS)
    require_equal([found])
    assert found.text_identical and found.columns_difference == found.numbers_difference == 0.0
    assert found.physics_iq == (50.0, 50.0) and found.physics_iq_verified == (25.0, 25.0)


@pytest.mark.parametrize(
    ("text", "numbers", "own"),
    [
        (CSV.replace("0.5", "0.500000002"), NUMBERS, NUMBERS),
        (CSV, {**NUMBERS, "final_score_view": 0.2501}, NUMBERS),
        (CSV, {**NUMBERS, "final_score_origround": 50.01}, NUMBERS),
        (CSV, {**NUMBERS, "score_mse": 0.0}, NUMBERS),
        (CSV, {"final_score_origround": 50.0, "score_mse": None}, NUMBERS),
        (CSV, NUMBERS, {**NUMBERS, "final_score_view": 0.2500000001}),
    ],
    ids=["column", "verified", "original", "number where none is", "number missing", "own csv"],
)
def test_a_difference_is_refused(
    tmp_path: Path, text: str, numbers: dict[str, float | None], own: dict[str, float | None]
) -> None:
    found = compare(SUBJECT, scored(tmp_path / "a", CSV), scored(tmp_path / "b", text, numbers), own)
    with pytest.raises(ScorerError, match="not equal: made submission-1"):
        require_equal([found])


@pytest.mark.parametrize("text", [CSV.replace("[0.25, 0.5]", "[0.25]"), CSV.replace("iou", "other")])
def test_other_cells_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ScorerError, match="the CSVs differ in"):
        compare(SUBJECT, scored(tmp_path / "a", CSV), scored(tmp_path / "b", text), NUMBERS)


def test_a_checkout_is_run_as_it_is(tmp_path: Path) -> None:
    package = tmp_path / "checkout" / "physiq"
    package.mkdir(parents=True)
    for name, source in STAND_IN.items():
        (package / f"{name}.py").write_text(source, encoding="ascii")
    (package / "__init__.py").touch()
    tool = Official(checkout=tmp_path / "checkout", python=sys.executable)
    root = tmp_path / "data"
    found = tool.metrics(root, root / "submission-1", 8, tmp_path / "work")
    assert read_cells(found.csv) == {("trimmed-x.mp4", "a"): [8.0, 0.5], ("trimmed-x.mp4", "b"): [0.0]}
    assert found.numbers == {"final_score_origround": 12.34, "final_score_view": 0.5, "score_spatial": None}
    assert (found.original, found.verified) == (12.34, 50.0)
    made = sorted(str(path.relative_to(tmp_path / "work")) for path in (tmp_path / "work").glob("*/*"))
    assert made == [
        "generated/False",
        "real/True",
    ]  # masks that do not ship are made beside, not in, the data
    assert not root.exists()


def test_a_run_is_measured_and_its_failure_told(tmp_path: Path) -> None:
    measured = run_measured([sys.executable, "-c", "x = bytearray(64 << 20)"], tmp_path / "log")
    assert measured.wall_s > 0 < measured.cpu_s and measured.peak_rss_bytes > 64 << 20
    with pytest.raises(ScorerError, match="no pandas here"):
        run_measured([sys.executable, "-c", "raise SystemExit('no pandas here')"], tmp_path / "log")


def test_speed_is_by_median_and_per_view() -> None:
    def times(*seconds: float) -> list[Measured]:
        return [Measured(wall_s=value, cpu_s=value / 2, peak_rss_bytes=int(value)) for value in seconds]

    made = Made(name="made", fps=8, real_px=(8, 8), generated_px=(8, 8), num_scenes=2)
    record = timing_record(
        made, {"official": times(60, 66, 90), "cold": times(33), "warm": times(2, 4)}, jobs=2
    )
    assert record["median_wall_s_per_view"] == {"official": 11.0, "cold": 5.5, "warm": 0.5}
    assert (record["times_faster_cold"], record["times_less_cpu_warm"]) == (2.0, 22.0)
    assert record["peak_rss_bytes"] == {"official": 90, "cold": 33, "warm": 4}
    assert summary(record) == {"cold_over_official": 2.0, "warm_over_official": 22.0}


def test_other_files_have_the_same_pictures(tmp_path: Path) -> None:
    made = Made(name="made", fps=8, real_px=(64, 48), generated_px=(64, 48), num_scenes=1, masks_ship=False)
    submission = make(made, tmp_path / "data")[0]
    other = other_files(submission, tmp_path / "other")
    for path in submission.iterdir():
        assert path.read_bytes() != (other / path.name).read_bytes()
        assert np.array_equal(read_frames(path), read_frames(other / path.name))


class OneCsv:
    """In place of both tools: writes the same CSV whatever it is asked."""

    jobs = 1

    def score(self, root: Path, submission: Path, work: Path, cache: Path) -> Scored:
        work.mkdir(parents=True)
        return scored(work / "ours.csv", CSV)

    def metrics(self, root: Path, submission: Path, fps: int, work: Path) -> Scored:
        work.mkdir(parents=True)
        return scored(work / "official.csv", CSV)

    def aggregate(self, csv_path: Path, work: Path) -> dict[str, float | None]:
        return NUMBERS


def test_every_round_of_timing_is_told_when_it_is_done(tmp_path: Path) -> None:
    tool: Any = OneCsv()
    check = Check(officials={"abc": tool}, ours=tool, work=tmp_path, console=Console(quiet=True))
    made = Made(name="made", fps=8, real_px=(64, 48), generated_px=(64, 48), num_scenes=1, masks_ship=False)
    told = [(len(found), record["wall_s"]["warm"]) for found, record in check.timing(made, 2)]
    assert told == [(2, [1.0]), (4, [1.0, 1.0])]


def test_command_refuses_a_folder_that_is_no_checkout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare_script.main(["--official", str(tmp_path)]) == 2
    assert "holds neither physiq/ nor code/" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("made", EXACTNESS, ids=lambda made: made.name)
def test_equals_the_official_evaluator(made: Made, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    checkout = request.config.getoption("--official")
    if checkout is None:
        pytest.skip("give a checkout of the official repository by --official DIR")
    python = request.config.getoption("--official-python")
    tool = Official(checkout=Path(checkout).resolve(), python=python)
    check = Check(
        officials={"official": tool}, ours=Ours(jobs=usable_cores()), work=tmp_path, console=Console()
    )
    found = check.exactness(made)
    assert len(found) == made.num_submissions
    require_equal(found)
    with pytest.raises(ScorerError, match="not equal"):
        require_equal([replace(found[0], columns_difference=2e-9)])
    assert json.dumps([entry.subject.dataset for entry in found]).count(made.name) == len(found)
