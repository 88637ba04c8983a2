"""The results table on runs with known scores: rows, seeds, ensembles, shares, comparisons, refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluators import catch_evaluators
from rich.console import Console
from scored_runs import Made, entry_of, grey, make_run, scenario_of, write_scores
from typer.testing import CliRunner

from bench.analysis.scored_run import read_run
from bench.table.make import main, make_table
from bench.table.render import render, rich_table
from bench.table.rows import take_of_round
from engine import cli
from engine.errors import ConfigError, ScorerError, StoreError, VideoError
from engine.runs.store import RunStore
from engine.settings.config import RunConfig, write_config
from engine.types import Attempt, Prompt
from engine.video.files import write_mp4

# Two scenes over three rounds; the second stops after round 1 and keeps that take in row 3.
TAKES = [
    [Made(0, 40.0, 10.0), Made(1, 60.0, 50.0), Made(2, 20.0, 90.0)],
    [Made(0, 30.0, 30.0), Made(1, 50.0, 20.0)],
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "first", TAKES, chosen=(1, 0))


def rows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["run"]: entry for entry in document["rows"]}


def means(document: dict[str, Any], score: str = "physics_iq_verified") -> dict[str, float]:
    return {name: entry[score]["mean"] for name, entry in rows(document).items()}


def test_a_row_for_each_round_and_the_take_of_an_earlier_one_where_it_stopped(run: Path) -> None:
    document = make_table([run])
    assert means(document) == pytest.approx(
        {"1": 35.0, "2": 55.0, "3": 35.0, "{all} loop": 45.0, "{all} oracle": 55.0}
    )
    first, second, third = (rows(document)[name] for name in "123")
    assert [entry["loop"] for entry in (first, second, third)] == [0, 1, 2]
    assert first["steps"] == 16 and first["folders"] == ["first"] and first["seeds"] == [0]
    assert first["physics_iq_verified"]["std"] is None and not first["partial"]
    assert document["num_cases"] == document["num_scenes"] == 2 and document["left_out"] == {}


def test_each_column_of_the_oracle_chooses_by_its_own_score(run: Path) -> None:
    found = rows(make_table([run]))["{all} oracle"]
    assert found["physics_iq_verified"]["mean"] == pytest.approx((60 + 50) / 2)
    assert found["physics_iq"]["mean"] == pytest.approx((90 + 30) / 2)


def test_gain_over_the_mean_of_the_members_and_share_of_the_oracle(run: Path) -> None:
    found = rows(make_table([run], ensembles="1,2;all"))
    mean = (35 + 55) / 2
    assert found["{1,2} oracle"]["physics_iq_verified"]["gain"] == pytest.approx(55 - mean)
    assert found["{1,2} oracle"]["physics_iq_verified"]["share"] == pytest.approx(1.0)
    mean = (35 + 55 + 35) / 3
    assert found["{all} loop"]["physics_iq_verified"]["mean_of_members"] == pytest.approx(mean)
    assert found["{all} loop"]["physics_iq_verified"]["share"] == pytest.approx((45 - mean) / (55 - mean))
    assert found["{1,2} oracle"]["members"] == ["1", "2"]


def test_no_gain_has_no_share(tmp_path: Path) -> None:
    alone = make_run(tmp_path / "run", [[Made(0, 40.0)]])
    assert rows(make_table([alone]))["{all} oracle"]["physics_iq_verified"]["share"] is None


def test_several_seeds_give_mean_and_sample_deviation(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / f"seed-{seed}", [[Made(0, score), Made(1, score + 10)]], seed=seed)
        for seed, score in enumerate((40.0, 50.0, 60.0))
    ]
    document = make_table(folders, ensembles="1,2")
    found = rows(document)
    assert set(found) == {"1", "2", "{all} loop", "{1,2} oracle"}
    assert found["1"]["physics_iq_verified"] == {
        "mean": pytest.approx(50.0),
        "std": pytest.approx(10.0),
        "values": pytest.approx([40.0, 50.0, 60.0]),
    }
    assert found["1"]["seeds"] == [0, 1, 2]
    assert found["{1,2} oracle"]["physics_iq_verified"]["values"] == pytest.approx([50.0, 60.0, 70.0])
    assert "| 1 | 0 | 16 | 50.00 ± 10.00 |" in render(document, "markdown")


def test_a_narrow_terminal_cuts_no_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        make_run(tmp_path / f"seed-{seed}", [[Made(0, score), Made(1, score + 10)]], seed=seed)
        for seed, score in enumerate((40.25, 50.5, 62.75))
    ]
    document = make_table(folders)
    Console(width=72).print(rich_table(document)[0])
    shown = capsys.readouterr().out
    words = {word for line in render(document, "markdown").splitlines()[2:6] for word in line.split()}
    assert "51.17" in words and all(word in shown for word in words - {"{all}", "|"})


def test_runs_with_other_settings_or_weights_are_other_rows(tmp_path: Path) -> None:
    takes = [[Made(0, 40.0)]]
    weights = {"models": {"generator": {"folder": "g", "sha256": {"a": "1"}}}}
    folders = [
        make_run(tmp_path / "a", takes),
        make_run(tmp_path / "b", takes, steps=32, seed=1),
        make_run(tmp_path / "c", takes, seed=1, manifest=weights),
    ]
    document = make_table(folders)
    assert [entry["steps"] for entry in document["rows"][:3]] == [16, 32, 16]
    assert means(document)["{all} oracle"] == 40.0  # of single seeds, whatever they are


def test_ensembles_put_seeds_together(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / f"{steps}-{seed}", [[Made(0, score)]], steps=steps, seed=seed)
        for steps, seed, score in ((16, 0, 10.0), (16, 1, 20.0), (32, 1, 15.0), (32, 2, 90.0))
    ]
    document = make_table(folders)
    assert rows(document)["{all} oracle"]["physics_iq_verified"]["values"] == pytest.approx([20.0])
    assert any("seeds [0, 2] are not in every row" in note for note in document["notes"])
    with pytest.raises(ConfigError, match="no seed in common"):
        make_table([*folders[:2], folders[3]])


def test_samples_are_rows_of_their_own(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", [[Made(0, 10.0), Made(0, 20.0, sample=1), Made(1, 30.0)], [Made(0, 50.0)]]
    )
    document = make_table([run])
    assert [(e["loop"], e["sample"]) for e in document["rows"][:3]] == [(0, 0), (0, 1), (1, 0)]
    assert list(means(document).values())[:3] == pytest.approx([30.0, 35.0, 40.0])
    assert "| Run | Loop | Sample | Steps |" in render(document, "markdown")


def test_the_take_of_a_round() -> None:
    places = [(0, 0), (0, 1), (2, 0)]
    attempts = [
        Attempt(
            index=index,
            prompt=Prompt(text="a", negative="", seed=0, revision=0),
            video_path=Path("a.mp4"),
            critique=None,
            round=place[0],
            sample=place[1],
        )
        for index, place in enumerate(places)
    ]
    found = [take_of_round(attempts, loop, sample).index for loop, sample in ((0, 1), (1, 1), (2, 1), (9, 0))]
    assert found == [1, 1, 2, 2]


def test_partial_refinement_is_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [[Made(0, 40.0), Made(1, 48.31)]], only_incomplete=True)
    document = make_table([run], scores=("physics_iq_verified",))
    assert [entry["partial"] for entry in document["rows"]] == [False, True, False, False]
    assert r"| 2 | 1 | 16 | 48.31\* |" in render(document, "markdown")
    assert "48.31$^{*}$" in render(document, "latex")
    assert any(note.startswith("* only prompts") for note in document["notes"])


def test_steps_come_from_the_manifest_where_the_settings_leave_them_open(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "retake.json").write_text('{"num_inference_steps": 12}')
    models = {"models": {"generator": {"folder": str(tmp_path / "model"), "sha256": {}}}}
    manifests = [{"resolved": {"steps": 24}, **models}, models, {}]
    runs = [
        make_run(tmp_path / f"{seed}", [[Made(0, 1.0)]], steps=None, seed=seed, manifest=manifest)
        for seed, manifest in enumerate(manifests)
    ]
    assert [read_run(run).steps for run in runs] == [24, 12, None]
    (tmp_path / "model" / "retake.json").write_text('{"timesteps": [1000, 500]}')
    assert read_run(runs[1]).steps == 2
    document = make_table(runs[2:])
    assert document["rows"][0]["steps"] is None
    assert any(note.startswith("Steps - of a row") for note in document["notes"])


def test_scenarios_that_some_run_lacks_count_in_no_row(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "a", [[Made(0, 10.0)], [Made(0, 90.0)], [Made(0, 50.0)]])
    other = make_run(tmp_path / "b", [[Made(0, 20.0)], [], [Made(0, 40.0)]], steps=32)
    entries = json.loads((other / "scores.json").read_text())
    lost = entries["attempts"].pop()
    entries["unscored"] = [{"scenario_id": lost["scenario_id"], "reason": "damaged", "attempt": 0}]
    (other / "scores.json").write_text(json.dumps(entries))
    document = make_table([whole, other])
    assert document["num_cases"] == 1
    assert means(document)["1"] == 10.0 and means(document)["2"] == 20.0
    assert sorted(document["left_out"]) == [scenario_of(2).id, scenario_of(3).id]
    assert any("failed in" in note and "is unscored" in note for note in document["notes"])


def test_selectors_choose_among_the_takes_of_all_members(tmp_path: Path) -> None:
    """consensus takes one of the two that look alike, the critic's score another; then their rank sum."""
    first = [[Made(0, 10.0, shade=40, critic=90.0), Made(1, 70.0, shade=120, critic=50.0)]]
    second = [[Made(0, 60.0, shade=121, critic=10.0), Made(1, 20.0, shade=250, critic=20.0)]]
    runs = [make_run(tmp_path / "a", first), make_run(tmp_path / "b", second, steps=32)]
    document = make_table(
        runs, ensembles="1,2,3;all", choosers=("consensus", "critic_score", "consensus+critic_score")
    )
    found = means(document)
    assert found["{all} consensus"] in (70.0, 60.0)
    assert found["{all} critic_score"] == found["{1,2,3} critic_score"] == 10.0
    assert found["{all} consensus+critic_score"] == 70.0
    share = rows(document)["{all} critic_score"]["physics_iq_verified"]["share"]
    assert share == pytest.approx((10 - 40) / (70 - 40))
    assert "| ensemble {1,2,3} critic_score |" in render(document, "markdown")


