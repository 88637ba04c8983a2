"""Equal budgets by hand: what each arm costs and chooses, its figures, and the whole on tiny models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_run import SCENARIOS, FakeModels, make_plan
from tiny_run import make_folders

import engine
from bench.quality import loop_budget, scout_finishes
from bench.quality.budget_arms import (
    BOTH,
    Costs,
    PaperTake,
    Scene,
    ScoutPlan,
    arms,
    candidates,
    combinations_of,
    oracle,
    paper,
)
from bench.quality.budget_costs import gpus_of_costs, read_costs
from bench.quality.budget_figures import best_of, budgets, chosen_plan, rank_prediction, summary, table
from bench.quality.budget_phases import paper_arguments
from bench.quality.candidate_pool import RECORD, Key, make_pool, read_pool
from bench.quality.set_scores import SetScores
from bench.results_page.budget_section import loop_budget as loop_budget_section
from bench.results_page.finishes_section import scout_finishes as finishes_section
from bench.results_page.result_files import read_file
from engine.errors import ConfigError
from engine.loop.policy import RefinementPolicy
from engine.loop.scout_policy import ScoutPolicy
from engine.runs.store import RunStore
from engine.settings.config import LoopConfig, RunConfig, write_config
from engine.types import Attempt, Outcome, PlanReply, Scenario, ScoutForm, Video

COSTS = Costs(
    take_steps=16,
    start_s=0.0,
    step_s=1.0,
    decode_s=4.0,
    look_decode_s=1.0,
    plan_s=1.0,
    critique_s=2.0,
    chooser_s={"a": 0.0, "b": 0.5},
)
"""A take is 20 s."""
SCOUTS = ScoutPlan(steps=2, whole=True, halvings=0, finalists=1, choosers=("a",))


def scene(name: str = "kind-1", *, samples: int = 8, lie: float = 0.0, category: str = "Optics") -> Scene:
    """Takes of the plan are better, later noises too; chooser a says the score, b the opposite.

    lie: by how much what "a" says of a look differs from its take, the other way round for each second one.
    """
    takes = {Key(which, sample): 40.0 + 20 * which + sample for which in (0, 1) for sample in range(samples)}
    looks = {
        Key(key.which, key.sample, steps, whole): value + (lie if key.sample % 2 else -lie)
        for key, value in takes.items()
        for steps in (2, 4)
        for whole in (True, False)
    }
    values = takes | looks

    def scores(keys: tuple[Key, ...]) -> list[dict[str, float]]:
        return [{"a": values[key], "b": -values[key]} for key in keys]

    behind = {Key(0, s, 2, True, 50): 90.0 for s in range(samples)}
    values |= behind | {Key(1, s, 2, True, 50): 10.0 + s for s in range(samples)}
    return Scene(
        name=name,
        category=category,
        kind=name.partition("-")[0],
        num_prompts=2,
        values=values,
        looks=tuple(looks),
        scores=scores,
        paper=(
            PaperTake(value=40.0, chosen=0),
            PaperTake(value=60.0, chosen=1),
            PaperTake(value=50.0, chosen=1),
        ),
    )


def test_scouts_cost_what_they_do() -> None:
    # plan 1, critique 2; 8 looks of 2 steps and a decode; the take anew
    assert SCOUTS.cost_s(8, COSTS) == 3 + 8 * 3 + 20
    first = replace(SCOUTS, whole=False)
    assert first.cost_s(8, COSTS) == 3 + 8 * 3 + 18, "the take goes on behind two steps"
    halved = replace(SCOUTS, halvings=1)
    assert halved.cost_s(8, COSTS) == 3 + 8 * 3 + 4 * 5 + 20
    assert replace(halved, whole=False).cost_s(8, COSTS) == 3 + 8 * 3 + 4 * 3 + 16
    kept = replace(SCOUTS, kept=0.5)
    assert kept.cost_s(8, COSTS) == 3 + 8 * 3 + 12, "eight of 16 steps are left"
    again = replace(SCOUTS, again=2, again_steps=3)
    assert again.cost_s(8, COSTS) == 3 + 8 * 3 + 20 + 2 * 3
    small = replace(SCOUTS, shrink=2)
    assert small.name == "scouts 2 whole 1/2 by a"
    assert small.cost_s(8, replace(COSTS, look_step_s=0.25)) == 3 + 8 * 1.5 + 20
    looked = replace(SCOUTS, choosers=("b",), finalists=2)
    assert looked.cost_s(8, COSTS) == 3 + 8 * 3.5 + 2 * 20.5
    assert SCOUTS.num_affordable(40.0, COSTS, 32) == 4 and SCOUTS.num_affordable(47.0, COSTS, 32) == 8
    assert SCOUTS.num_affordable(1000.0, COSTS, 32) == 32 and SCOUTS.num_affordable(23.0, COSTS, 32) == 0


def test_candidates_are_those_of_the_loops() -> None:
    one = scene()
    assert candidates(one, 3, BOTH) == [Key(0, 0), Key(0, 1), Key(1, 0)]
    assert candidates(replace(one, num_prompts=1), 3, BOTH) == [Key(0, 0), Key(0, 1), Key(0, 2)]
    policy = ScoutPolicy(
        refinement=RefinementPolicy(settings=LoopConfig(method="scout", scouts=6), negative="")
    )
    prompts = policy.prompts(SCENARIOS[0], PlanReply(plan=make_plan("left"), raw="", num_tokens=0, seconds=0))
    made = [policy.candidate(SCENARIOS[0], 0, place, prompts) for place in range(6)]
    assert [(p.revision, p.seed) for p in made] == [
        (key.which, made[key.sample].seed) for key in candidates(one, 6, BOTH)
    ]
    assert oracle(one) == 63.0, "of eight takes, four of each prompt"


def test_arms_choose_among_what_they_paid_for() -> None:
    found = arms(scene(), 2, COSTS, ["a", "b"], [SCOUTS])
    assert found["single"].value == 40.0
    assert found["best of brief by a"].value == 41.0 and found["best of brief by b"].value == 40.0
    assert found["best of both by a"].value == 60.0 and found["best of both by a"].cost == 41 / 20
    assert found["best of both by a+b"].value == 40.0, "of equals the earlier"
    scouts = found[SCOUTS.name]
    assert (scouts.value, scouts.num, scouts.cost) == (61.0, 4, 35 / 20)
    assert SCOUTS.name not in arms(scene(), 1, COSTS, ["a"], [SCOUTS])
    halved = replace(SCOUTS, halvings=1, finalists=2)
    assert halved.chosen(scene(lie=30.0), 8) == 63.0, "finished takes are compared for what they are"
    assert SCOUTS.chosen(scene(lie=30.0), 8) == 63.0
    assert SCOUTS.chosen(scene(lie=-30.0), 8) == 62.0, "and scouts for what they look like"


def test_scouts_of_which_a_chooser_says_nothing_are_left_out() -> None:
    one = scene()

    def scores(keys: tuple[Key, ...]) -> list[dict[str, float]]:
        return [{"a": 1.0} if key.steps == 2 else {} for key in keys]

    halved = replace(SCOUTS, halvings=1)
    found = arms(replace(one, scores=scores), 4, COSTS, ["a"], [SCOUTS, halved])
    assert SCOUTS.name in found and halved.name not in found


def test_a_take_that_keeps_its_scout_is_another_take() -> None:
    kept = replace(SCOUTS, kept=0.5)
    assert kept.name == "scouts 2 whole kept 50 % by a"
    assert kept.chosen(scene(), 8) == 13.0 and SCOUTS.chosen(scene(), 8) == 63.0


def test_a_take_with_restarts_is_another_take() -> None:
    again, one = replace(SCOUTS, again=2, again_steps=3), scene()
    assert again.name == "scouts 2 whole 2x 3 steps again by a"
    others = {Key(k.which, k.sample, 2, True, 0, 2): 100.0 - v for k, v in one.values.items() if not k.steps}
    assert again.chosen(replace(one, values={**one.values, **others}), 8) == 100.0 - 63.0
    assert not any(key.is_look for key in others)


def test_the_papers_loop_pays_for_each_critique() -> None:
    # 21 s and 22 s for each further take
    found = [paper(scene(), budget, COSTS) for budget in (1, 2, 4)]
    assert [(one.num, one.value) for one in found] == [(1, 40.0), (1, 40.0), (3, 60.0)]
    assert found[2].cost == (1 + 3 * 22) / 20


def test_figures_shares_and_the_summary() -> None:
    scenes = [scene("kind-1"), scene("kind-2", lie=30.0), scene("other-3", category="Fluid Dynamics")]
    rows = table(scenes, COSTS, ["a", "b"], [SCOUTS])
    found = budgets(scenes, rows)
    scouts = found["2x"][SCOUTS.name]
    assert scouts["mean"] == 61.0 and scouts["minus_single"]["mean"] == 21.0 and scouts["num"] == 4
    assert scouts["share_of_oracle"]["value"] == pytest.approx(21 / 23)
    assert found["2x"]["by_category"]["Optics"][SCOUTS.name]["n"] == 2
    assert best_of(found, "2x") == "best of plan by a" and found["2x"]["best of plan by a"]["mean"] == 61.0
    plans = {budget: chosen_plan(found, [SCOUTS], budget, SCOUTS) for budget in rows}
    assert plans["1x"] is None
    figures = summary(scenes, rows, found, plans, 39.0)
    assert figures["share_of_oracle_at_2x"] == pytest.approx(21 / 23)
    assert figures["share_of_oracle_at_8x"] == pytest.approx((67 - 40) / 23), "of 16 scouts, above the bound"
    assert figures["scout_minus_best_of_2"]["mean"] == 0.0
    assert figures["scout_minus_best_of_8"]["against"] == "best of plan by a"
    assert figures["seconds_per_scenario_h200"] == 39.0


def test_what_a_rank_of_scouts_predicts_by_kind() -> None:
    scenes = [scene("kind-1"), scene("kind-2", lie=100.0)]
    found = {(row["steps"], row["form"], row["by"]): row for row in rank_prediction(scenes, ["a", "b"])}
    assert found[2, "whole", "score"]["n"] == 2 and len(found) == 4 * 4
    straight, lies = (rank_prediction([one], ["a", "b"]) for one in scenes)
    assert straight[0]["mean"] == 1.0 and lies[0]["mean"] < 0.7
    assert [row["mean"] for row in straight if row["by"] == "b"] == [-1.0] * 4
    assert found[2, "first", "a"]["by_kind"]["kind"]["mean"] == found[2, "first", "a"]["mean"]
    unscored = replace(scenes[0], values={key: v for key, v in scenes[0].values.items() if not key.steps})
    by_score = [row for row in rank_prediction([unscored], ["a"]) if row["by"] == "score"]
    assert [row["n"] for row in by_score] == [0] * 4


class Counted:
    """A chooser that says how bright a clip is, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        self.asked.append(len(attempts))
        return [float(take.frames.mean()) for take in takes]


