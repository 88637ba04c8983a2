"""What runs tell for the card: only what all of them say, each with its source, and no score too many."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_run import make_run
from submission_tree import write_clip, write_run, write_tree

from bench.submission import runs
from bench.submission.runs import find_runs, is_verified, known_fields, reported_scores
from engine.datasets.physics_iq import TREES
from engine.errors import ConfigError
from engine.runs.choices import choose
from engine.runs.store import RunStore
from engine.runs.takes import takes_of
from engine.settings.config import load_config, write_config

NAMES = ["0001_a.mp4", "0002_b.mp4"]


def score_file(path: Path, score: float, **changes: Any) -> Path:
    document = {
        "physics_iq_verified": score,
        "sub_scores": {"spatial": score, "weighted_spatial": 50.0, "spatiotemporal": 40.0, "mse": 30.0},
        "num_cases": 198,
        "unscored": [],
        "dataset": {"tree": TREES[1]},
    }
    path.write_text(json.dumps(document | changes))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    clip = write_clip(tmp_path / "clip.mp4", 40)
    return [write_run(tmp_path / name, NAMES, clip) for name in ("s0", "s1")]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_tree(tmp_path / "data", num_scenes=1)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four finished scenarios of 4, 2, 4 and 2 takes."""
    run = make_run(tmp_path_factory.mktemp("run"), scored=False)
    shutil.copyfile(run / "videos" / "0001_perspective-left" / "attempt-0.mp4", run / "chosen" / "0001_a.mp4")
    return run


def configure(
    run: Path, *, device: str = "cuda", gpus: tuple[str, ...] = ("NVIDIA H100",), **values: object
) -> None:
    settings = {"dataset": str(run), "out": str(run), "generator.name": str(run / "wan-5b")}
    write_config(load_config(None, {**settings, **values}), run / "config.toml")
    machine = {"gpus": [{"name": name} for name in gpus]}
    (run / "manifest.json").write_text(json.dumps({"machine": machine, "resolved": {"device": device}}))


def told(folders: list[Path], dataset: Path, prompts: str | None = None) -> dict[str, Any]:
    known = known_fields(find_runs(folders, []), dataset, prompts)
    assert all(fact.source for fact in known.values())
    return {key.removeprefix("public_info."): fact.value for key, fact in known.items()}


def test_clips_tell_rate_and_size(folders: list[Path], dataset: Path) -> None:
    known = told(folders, dataset)
    assert (known["fps"], known["resolution"]) == (8, "32x16")
    assert set(known) == {"fps", "resolution", "date"}


def test_what_runs_do_not_agree_on_is_not_known(folders: list[Path], dataset: Path) -> None:
    for name in NAMES:
        write_clip(folders[1] / name, 40, size=(64, 16))
    assert "resolution" not in told(folders, dataset) and "fps" in told(folders, dataset)
    (folders[1] / NAMES[0]).write_bytes(b"no video")
    assert told(folders[1:], dataset)["resolution"] == "64x16"


def test_a_run_of_ours_tells_more(finished: Path, dataset: Path) -> None:
    configure(finished, **{"loop.loops": 3, "loop.selectors": ["consensus", "critic_score"]})
    known = told([finished], dataset)
    assert known["input_type"] == "v2v" and known["model_version"] == "wan-5b"
    assert known["bon_sampling"] == 4
    assert known["bon_sampling_method"] == "rank sum of consensus, critic_score"
    assert known["prompt_upsampling"] is True and "demo" in known["prompt_upsampling_method"]
    assert (known["generation_gpu"], known["generation_ngpu"]) == ("NVIDIA H100", 1)
    takes = [6.2 + index / 10 for count in (4, 2, 4, 2) for index in range(count)]
    assert known["generation_time"] == pytest.approx(sum(takes) / len(takes), abs=0.005)
    assert known["upsample_time"] == pytest.approx(0.9 + 1.07 * 3, abs=0.005)  # the plan, 3 takes in the mean


def test_what_a_run_without_rewriting_or_gpu_does_not_tell(finished: Path, dataset: Path) -> None:
    configure(finished, device="cpu", **{"loop.loops": 0})
    known = told([finished], dataset)
    assert known["prompt_upsampling"] is False
    assert not {"upsample_gpu", "upsample_time", "generation_gpu", "generation_time"} & set(known)
    configure(finished, gpus=("A", "B"))
    assert "generation_gpu" not in told([finished], dataset)