def test_the_same_take_counts_once_among_candidates(tmp_path: Path) -> None:
    """Two scenes stopped at once: rows 1 and 2 share their takes, and a selector sees each take once."""
    run = make_run(
        tmp_path / "run", [[Made(0, 10.0, shade=1), Made(1, 20.0, shade=2)], [Made(0, 30.0, shade=3)]]
    )
    assert means(make_table([run], choosers=("consensus",)))["{all} consensus"] == pytest.approx(20.0)


def many(scores: Sequence[float]) -> list[list[Made]]:
    return [[Made(0, score)] for score in scores]


def test_the_interval_of_two_rows_is_paired(tmp_path: Path) -> None:
    """Scores differ by 60 from scene to scene, the rows by 2 +- 1: the interval is that of the difference."""
    random = np.random.default_rng(0)
    base = random.uniform(10, 70, 64)
    better = base + random.normal(2.0, 1.0, 64)
    runs = [
        make_run(tmp_path / "a", many(base.tolist())),
        make_run(tmp_path / "b", many(better.tolist()), steps=32),
    ]
    document = make_table(runs, compare="2 vs 1; 1,2; ensemble {all} oracle vs 2")
    forward, backward, _ = document["comparisons"]
    gains = better - base
    for score in ("physics_iq_verified", "physics_iq"):
        found = forward[score]
        assert found["mean"] == pytest.approx(gains.mean(), abs=0.011)
        half = 1.96 * gains.std() / 8
        assert found["ci95"] == pytest.approx([gains.mean() - half, gains.mean() + half], abs=0.06)
        assert backward[score]["mean"] == pytest.approx(-found["mean"])
    assert "2 minus 1: Original +" in render(document, "markdown")
    assert make_table(runs, compare="2 vs 1")["comparisons"][0] == forward