class Bright(FakeModels):
    """Fakes whose clips are large enough to be written."""

    def _job(self, name: str, scenario: Scenario, revision: int, value: Any) -> Any:
        if isinstance(value, Video):
            value = replace(value, frames=np.kron(value.frames, np.ones((1, 16, 16, 1), np.uint8)))
        return super()._job(name, scenario, revision, value)


def test_a_pool_is_made_once_and_a_set_is_asked_once(tmp_path: Path) -> None:
    models: Any = Bright()
    loop = LoopConfig(method="scout", scouts=4, scout_halvings=0)
    reply = PlanReply(plan=make_plan("left"), raw="", num_tokens=0, seconds=0.5)
    how: Mapping[str, Any] = {
        "generator": models,
        "policy": ScoutPolicy(refinement=RefinementPolicy(settings=loop, negative="")),
        "forms": [ScoutForm(steps=1, whole=True, stills=True)],
        "critic": None,
        "kept": [0.5],
        "again": [2],
    }
    make_pool(SCENARIOS[0], reply, tmp_path / "pool", **how)
    num_calls = len(models.calls)
    make_pool(SCENARIOS[0], reply, tmp_path / "pool", **how)
    assert len(models.calls) == num_calls == 16
    assert [(one.times, one.steps, one.differ.shape[1:]) for one in models.restarts] == [(2, 4, (8, 8))] * 4
    assert models.restarts[0].differ.max() > 0
    pool = read_pool(tmp_path / "pool")
    forms = ((), (1, True), (1, True, 50), (1, True, 0, 2))
    assert set(pool.clips) == {Key(w, s, *f) for w in (0, 1) for s in (0, 1) for f in forms}
    assert [clip.is_scored for key, clip in pool.clips.items() if key.is_look] == [False] * 4
    chooser = Counted()
    keys = tuple(key for key in pool.clips if not key.steps)
    for _ in range(2):
        scores = SetScores(pool, SCENARIOS[0], {"bright": chooser}, tmp_path / "scores.json")
        first, again = scores(keys), scores(keys)
        scores.keep()
        assert first == again and len(first) == 4
    assert chooser.asked == [4], "once, over both processes"
    (tmp_path / "pool" / RECORD).unlink()
    make_pool(SCENARIOS[0], reply, tmp_path / "pool", **how)
    assert len(models.calls) == 2 * num_calls, "a scene that was cut short is made again"