def test_times_are_averaged_over_runs_and_all_must_have_them(
    finished: Path, folders: list[Path], dataset: Path, tmp_path: Path
) -> None:
    configure(finished)
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    assert told([finished, other], dataset)["generation_time"] == told([finished], dataset)["generation_time"]
    assert "generation_time" not in told([finished, folders[0]], dataset)


def test_prompts_are_known_by_their_digest_or_as_told(
    folders: list[Path], dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(folders, dataset, "op")["descriptions"] == "op"
    text = (dataset / TREES[1] / "descriptions.csv").read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    monkeypatch.setattr(runs, "PROMPT_DIGESTS", {digest: "bpp"})
    assert told(folders, dataset)["descriptions"] == "bpp"


def test_scores_are_mean_and_sample_deviation(folders: list[Path], dataset: Path) -> None:
    for folder, score in zip(folders, (50.0, 53.0), strict=True):
        score_file(folder / "scores.json", score)
    values = reported_scores(find_runs(folders, [])).values
    assert (values["physiq_mean"], values["physiq_std"]) == (51.5, pytest.approx(4.5**0.5))
    assert (values["mse_mean"], values["mse_std"]) == (30.0, 0.0)
    assert len(values) == 10
    alone = reported_scores(find_runs(folders[:1], [])).values
    assert alone["physiq_mean"] == 50.0 and alone["physiq_std"] != alone["physiq_std"]
    assert told(folders, dataset)["reported_scores.physiq_mean"] == 51.5


@pytest.mark.parametrize(
    ("changes", "why_not"),
    [
        ({"dataset": {"tree": TREES[0]}}, f"was scored on {TREES[0]}"),
        ({"num_cases": 197}, "holds 197 of 198 cases"),
        ({"physics_iq_verified": None}, "is not of `retake score`"),
        ({"sub_scores": {}}, "is not of `retake score`"),
        ({"dataset": None}, "is not of `retake score`"),
    ],
)
def test_a_score_that_may_not_be_reported_says_why(
    folders: list[Path], changes: dict[str, Any], why_not: str
) -> None:
    for folder in folders:
        score_file(folder / "scores.json", 50.0)
    score_file(folders[1] / "scores.json", 50.0, **changes)
    scored = reported_scores(find_runs(folders, []))
    assert scored.values == {} and scored.why_not is not None and why_not in scored.why_not
    assert "s1" in scored.why_not


def test_scores_of_other_takes_are_not_reported(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    with RunStore.open(run) as store:
        score_file(run / "scores.json", 50.0, takes=takes_of(store))
        assert reported_scores(find_runs([run], [])).values["physiq_mean"] == 50.0
        store.forget_takes({"0001_perspective-left": 1})
    assert "is of other takes" in str(reported_scores(find_runs([run], [])).why_not)


def test_score_files_may_lie_elsewhere(folders: list[Path], tmp_path: Path) -> None:
    assert "does not exist" in str(reported_scores(find_runs(folders, [])).why_not)
    files = [score_file(tmp_path / f"{index}.json", 50.0) for index in range(2)]
    assert reported_scores(find_runs(folders, files)).values["physiq_mean"] == 50.0
    (tmp_path / "0.json").write_text("{")
    assert "is not of `retake score`" in str(reported_scores(find_runs(folders, files)).why_not)
    with pytest.raises(ConfigError, match="1 file with --scores for 2 runs"):
        find_runs(folders, files[:1])


def test_runs_must_exist_and_be_told_apart(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        find_runs([tmp_path / "none"], [])
    with pytest.raises(ConfigError, match="a name of its own for each"):
        find_runs([folders[0], write_run(tmp_path / "other" / "s0", NAMES, tmp_path / "clip.mp4")], [])


def test_only_the_verified_tree_is_verified(dataset: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "other", num_scenes=1, tree=TREES[0])
    assert is_verified(dataset) and is_verified(dataset / TREES[1]) and not is_verified(tmp_path / "other")


def test_a_clip_that_was_chosen_by_hand_is_not_called_the_selectors(finished: Path, dataset: Path) -> None:
    configure(finished)
    before = told([finished], dataset)["bon_sampling_method"]
    choose(finished, "0001_perspective-left", 0)
    assert told([finished], dataset)["bon_sampling_method"] == f"{before}; 1 clip chosen by hand"
    choose(finished, "0001_perspective-left", None)
