"""The selectors' measurement on takes with known scores: arms, shares, tuning, correlation, sets, command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from critiques import bare_critique
from rich.console import Console
from scored_runs import Made, make_run, scenario_of
from sliding import SlidingSquare
from tiny_vjepa import write_tiny_vjepa

from bench.analysis.scored_run import ScoredRun, read_run
from bench.quality.selector_figures import (
    Pool,
    all_combinations,
    best_combination,
    coverage,
    figures,
    rank_correlation,
    reported_combinations,
    spearman,
)
from bench.quality.selector_quality import ALONE, main, measure, score_run
from bench.results_page.selector_tables import markdown, print_tables
from bench.scoring import physics_iq
from bench.table.make import make_table
from engine.datasets.physics_iq import open_dataset
from engine.demo.layout import write_dataset
from engine.errors import ConfigError, ScorerError
from engine.loop.selection import load_selectors
from engine.protocols import Selector
from engine.runs.store import RunStore
from engine.settings.config import RunConfig, write_config
from engine.types import Attempt, Outcome, Prompt, Scenario, SelectorSettings, Video
from engine.video.files import probe, write_mp4


def attempts(count: int) -> tuple[Attempt, ...]:
    prompt = Prompt(text="a", negative="", seed=0, revision=0)
    return tuple(
        Attempt(index=index, prompt=prompt, video_path=Path("a.mp4"), critique=None, sample=index)
        for index in range(count)
    )


def pool(scene: str, values: Sequence[float], **scores: Sequence[float | None]) -> Pool:
    entries: list[dict[str, float]] = [{} for _ in values]
    for name, column in scores.items():
        for entry, score in zip(entries, column, strict=True):
            if score is not None:
                entry[name] = score
    return Pool(
        scene=scene,
        attempts=attempts(len(values)),
        values=tuple(values),
        scores=entries,
        first=values[0],
        loop=values[-1],
    )


POOLS = [
    pool("s", [10.0, 20.0, 60.0], good=[0.1, 0.2, 0.9], bad=[3.0, 2.0, 1.0], same=[1.0, 1.0, 1.0]),
    pool("t", [50.0, 20.0, 20.0], good=[0.4, 0.5, 0.1], bad=[0.0, 2.0, 1.0], same=[1.0, 1.0, 1.0]),
]


def test_arms_gains_and_share_by_hand() -> None:
    """Random 30 and 30, oracle 60 and 50, good takes 60 and 20, bad takes 10 and 20."""
    found = figures(POOLS, [("good",), ("bad",), ("same",)])
    means = {name: found[name]["mean"] for name in ("first_take", "loop", "random", "oracle")}
    assert means == pytest.approx({"first_take": 30.0, "loop": 40.0, "random": 30.0, "oracle": 55.0})
    assert found["n"] == 2 and found["takes_per_scenario"] == 3.0
    good, bad, same = (found["choosers"][name] for name in ("good", "bad", "same"))
    assert good["mean"] == pytest.approx(40.0)
    assert good["minus_first"]["mean"] == pytest.approx((50.0 - 30.0) / 2)
    assert good["minus_random"]["mean"] == pytest.approx((30.0 - 10.0) / 2)
    assert good["share"]["value"] == pytest.approx(20.0 / 50.0)
    assert good["share"]["ci95"] == pytest.approx([-10 / 20, 30 / 30])  # of either scene alone
    assert bad["share"]["value"] == pytest.approx(-30.0 / 50.0)
    assert same["mean"] == pytest.approx(30.0)  # of equals the first take


def test_ranks_are_added_and_takes_without_a_score_come_last() -> None:
    """good ranks the takes 2 1 0, other 0 1 none: the middle one is second twice, the last has no sum."""
    mixed = pool("s", [1.0, 2.0, 3.0], good=[1.0, 2.0, 3.0], other=[9.0, 8.0, None])
    found = figures([mixed], [("good", "other"), ("good",), ("other",)])["choosers"]
    assert found["good"]["mean"] == 3.0 and found["other"]["mean"] == 1.0
    assert found["good+other"]["mean"] in (1.0, 2.0)
    assert coverage([mixed], "other") == pytest.approx(2 / 3)


def test_takes_that_all_score_alike_have_no_share() -> None:
    found = figures([pool("s", [5.0, 5.0], good=[1.0, 2.0])], [("good",)])
    assert found["choosers"]["good"]["share"] == {"value": None, "ci95": None}


def test_combinations() -> None:
    names = ("a", "b", "c", "d")
    assert len(all_combinations(names)) == 15
    assert len(reported_combinations(names, rank_sums=True)) == 4 + 6 + 1
    assert reported_combinations(names, rank_sums=False) == [("a",), ("b",), ("c",), ("d",)]


def test_the_best_combination_is_the_smallest_of_the_best() -> None:
    sets = {"one": POOLS[:1], "two": POOLS}
    assert best_combination(sets, ("bad", "good", "same")) == (("good",), pytest.approx((30 + 10) / 2))
    # neither finds the best take of both scenes alone, their rank sum does
    first = pool("s", [0.0, 9.0, 0.0], x=[3.0, 2.0, 1.0], y=[1.0, 3.0, 2.0])
    second = pool("t", [0.0, 9.0, 0.0], x=[1.0, 3.0, 2.0], y=[3.0, 2.0, 1.0])
    assert best_combination({"all": [first, second]}, ("x", "y"))[0] == ("x", "y")


@pytest.mark.parametrize(
    ("a", "b", "rho"),
    [
        ([1.0, 2.0, 3.0], [10.0, 20.0, 90.0], 1.0),
        ([1.0, 2.0, 3.0], [9.0, 5.0, 1.0], -1.0),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0], 0.8),  # 1 - 6 * 2 / (4 * 15)
        ([1.0, 1.0, 2.0], [1.0, 2.0, 3.0], np.sqrt(3) / 2),  # ranks 1.5 1.5 3
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], None),
    ],
)
def test_spearman_by_hand(a: list[float], b: list[float], rho: float | None) -> None:
    found = spearman(np.array(a), np.array(b))
    assert found is None if rho is None else found == pytest.approx(rho)


def test_correlation_within_scenarios() -> None:
    assert rank_correlation(POOLS, "good") == {
        "mean": pytest.approx((1.0 + spearman(np.array([0.4, 0.5, 0.1]), np.array([5.0, 2.0, 2.0]))) / 2),  # type: ignore[operator]
        "ci95": pytest.approx([0.0, 1.0]),
        "n": 2,
    }
    assert rank_correlation(POOLS, "same") == {"mean": None, "ci95": None, "n": 0}
    assert rank_correlation([pool("s", [1.0, 2.0], good=[1.0, 2.0])], "good")["n"] == 0


@dataclass
class Shade:
    """A selector that prefers bright takes, and counts what it was shown."""

    shown: list[int]

    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        self.shown.append(len(takes))
        return [float(take.frames.mean()) for take in takes]


def with_samples(folder: Path, *, first_number: int = 1) -> ScoredRun:
    """Scenario 1: two samples in rounds 0 and 1. Scenario 2 stopped in round 0."""
    takes = [
        [
            Made(0, 10.0, shade=10),
            Made(0, 20.0, sample=1, shade=200),
            Made(1, 50.0, shade=90),
            Made(1, 30.0, sample=1, shade=40),
        ],
        [Made(0, 60.0, shade=100), Made(0, 40.0, sample=1, shade=20)],
    ]
    return read_run(make_run(folder, takes, chosen=(2, 0), first_number=first_number))


def test_sets_of_rounds_and_of_all_takes(tmp_path: Path) -> None:
    selector = Shade([])
    document = measure([with_samples(tmp_path / "run")], {"shade": selector}, samples=2)
    brief, plan, every = (document["sets"][name] for name in ("brief_text", "plan_prompt", "all_takes"))
    assert (brief["n"], plan["n"], every["n"]) == (2, 1, 2)
    assert brief["choosers"]["shade"]["mean"] == pytest.approx((20.0 + 60.0) / 2)
    assert brief["random"]["mean"] == pytest.approx((15.0 + 50.0) / 2)
    compared = document["sets"]["brief_text_compared"]  # scenario 2 has nothing to compare with
    assert compared["n"] == 1 and compared["choosers"]["shade"]["mean"] == 20.0
    assert plan["choosers"]["shade"]["mean"] == pytest.approx(50.0)
    assert plan["first_take"]["mean"] == pytest.approx(10.0)  # of the scenario, not of the set
    assert every["choosers"]["shade"]["mean"] == pytest.approx((20.0 + 60.0) / 2)
    assert every["loop"]["mean"] == pytest.approx((50.0 + 60.0) / 2)
    assert selector.shown == [4, 2, 4, 4, 2, 2]  # two of the sets of the first scenario hold all its takes
    assert document["num_takes"] == 6 and document["tuned"] is None
    assert document["selectors"]["shade"]["scored_takes"] == 1.0
    assert document["selectors"]["shade"]["seconds_per_scenario"] > 0


@dataclass
class Numbered:
    """Scores takes by their number, less `past` for each time that it was asked before."""

    past: float
    asked: list[int]

    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        self.asked.append(len(takes))
        return [attempt.index - self.past * (len(self.asked) - 1) for attempt in attempts]


def test_selectors_that_judge_a_take_alone_are_asked_once(tmp_path: Path) -> None:
    once, again = Numbered(0.0, []), Numbered(0.0, [])
    document = measure([with_samples(tmp_path / "run")], {"vjepa": once, "shade": again}, samples=2)
    assert (once.asked, again.asked) == ([4, 2], [4, 2, 4, 4, 2, 2])
    for found in document["sets"].values():
        assert found["choosers"]["vjepa"] == found["choosers"]["shade"]


def test_what_is_asked_once_does_judge_each_take_alone(tmp_path: Path) -> None:
    """Scores of three takes are those of each by itself; `consensus`, which is not named, fails this."""
    clips = [SlidingSquare(number).render(1, "center") for number in range(3)]
    takes = [Video(frames=clip[24:], fps=8.0) for clip in clips]
    made = [
        replace(attempt, critique=bare_critique(10.0 * attempt.index), video_path=Path(f"{attempt.index}"))
        for attempt in attempts(3)
    ]

    def is_alone(selector: Selector) -> bool:
        together = selector.score(scenario, takes, made)
        apart = [selector.score(scenario, [t], [a])[0] for t, a in zip(takes, made, strict=True)]
        return together == pytest.approx(apart, rel=1e-4)

    write_mp4(tmp_path / "prefix.mp4", clips[0][:24], 8.0)
    scenario = replace(scenario_of(1), prefix=probe(tmp_path / "prefix.mp4"))
    small = SelectorSettings(vjepa=write_tiny_vjepa(tmp_path / "vjepa"))
    of_pixels = ALONE - {"states"}  # which reads no pixels: tests/engine/selectors/test_states.py
    selectors = load_selectors([*sorted(of_pixels), "consensus"], small)
    found = {name: is_alone(selector) for name, selector in selectors.items()}
    assert found == {**dict.fromkeys(of_pixels, True), "consensus": False}


def test_a_busy_machine_gives_no_seconds(tmp_path: Path) -> None:
    document = measure([with_samples(tmp_path / "run")], {"shade": Shade([])}, samples=2, timed=False)
    assert document["selectors"]["shade"]["seconds_per_scenario"] is None
    header, align, *lines = markdown(document).split("\n\n")[0].splitlines()
    assert "s per scenario" not in header
    assert {line.count("|") for line in (header, align, *lines)} == {11}
    print_tables(document, Console(width=160))


def test_a_run_without_samples_has_only_the_set_of_all_takes(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", [[Made(0, 10.0, shade=10), Made(1, 20.0, shade=90)]]))
    document = measure([run], {"shade": Shade([])}, samples=4)
    assert list(document["sets"]) == ["all_takes"]


def test_the_combination_is_looked_for_on_other_scenes(tmp_path: Path) -> None:
    run = with_samples(tmp_path / "run")
    other = with_samples(tmp_path / "other", first_number=50)
    document = measure([run], {"shade": Shade([])}, samples=2, tune_on=[other])
    assert document["tuned"]["combination"] == "shade" and document["tuned"]["num_tuning_scenes"] == 2
    with pytest.raises(ConfigError, match="2 scenes are both in"):
        measure([run], {"shade": Shade([])}, samples=2, tune_on=[run])


def test_scenarios_with_unscored_takes_are_named(tmp_path: Path) -> None:
    run = with_samples(tmp_path / "run")
    lost = (scenario_of(2).id, 1)
    partly = replace(run, records={key: value for key, value in run.records.items() if key != lost})
    document = measure([partly], {"shade": Shade([])}, samples=2)
    assert document["left_out"] == {f"run/{scenario_of(2).id}": "takes [1] have no score"}
    with pytest.raises(ScorerError, match="no scenario"):
        measure([replace(run, records={})], {"shade": Shade([])}, samples=2)


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = with_samples(tmp_path / "other", first_number=50)
    selectors = {"shade": Shade([]), "light": Shade([])}
    document = measure([with_samples(tmp_path / "run")], selectors, samples=2, tune_on=[other])
    print_tables(document, Console(width=160))
    shown = capsys.readouterr().out
    assert "brief text, best of 2: 2 scenarios" in shown and "shade+light" in shown
    text = markdown(json.loads(json.dumps(document)))
    header, align, *lines = text.split("\n\n")[0].splitlines()
    assert header.startswith(
        "| choice | brief text, best of 2 | share of oracle | the same, the plan's takes seen too |"
    )
    assert {line.count("|") for line in (header, align, *lines)} == {12}
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [
        "first take",
        "loop",
        "random choice",
        "shade (tuned on other scenes)",
        "light",
        "shade + light",
        "oracle (a bound, not a result)",
    ]
    assert "Scenarios: brief text, best of 2 2" in text


def test_takes_are_scored_against_the_references(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """End to end on files: a still take and the true one; the command's document and its refusals."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_dataset(tmp_path / "scenes", [SlidingSquare(0)], views=("perspective-center",))
    (scenario,) = open_dataset(tmp_path / "scenes").scenarios(8.0)
    true = SlidingSquare(0).render(1, "center")[24:]
    run = tmp_path / "run"
    with RunStore.create(run, [scenario]) as store:
        write_config(RunConfig(dataset=tmp_path / "scenes", out=run), run / "config.toml")
        (run / "manifest.json").write_text('{"manifest_version": 1, "argv": ["a"], "config": {"limit": 1}}')
        made = []
        for index, frames in enumerate((np.repeat(true[:1], 40, axis=0), true)):
            path = store.video_path(scenario.id, index)
            write_mp4(run / path, frames, 8.0)
            prompt = Prompt(text="a", negative="", seed=0, revision=index)
            attempt = Attempt(index=index, prompt=prompt, video_path=path, critique=None, round=index)
            store.attempt(scenario.id, attempt)
            made.append(attempt)
        store.outcome(Outcome(scenario_id=scenario.id, attempts=tuple(made), chosen=1, stopped="loops"))
    assert score_run(run, jobs=1).records[scenario.id, 1].score == pytest.approx(100.0, abs=1e-3)
    out = tmp_path / "selectors.json"
    command = ["--run", str(run), "--by", "consensus", "--out", str(out), "--device", "cpu", "--jobs", "1"]
    assert main(command) == 0
    document = json.loads(out.read_text())
    found = document["sets"]["all_takes"]
    assert found["oracle"]["mean"] == found["loop"]["mean"] == pytest.approx(100.0, abs=1e-3)
    assert found["first_take"]["mean"] < 40.0
    assert document["manifests"] == [{"manifest_version": 1, "config": {"limit": 1}, "models": {}}]
    assert document["command"].startswith("python -m bench.quality.selector_quality --run run --by consensus")
    assert str(tmp_path) not in out.read_text()
    capsys.readouterr()
    assert main(["--markdown", str(out)]) == 0
    assert "| oracle (a bound, not a result) | 100.0" in capsys.readouterr().out
    assert main([*command, "--scored"]) == 2
    assert "scores.json does not exist" in capsys.readouterr().err
    assert main([*command, "--by", "rank_sum"]) == 2
    scoring = [str(run), "--dataset", str(tmp_path / "scenes"), "--all-attempts", "--no-cache", "--jobs", "1"]
    assert physics_iq.main(scoring) == 0  # what `retake score` leaves behind is what `retake table` reads
    assert read_run(run).records == score_run(run, jobs=1).records
    rows = {entry["run"]: entry for entry in make_table([run])["rows"]}
    whole = json.loads((run / "scores.json").read_text())
    for score in ("physics_iq", "physics_iq_verified"):
        assert rows["{all} loop"][score]["mean"] == pytest.approx(whole[score], abs=1e-9)