def test_combinations_are_alone_in_pairs_and_together() -> None:
    assert combinations_of("ab") == [("a",), ("b",), ("a", "b")]
    assert [len(found) for found in combinations_of("abcd")] == [1] * 4 + [2] * 6 + [4]


def test_parts_are_of_a_run_that_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else each process would see other scenarios, and make other parts."""
    run, given = tmp_path / "paper", ["--work", str(tmp_path), "--out", str(tmp_path / "b.json")]
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "descriptions.csv").touch()
    assert loop_budget.main([*given, "--shard", "1/2"]) == 2
    assert "there is no run in" in capsys.readouterr().err
    with RunStore.create(run, SCENARIOS) as store:
        write_config(RunConfig(dataset=tmp_path, out=run), run / "config.toml")
        for scenario in SCENARIOS[:-1]:
            store.outcome(Outcome(scenario_id=scenario.id, attempts=(), failure="no take"))
    assert loop_budget.main([*given, "--shard", "1/2"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"1 unfinished scenario in {run}, the first {SCENARIOS[-1].id}" in told
    assert f"retake resume {run}" in told
    with RunStore.open(run) as store:
        store.outcome(Outcome(scenario_id=SCENARIOS[-1].id, attempts=(), failure="no take"))
    assert loop_budget.main([*given, "--shard", "1/2"]) == 0, "no scenario has a plan: nothing is to be made"


@pytest.mark.slow
def test_the_whole_measurement_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(engine.__file__).parents[1]))
    monkeypatch.setenv("RETAKE_CACHE", str(tmp_path / "cache"))
    folders, out = make_folders(tmp_path / "tiny"), tmp_path / "budget.json"
    given = [
        *("--work", tmp_path / "work", "--out", out, "--count", 2, "--seeds", 2, "--steps", 3),
        *(
            "--scout-steps",
            1,
            "--kept",
            0.5,
            "--again",
            1,
            "--again-steps",
            2,
            "--loops",
            1,
            "--choosers",
            "consensus,critic_score",
            "--jobs",
            1,
        ),
        *("--generator", folders.generator, "--critic", folders.critic, "--device", "cpu"),
    ]
    assert loop_budget.main([str(word) for word in given]) == 0
    document = json.loads(out.read_text())
    assert document["kind"] == "loop_budget" and set(document["budgets"]) == {"1x", "2x", "4x", "8x"}
    section = loop_budget_section(read_file(out))
    assert section.title and "| 8x | single |" in section.body and "Spearman" in section.body
    assert set(document["summary"]) == {
        *("share_of_oracle_at_2x", "share_of_oracle_at_8x", "scout_minus_best_of_2"),
        *("scout_minus_best_of_8", "seconds_per_scenario_h200", "plan_first_share_of_oracle"),
    }
    assert document["num_missing"] == 0
    assert str(tmp_path) not in out.read_text(), "a published file names no folder of the machine"
    clips = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "pool").rglob("*.mp4")}
    lost = next((tmp_path / "work" / "pool").rglob(RECORD))
    lost.unlink()
    assert loop_budget.main([*map(str, given), "--partial"]) == 0
    partial = json.loads(out.read_text())
    assert (partial["num_scenarios"], partial["num_missing"]) == (1, 1) and not lost.exists()
    for part in ("1/2", "2/2"):  # one of them has nothing left to make
        assert loop_budget.main([*map(str, given), "--shard", part]) == 0
    assert lost.is_file() and "go on without --shard" in capsys.readouterr().out
    assert loop_budget.main([str(word) for word in given]) == 0
    kept = {path for path, when in clips.items() if path.stat().st_mtime_ns == when}
    assert kept == {path for path in clips if path.parent != lost.parent}
    again = json.loads(out.read_text())
    assert again["rank_prediction"] == document["rank_prediction"]
    ended = tmp_path / "finishes.json"
    assert scout_finishes.main(["--work", str(tmp_path / "work"), "--jobs", "1", "--out", str(ended)]) == 0
    rows = json.loads(ended.read_text())["finishes"]
    assert {(row["kept"], row["again"], row["num_takes"]) for row in rows} == {(0.5, 0, 8), (0.0, 1, 8)}
    assert all(row["plain"]["mean"] > 0 for row in rows)
    told = finishes_section(read_file(ended))
    assert "motion kept, 50 % of the steps" in told.body and str(tmp_path) not in ended.read_text()


def whole_run(**changed: Any) -> dict[str, Any]:
    """Two takes a scenario; a take has two steps of 3 and 5 s between an encoding and two decode passes."""
    settings = {"steps": 2, "loops": 1}
    alone = {"settings": settings, "idle": {"step_s": [0.5, 3.0, 5.0, 0.25, 0.75]}}
    parts = [
        {"variant": "fast", "settings": settings, "median_s": {"generate": 9.8}},
        {"variant": "fast-generation-only", "median_s": {"generate": 9.5}, **alone},
        {"variant": "fast", "settings": settings, "median_s": {"generate": 11.0}},  # without a warm-up
    ]
    machine = {"gpus": [{"name": "a card"}]}
    return {"kind": "end_to_end", "parts": parts, "manifest": {"machine": machine}, **changed}


def test_costs_of_a_whole_run_are_its_steps_and_what_replies_slow_them_by(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(whole_run()))
    found = read_costs(path, 16)
    assert (found.start_s, found.step_s, found.decode_s, found.look_decode_s) == (0.5, 4.0, 1.0, 1.0)
    assert found.take_s == 0.5 + 16 * 4.0 + 1.0
    # 0.3 s on each of two takes, for three replies
    assert found.plan_s == found.critique_s == pytest.approx(0.2)
    assert gpus_of_costs(path) == [{"name": "a card"}]
    path.write_text(json.dumps(whole_run(parts=[])))
    with pytest.raises(ConfigError, match="holds no costs"):
        read_costs(path, 16)


def test_the_take_of_the_plan_alone_is_an_arm_that_pays_for_plan_and_critique() -> None:
    one = scene()
    found = arms(one, 2, COSTS, ["a"], [])["plan first"]
    assert (found.value, found.cost, found.num) == (one.values[Key(1, 0)], 1 + 3 / 20, 1)
    assert "plan first" not in arms(one, 1, COSTS, ["a"], []), "a take is all that this budget has room for"
    unread = replace(one, num_prompts=1)
    assert arms(unread, 2, COSTS, ["a"], [])["plan first"].value == one.values[Key(0, 0)]


def test_restarts_of_the_papers_loop_alone_are_refused(tmp_path: Path) -> None:
    words = ["--work", str(tmp_path), "--out", str(tmp_path / "o"), "--set", "loop.finish_restarts=2"]
    with pytest.raises(ConfigError, match="alone, not of the candidates"):
        paper_arguments(loop_budget.make_parser().parse_args(words))