def test_wrong_rows_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="no row '9' for the ensemble"):
        make_table([run], ensembles="1,9")
    with pytest.raises(ConfigError, match="no row '7'"):
        make_table([run], compare="7 vs 1")
    with pytest.raises(ConfigError, match="does not name two rows"):
        make_table([run], compare="1")
    with pytest.raises(ConfigError, match="nearest: consensus"):
        make_table([run], choosers=("consensu",))
    with pytest.raises(ConfigError, match="given twice"):
        make_table([run, run])


def test_equal_runs_with_the_same_seed_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="same settings and the same seed"):
        make_table([run, make_run(tmp_path / "twin", TAKES)])


def test_takes_of_two_frame_rates_make_no_submission(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "fast", TAKES, steps=32, scored=False)
    entries = [
        entry_of(scenario_of(number + 1).id, index, take)
        for number, takes in enumerate(TAKES)
        for index, take in enumerate(takes)
    ]
    write_scores(other, entries, fps=24.0)
    assert len(make_table([run, other], ensembles="1,2;4,5")["rows"]) == 10
    with pytest.raises(ConfigError, match="mixes takes of 2 frame rates"):
        make_table([run, other])


@pytest.mark.parametrize(
    ("scores", "problem"),
    [
        (None, r"is not scored: .*scores\.json does not exist"),
        ("{", "is not JSON"),
        ("[]", "is not what retake score writes"),
        ('{"fps": 8, "attempts": [], "unscored": []}', "lacks 5 of 5 takes"),
        (
            '{"fps": 8, "attempts": [{"scenario_id": "a", "attempt": 0, "score": 1}], "unscored": []}',
            "another version",
        ),
    ],
)
def test_scores_that_are_absent_or_stale_name_the_command(
    run: Path, scores: str | None, problem: str
) -> None:
    path = run / "scores.json"
    path.unlink()
    if scores is not None:
        path.write_text(scores)
    with pytest.raises(ScorerError, match=problem) as caught:
        make_table([run])
    assert f"retake score {run} --all-attempts" in caught.value.fix


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    RunStore.create(tmp_path / "run", [scenario_of(1)]).close()
    write_config(RunConfig(dataset=tmp_path, out=tmp_path / "run"), tmp_path / "run" / "config.toml")
    with pytest.raises(ScorerError, match=r"1 unfinished scenario in"):
        make_table([tmp_path / "run"])


