"""The package: each rule on clips and prompts broken once, the layout that is written, and the command."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from odd_clips import with_made_up_frame
from scored_clips import record_takes
from submission_tree import counted, good_card, write_card, write_clip, write_run, write_tree
from typer.testing import CliRunner, Result

from bench.submission import package, runs
from bench.submission.card import Problem
from bench.submission.package import check_run_id, check_submission, suggested_run_id, write_package
from bench.submission.runs import Run, find_runs
from engine import cli
from engine.datasets.physics_iq import TREES
from engine.errors import ConfigError
from engine.runs.store import RunStore
from engine.types import Clip, Scenario
from engine.video.files import write_mp4

RUN_ID = "somelab__some-model-2.1__2026-10-07"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of 198 clips and the tree they answer."""
    root = tmp_path_factory.mktemp("whole")
    names = write_tree(root / "data", num_scenes=66)
    clip = write_clip(root / "clip.mp4", 40)
    for name in ("s0", "s1"):
        write_run(root / name, names, clip)
    write_card(root, good_card())
    return root


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with 3 cases, for breaking."""
    monkeypatch.setattr(package, "NUM_CASES", 3)
    names = write_tree(tmp_path / "data", num_scenes=1)
    write_run(tmp_path / "s0", names, write_clip(tmp_path / "clip.mp4", 40))
    write_card(tmp_path, good_card())
    return tmp_path


def of(root: Path) -> list[Run]:
    return find_runs([path for path in (root / "s0", root / "s1") if path.is_dir()], [])


def problems(root: Path, card: dict[str, Any] | None = None) -> list[Problem]:
    path = root / "card.yaml" if card is None else write_card(root, card)
    return check_submission(path, of(root), root / "data")


def clip(root: Path, number: int = 1) -> Path:
    return sorted((root / "s0").iterdir())[number - 1]


def test_a_whole_submission_has_no_problem(whole: Path) -> None:
    seen: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        seen.append((done, total))

    assert check_submission(whole / "card.yaml", of(whole), whole / "data", progress=note) == []
    assert seen[0] == (1, 396) and seen[-1] == (396, 396)


def test_a_reduced_dataset_cannot_be_submitted(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(small) == []
    monkeypatch.setattr(package, "NUM_CASES", 198)
    (problem,) = problems(small)
    assert problem.field == "descriptions.csv" and problem.value.startswith("3 take-1 rows in")


def test_a_card_against_the_prompts_of_the_file_is_refused(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "prompt_variant", lambda dataset: "op")
    (problem,) = problems(small)
    assert problem.field == "public_info.descriptions" and problem.value == "bpp"
    card = good_card()
    card["public_info"]["descriptions"] = "op"
    assert problems(small, card) == []


def shorten(root: Path) -> None:
    write_clip(clip(root), 39)


def truncate(root: Path) -> None:
    clip(root).write_bytes(clip(root).read_bytes()[:-150])


def stretch_a_little(root: Path) -> None:
    write_clip(clip(root), 40, fps=7.99)  # 5.006 s: the rate passes, the length does not


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda root: clip(root).unlink(), "missing: 1 (0001_"),
        (lambda root: shutil.copy(clip(root), root / "s0" / "0001_copy.mp4"), "not in descriptions.csv as"),
        (lambda root: clip(root).rename(root / "s0" / "x.mp4"), "missing: 1 (0001_"),
        (shorten, "4.8750 s long, not 5.000 ± 0.001 s: 1"),
        (shorten, "39 frames, not 40: 1"),
        (stretch_a_little, "s long, not 5.000 ± 0.001 s: 1"),
        (lambda root: write_clip(clip(root), 80, fps=16), "16 fps, not 8: 1 (0001_"),
        (lambda root: write_clip(clip(root), 40, size=(64, 16)), "64x16, not the card's 32x16: 1"),
        (truncate, "truncated"),
        (lambda root: with_made_up_frame(clip(root, 2)), "is truncated or damaged in frame"),
        (lambda root: clip(root).write_text("hello"), "is not a readable video"),
    ],
)
def test_a_clip_against_a_rule_is_named(small: Path, damage: Callable[[Path], object], says: str) -> None:
    damage(small)
    found = problems(small)
    assert any(says in problem.value for problem in found), found
    assert {problem.field for problem in found} == {"runs/s0"}


def test_a_clip_that_the_run_did_not_choose_is_named(small: Path) -> None:
    names = [path.name for path in sorted((small / "s0").iterdir())]
    prefix = Clip(path=small / "prefix.mp4", fps=8.0, num_frames=24, width=32, height=16)
    scenarios = [
        Scenario(id=name[:4], text="a", prefix=prefix, category="c", output_name=name) for name in names
    ]
    with RunStore.create(small / "run", scenarios) as store:
        for scenario in scenarios:
            record_takes(store, scenario, small / "clip.mp4")
    runs = find_runs([small / "run"], [])
    assert check_submission(small / "card.yaml", runs, small / "data") == []
    write_mp4(small / "run" / "chosen" / names[1], counted(41)[1:], 8.0)
    (problem,) = check_submission(small / "card.yaml", runs, small / "data")
    assert problem.value == f"not the take that the run chose: 1 ({names[1]})"
    assert "retake resume" in problem.fix


def test_the_card_must_fit_the_clips(small: Path) -> None:
    card = good_card()
    card["public_info"] |= {"fps": 24, "resolution": "1280x720"}
    assert [problem.value.partition(":")[0] for problem in problems(small, card)] == [
        "8 fps, not 24",
        "32x16, not the card's 1280x720",
    ]


def test_problems_of_all_kinds_come_together(small: Path) -> None:
    clip(small).unlink()
    card = good_card()
    card["public_info"]["fps"] = None
    card["warranties"]["metadata_accurate"] = False
    fields = [problem.field for problem in problems(small, card)]
    assert fields == ["public_info.fps", "warranties.metadata_accurate", "runs/s0"]


def test_reported_scores_are_compared_on_the_verified_tree_only(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"physiq_mean": 47.0}
    monkeypatch.setattr(package, "reported_scores", lambda _: runs.Scored(values=values, why_not=None))
    assert [problem.field for problem in problems(small)] == ["reported_scores.physiq_mean"]
    (small / "data" / TREES[1]).rename(small / "data" / TREES[0])
    assert problems(small) == []


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        (RUN_ID, True),
        ("lab__m__2026-10-07", True),
        ("Lab__m__2026-10-07", False),
        ("some-lab__m__2026-10-07", False),
        ("lab__some_model__2026-10-07", False),
        ("lab__m__2026-13-07", False),
        ("lab__m", False),
        ("package", False),
    ],
)
def test_a_package_bears_its_run_id(tmp_path: Path, name: str, valid: bool) -> None:
    problem = check_run_id(tmp_path / name, good_card())
    assert (problem is None) == valid
    if problem is not None:
        assert "such as somelab__some-model-2.1__" in problem.fix


@pytest.mark.parametrize("card", [None, {}, {"public_info": None}, {"public_info": {"organization": "株式"}}])
def test_the_suggested_run_id_is_valid(tmp_path: Path, card: Any) -> None:
    assert check_run_id(tmp_path / suggested_run_id(card), card) is None
    assert check_run_id(tmp_path / suggested_run_id(good_card()), card) is None


def test_a_package_is_laid_out_as_wanted_and_never_overwritten(small: Path) -> None:
    target = small / RUN_ID
    num_files, num_bytes = write_package(target, small / "card.yaml", of(small), small / "data")
    files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    names = [f"runs/s0/{path.name}" for path in sorted((small / "s0").iterdir())]
    assert files == ["descriptions.csv", *names, "submission.yaml"]
    assert (num_files, num_bytes) == (5, sum(path.stat().st_size for path in target.rglob("*.*")))
    assert (target / "submission.yaml").read_bytes() == (small / "card.yaml").read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        write_package(target, small / "card.yaml", of(small), small / "data")


def test_a_package_that_fails_leaves_nothing(small: Path) -> None:
    clip(small, 3).unlink()
    before = sorted(path.name for path in small.iterdir())
    with pytest.raises(FileNotFoundError):
        write_package(small / RUN_ID, small / "card.yaml", of(small), small / "data")
    assert sorted(path.name for path in small.iterdir()) == before


def submit(root: Path, *options: object, status: int) -> Result:
    arguments = ["submit", root / "s0", "--card", root / "card.yaml", "--dataset", root / "data", *options]
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result


def test_the_command_writes_a_form_then_lists_problems_then_packs(small: Path) -> None:
    (small / "card.yaml").unlink()
    text = submit(small, "--descriptions", "bpp", status=0).output
    assert "to fill in by you: public_info.organization" in text and "no scores filled in" in text
    form = (small / "card.yaml").read_text()
    text = submit(small, "--out", small / "pkg", status=1).output
    assert "terms.terms_accepted: not filled in allowed: true fix: state that you have read" in text
    assert "--out: pkg allowed:" in text and not (small / "pkg").exists()
    assert (small / "card.yaml").read_text() == form
    write_card(small, good_card())
    assert "all rules are kept: 1 run" in submit(small, "--validate-only", status=0).output
    assert not (small / RUN_ID).exists()
    (small / "s0" / "notes.txt").touch()
    text = submit(small, "--out", small / RUN_ID, status=0).output
    assert "left out of the package" in text and "5 files" in text
    assert len(list((small / RUN_ID / "runs" / "s0").iterdir())) == 3


def test_the_command_takes_no_score_from_another_tree(small: Path) -> None:
    (small / "data" / TREES[1]).rename(small / "data" / TREES[0])
    assert "is not the tree of Physics-IQ Verified" in submit(small, "--validate-only", status=0).output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--out is not given"),
        (["--descriptions", "new", "--validate-only"], "'new' is not a kind of prompts"),
        (["--validate-only", "--card", "none.yaml"], "none.yaml does not exist"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(small: Path, options: list[str], says: str) -> None:
    assert says in submit(small, *options, status=2).stderr


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="compares with ffprobe, which is not installed")
def test_our_reading_of_a_header_is_ffprobes(whole: Path) -> None:
    fields = "stream=r_frame_rate,width,height:format=duration"
    command = ["ffprobe", "-v", "error", "-show_entries", fields, "-of", "csv=p=0", whole / "clip.mp4"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    header = package.read_header(whole / "clip.mp4")
    assert told == [f"{header.width},{header.height},{header.base_fps:g}/1", f"{header.container_s:.6f}"]