def test_runs_over_other_data_are_refused(run: Path, tmp_path: Path) -> None:
    elsewhere = make_run(tmp_path / "elsewhere", TAKES, steps=32, first_number=100)
    with pytest.raises(ConfigError, match="no scenario is scored in every run"):
        make_table([run, elsewhere])
    other = make_run(tmp_path / "other", TAKES, steps=32)
    text = (other / "scores.json").read_text().replace('"mse": 0.0', '"mse": 0.125')
    (other / "scores.json").write_text(text)
    with pytest.raises(ScorerError, match="different reference clips"):
        make_table([run, other])


def test_the_command_writes_every_format(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main([str(run), "--compare", "2 vs 1"]) == 0
    shown = capsys.readouterr().out
    assert "ensemble {all} oracle" in shown and "2 minus 1: Original" in shown
    assert main([str(run), "--format", "latex", "--score", "original"]) == 0
    latex = capsys.readouterr().out
    assert r"\toprule" in latex and r"ensemble \{all\} oracle & - & 16 & 60.00 & $+" in latex
    assert r" & 100 \% \\" in latex and "Verified" not in latex
    assert main([str(run), "--format", "json", "--out", str(tmp_path / "deep" / "t.json")]) == 0
    document = json.loads((tmp_path / "deep" / "t.json").read_text())
    assert document["scores"] == ["physics_iq", "physics_iq_verified"] and len(document["rows"]) == 5
    assert main([str(run), "--out", str(tmp_path / "t.txt")]) == 0
    assert "Loop 0 is the benchmark's own text" in (tmp_path / "t.txt").read_text()
    capsys.readouterr()
    assert main([str(run), "--ensembles", "9"]) == 2
    assert "fix: name rows 1 to 3" in capsys.readouterr().err


def test_the_command_line_hands_its_options_over(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = catch_evaluators(monkeypatch, status=0)
    options = ["--ensembles", "1,2", "--select", "critic_score", "--compare", "2 vs 1", "--device", "cpu"]
    result = CliRunner().invoke(
        cli.app, ["table", str(run), *options, "--score", "verified", "--format", "json"]
    )
    assert result.exit_code == 0, result.output
    (command,) = started
    assert command[1:5] == ["-P", "-m", "bench.commands._evaluator", "table.make"]
    assert main(command[5:]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["scores"] == ["physics_iq_verified"]
    assert [entry["run"] for entry in document["rows"]][3:] == [
        "{all} loop",
        "{1,2} critic_score",
        "{1,2} oracle",
    ]
    assert [entry["a"] for entry in document["comparisons"]] == ["2"]


@pytest.mark.parametrize("choosers", [(), ("consensus",)])
def test_a_take_that_is_not_the_one_that_was_scored_is_in_no_table(
    tmp_path: Path, choosers: tuple[str, ...]
) -> None:
    made = make_run(tmp_path / "run", [[Made(0, 40.0, shade=50), Made(1, 60.0, shade=90)]])
    take = made / "videos" / scenario_of(1).id / "attempt-1.mp4"
    whole = take.read_bytes()
    write_mp4(take, grey(70), 8.0)
    with pytest.raises(StoreError, match=r"attempt-1\.mp4 is recorded, .* not as it was stored\n") as error:
        make_table([made], choosers=choosers)
    assert "leave this run out" in error.value.fix
    take.write_bytes(whole)
    assert rows(make_table([made], choosers=choosers))


def test_scores_outlive_takes_that_were_removed_but_selectors_do_not(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", [[Made(0, 40.0, shade=50), Made(1, 60.0, shade=90)]])
    (made / "videos" / scenario_of(1).id / "attempt-1.mp4").unlink()
    assert means(make_table([made]))["2"] == pytest.approx(60.0)
    with pytest.raises(VideoError, match=r"attempt-1\.mp4 does not exist"):
        make_table([made], choosers=("consensus",))
