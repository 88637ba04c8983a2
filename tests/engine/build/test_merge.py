"""Runs of shards as one run: what is kept of each scenario, what is refused, and that others can use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from critiques import bare_critique
from tiny_run import Folders, Silent, make_folders, script_the_critic
from typer.testing import CliRunner

from engine import cli
from engine.build.merge import merge
from engine.build.opened_dataset import open_dataset
from engine.build.run import build_run, resume_run
from engine.errors import ConfigError, StoreError
from engine.runs.choices import choose
from engine.runs.folder import DATABASE
from engine.runs.states import SUFFIX, keep_states, place_of_states, read_states
from engine.runs.store import RunStore
from engine.runs.timeline import totals
from engine.runs.trace import Span
from engine.runs.trace_file import read_trace, write_trace
from engine.settings.config import load_config, read_config, write_config
from engine.types import Attempt, Clip, Outcome, PlanReply, Prompt, Scenario, States, StateSites

Takes = Sequence[float]
"""The critic's score of each take."""


def scenario(number: int) -> Scenario:
    clip = Clip(path=Path("gone/prefix.mp4"), fps=8.0, num_frames=24, width=16, height=16)
    name = f"000{number}_view"
    return Scenario(id=name, text=f"text {number}", prefix=clip, category="c", output_name=f"{number}.mp4")


def make_run(
    folder: Path,
    finished: Mapping[int, Takes],
    *,
    unfinished: Mapping[int, Takes] | None = None,
    failed: Sequence[int] = (),
    settings: dict[str, object] | None = None,
    digest: str = "aa",
    seconds: float = 1.0,
) -> Path:
    """A run folder as `retake run` leaves it; the "videos" hold their take's score."""
    base: dict[str, object] = {"dataset": str(folder.parent / "data"), "out": str(folder), "shard": "1/2"}
    folder.mkdir(parents=True)
    write_config(load_config(None, base | (settings or {})), folder / "config.toml")
    seeds = {scenario(number).id: number for number in finished}
    models = {"generator": {"folder": "x", "sha256": {"dit.safetensors": digest}}}
    facts = {"started": folder.name, "models": models, "seeds": seeds, "packages": {"torch": str(seconds)}}
    (folder / "manifest.json").write_text(json.dumps(facts))
    unfinished = unfinished or {}
    numbers = sorted([*finished, *unfinished, *failed])
    with RunStore.create(folder, [scenario(number) for number in numbers]) as store:
        store.opened([folder / "opened.mp4"])
        for number, takes in {**finished, **unfinished}.items():
            found = add_takes(store, scenario(number).id, takes, seconds)
            if number in finished:
                best = max(range(len(takes)), key=lambda index: takes[index])
                outcome = Outcome(
                    scenario_id=scenario(number).id, attempts=found, chosen=best, stopped="loops"
                )
                store.outcome(outcome)
        for number in failed:
            store.outcome(Outcome(scenario_id=scenario(number).id, attempts=(), failure="lost"))
    return folder


def add_takes(store: RunStore, scenario_id: str, takes: Takes, seconds: float) -> tuple[Attempt, ...]:
    store.plan(scenario_id, PlanReply(plan=None, raw="plan", num_tokens=1, seconds=seconds))
    found = []
    for index, score in enumerate(takes):
        path = store.video_path(scenario_id, index)
        (store.folder / path).write_text(f"{score}")
        attempt = Attempt(
            index=index,
            prompt=Prompt(text="a", negative="", seed=index, revision=index),
            video_path=path,
            critique=replace(bare_critique(score), seconds=seconds),
            round=index,
            selector_scores={"critic_score": score},
            timings={"generate": seconds},
        )
        store.attempt(scenario_id, attempt)
        found.append(attempt)
    return tuple(found)


def scores_of(folder: Path) -> dict[str, list[str]]:
    """What the videos of each scenario hold."""
    with RunStore.open(folder) as store:
        return {
            s.id: [(folder / a.video_path).read_text() for a in store.attempts(s.id)]
            for s in store.scenarios()
        }


def test_hidden_states_come_with_their_takes(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one", {1: [10, 20]}), make_run(tmp_path / "two", {2: [40]})
    sites = StateSites(steps=(0,), timesteps=(1000.0,), layers=(1,), width=2)
    states = States(sites=sites, values=np.ones((1, 1, 3, 2), np.float32))
    video = Path("videos/0001_view/attempt-1.mp4")
    keep_states(one, video, states)
    merge([one, two], tmp_path / "all")
    (found,) = (tmp_path / "all").glob(f"videos/*/*{SUFFIX}")
    assert found == place_of_states(tmp_path / "all", video)
    assert np.array_equal(read_states(found).values, states.values)


def test_two_shards_become_one_run(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one", {1: [10, 20], 3: [5]}), make_run(tmp_path / "two", {2: [40, 30]})
    before = {path: path.read_bytes() for run in (one, two) for path in run.rglob("*.mp4")}
    merged = merge([one, two], tmp_path / "all")
    assert (merged.num_scenarios, merged.num_finished, merged.num_takes, merged.pending) == (3, 3, 5, ())
    with RunStore.open(tmp_path / "all") as store, RunStore.open(one, read_only=True) as source:
        outcomes = store.outcomes()
        assert {key: outcome.chosen for key, outcome in outcomes.items()} == {
            "0001_view": 1,
            "0003_view": 0,
            "0002_view": 0,
        }
        assert outcomes["0001_view"] == source.outcomes()["0001_view"]
        assert store.history("0001_view") == source.history("0001_view")
        assert store.opened_files() == (one / "opened.mp4", two / "opened.mp4")
    assert {p.name: p.read_text() for p in (tmp_path / "all" / "chosen").iterdir()} == {
        "1.mp4": "20",
        "2.mp4": "40",
        "3.mp4": "5",
    }
    assert before == {path: path.read_bytes() for run in (one, two) for path in run.rglob("*.mp4")}


def test_settings_and_manifest_are_those_of_the_whole(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {1: [1]})
    two = make_run(tmp_path / "two", {2: [1]}, settings={"shard": "2/2"}, seconds=2.0)
    with pytest.raises(
        StoreError, match=r"two was made with something else than .*one:\n  package torch: 1\.0, now 2\.0"
    ):
        merge([one, two], tmp_path / "all")
    merge([one, two], tmp_path / "all", accept_changes=True)
    config = read_config(tmp_path / "all")
    assert config == replace(read_config(one), shard=None, out=tmp_path / "all")
    assert "shard" not in (tmp_path / "all" / "config.toml").read_text()
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert manifest["seeds"] == {"0001_view": 1, "0002_view": 2}
    assert manifest["config"]["shard"] is None
    assert [(entry["run"], entry["shard"], entry["num_scenarios"]) for entry in manifest["merged"]] == [
        ("one", "1/2", 1),
        ("two", "2/2", 1),
    ]
    assert manifest["merged"][0]["differs"] == {} and manifest["merged"][0]["changes"] == []
    assert manifest["merged"][1]["changes"] == ["package torch: 1.0, now 2.0"]
    assert manifest["merged"][1]["differs"] == {"packages": {"torch": "2.0"}}


def test_the_finished_one_wins_and_unfinished_takes_are_kept(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {1: [1]}, unfinished={2: [1, 2, 3], 3: [7]}, failed=[4, 5])
    two = make_run(tmp_path / "two", {2: [9]}, unfinished={1: [4, 4], 3: [7, 8], 5: [6]})
    three = make_run(tmp_path / "three", {4: [2]})
    merged = merge([one, two, three], tmp_path / "all")
    assert scores_of(tmp_path / "all") == {
        "0001_view": ["1"],
        "0002_view": ["9"],
        "0003_view": ["7", "8"],
        "0004_view": ["2"],
        "0005_view": [],
    }
    assert merged.pending == ("0003_view",)  # a failure is an outcome, which `retake resume` tries again
    with RunStore.open(tmp_path / "all") as store:
        assert store.outcomes()["0005_view"].failure == "lost"
        plan = store.history("0003_view").plan
        assert plan is not None and plan.raw == "plan"


def test_finished_twice_is_no_matter_while_the_takes_are_equal(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {1: [1, 2]})
    two = make_run(tmp_path / "two", {1: [1, 2]}, seconds=9.0)
    merge([one, two], tmp_path / "all", accept_changes=True)
    with RunStore.open(tmp_path / "all") as store:
        assert store.attempts("0001_view")[0].timings == {"generate": 1.0}
    three = make_run(tmp_path / "three", {1: [1, 3]})
    with pytest.raises(ConfigError, match=r"0001_view is finished with different takes in .*one and in"):
        merge([one, three], tmp_path / "other")
    (two / "videos" / "0001_view" / "attempt-0.mp4").write_text("other pixels")
    with pytest.raises(
        StoreError, match=r"attempt-0\.mp4 is recorded, and is missing or not as it was stored"
    ):
        merge([one, two], tmp_path / "other", accept_changes=True)
    assert not (tmp_path / "other").exists()


def test_what_each_card_had_memory_for_may_differ(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {1: [1]})
    saving = {"memory.text_encoder": "streamed", "memory.vram": "24GiB", "memory.experts": "streamed"}
    two = make_run(
        tmp_path / "two", {2: [1]}, settings={**saving, "denoise.vae_chunk": 1, "schedule.replies": 2}
    )
    merge([one, two], tmp_path / "whole")
    assert read_config(tmp_path / "whole").memory.vram == "", "that of the first"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loop.loops": 2}, r"loop\.loops is 4 in .*one and 2 in .*two"),
        ({"generator.steps": 9}, r"generator\.steps is not set in .*one and 9 in"),
        ({"dataset": "/elsewhere"}, r"dataset is .*data in .*one and /elsewhere in .*two\n.*--dataset"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    one, two = make_run(tmp_path / "one", {1: [1]}), make_run(tmp_path / "two", {2: [1]}, settings=settings)
    with pytest.raises(ConfigError, match=message):
        merge([one, two], tmp_path / "all")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_other_weights_are_refused(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one", {1: [1]}), make_run(tmp_path / "two", {2: [1]}, digest="bb")
    with pytest.raises(StoreError, match=r"file dit\.safetensors of the generator: changed") as caught:
        merge([one, two], tmp_path / "all")
    assert "--accept-changes" in caught.value.fix


def test_what_is_no_set_of_runs_is_refused(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {1: [1]})
    with pytest.raises(ConfigError, match="named 2 times"):
        merge([one, tmp_path / "x" / ".." / "one"], tmp_path / "all")
    with pytest.raises(ConfigError, match="no run is named"):
        merge([], tmp_path / "all")
    with pytest.raises(StoreError, match="holds something already"):
        merge([one], one)
    with pytest.raises(StoreError, match=f"holds no {DATABASE}"):
        merge([one, tmp_path], tmp_path / "all")
    (one / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"manifest\.json does not exist"):
        merge([one], tmp_path / "all")


def test_nothing_is_left_of_a_merge_that_fails(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {1: [1], 2: [1, 2]})
    (one / "videos" / "0002_view" / "attempt-1.mp4").unlink()
    with pytest.raises(StoreError, match=r"attempt-1\.mp4 is recorded, and is missing"):
        merge([one], tmp_path / "all")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_another_question_under_the_same_id_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_run(tmp_path / "one", {1: [1]})
    changed = replace(scenario(1), text="another sentence")
    monkeypatch.setattr(f"{__name__}.scenario", lambda number: changed)
    two = make_run(tmp_path / "two", {1: [1]})
    with pytest.raises(ConfigError, match="its text is 'text 1' and 'another sentence'"):
        merge([one, two], tmp_path / "all")


def test_traces_are_laid_end_to_end_and_a_part_of_them_is_none(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {1: [1]}, unfinished={2: [3]})
    two = make_run(tmp_path / "two", {2: [1]})
    span = Span(lane="generate", scenario_id="0001_view", attempt=0, name="generate", start_s=2.0, end_s=5.0)
    other = span._replace(scenario_id="0002_view")
    write_trace(one / "trace.json", [span, other._replace(start_s=5.0, end_s=9.0)])
    assert not merge([one, two], tmp_path / "all").has_trace
    assert not (tmp_path / "all" / "trace.json").exists()
    write_trace(two / "trace.json", [other])
    assert merge([one, two], tmp_path / "both").has_trace
    spans = tuple(read_trace(tmp_path / "both"))  # without the work on what was not kept
    assert [(s.scenario_id, s.start_s, s.end_s) for s in spans] == [
        ("0001_view", 0.0, 3.0),
        ("0002_view", 3.0, 6.0),
    ]
    assert totals(spans).wall_s == 6.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def part(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of shard 2/2, which is the second of the two scenarios."""
    monkeypatch.setenv("RETAKE_THREADS", "1")
    script_the_critic(monkeypatch)
    config = folders.config(tmp_path / "part", settings={"shard": "2/2", "loop.loops": 1})
    with build_run(config) as run:
        run.execute(Silent())
    return tmp_path / "part"


def test_the_command_makes_a_run_that_others_read(folders: Folders, part: Path, tmp_path: Path) -> None:
    """The scenario that no shard took is pending in a dataset that was moved, and resume makes it."""
    moved = tmp_path / "moved"
    shutil.copytree(folders.dataset, moved)
    (part / "config.toml").write_text(
        (part / "config.toml").read_text().replace(str(folders.dataset), str(tmp_path / "gone"))
    )
    out = tmp_path / "all"
    arguments = ["merge", str(part), "--out", str(out), "--dataset", str(moved)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "1 of 2 scenarios finished, 2 takes" in result.output
    assert "retake resume" in result.output
    with RunStore.open(out, read_only=True) as store:
        assert all(str(s.prefix.path).startswith(str(moved)) for s in store.scenarios())
        before = store.outcomes()
    with resume_run(out) as run:
        outcomes = run.execute(Silent())
    assert [len(outcome.attempts) for outcome in outcomes.values()] == [2, 2]
    assert before.items() <= outcomes.items()
    for command in ("report", "select", "score --no-cache --all-attempts", "table"):
        name, *options = command.split()
        result = CliRunner().invoke(cli.app, [name, str(out), *options])
        assert result.exit_code == 0, f"{command}: {result.output}"


def test_a_dataset_that_lacks_a_scenario_is_refused(folders: Folders, tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {1: [1]})
    with pytest.raises(ConfigError, match="lacks 1 scenario of these runs, the first 0001_view"):
        merge([one], tmp_path / "all", dataset=folders.dataset)


def test_the_order_is_the_datasets_and_limit_still_holds(part: Path, tmp_path: Path) -> None:
    with RunStore.open(part, read_only=True) as store:
        (second,) = store.scenarios()
    text = (part / "config.toml").read_text()
    merge([part], tmp_path / "all")
    with RunStore.open(tmp_path / "all", read_only=True) as store:
        first, last = store.scenarios()
    assert (first.id < second.id, last) == (True, second)
    (part / "config.toml").write_text("limit = 1\n" + text)
    with pytest.raises(StoreError, match="part is not what its manifest says:\n  setting limit: None, now 1"):
        merge([part], tmp_path / "one")
    one = merge([part], tmp_path / "one", accept_changes=True)
    assert one.num_scenarios == 2  # what a run holds stays, whatever the limit
    (part / "config.toml").write_text("limit = 2\n" + text)
    assert merge([part], tmp_path / "two", accept_changes=True).num_scenarios == 2


def test_a_prefix_that_is_another_clip_now_is_named(part: Path, folders: Folders, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folders.dataset, moved)
    with RunStore.open(part, read_only=True) as store:
        (scenario,) = store.scenarios()
    with next(moved.rglob(scenario.prefix.path.name)).open("ab") as file:
        file.write(b"other")
    with pytest.raises(StoreError, match=f"prefix of scenario {scenario.id}"):
        merge([part], tmp_path / "all", dataset=moved)
    merge([part], tmp_path / "all", dataset=moved, accept_changes=True)
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert manifest["merged"][0]["changes"] == [f"prefix of scenario {scenario.id}"]


def test_prefixes_of_all_runs_are_kept(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "one", {1: [1]}), make_run(tmp_path / "two", {2: [1]})]
    for number, run in enumerate(runs, start=1):
        facts = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps(facts | {"prefixes": {scenario(number).id: "aa"}}))
    merge(runs, tmp_path / "all")
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert manifest["prefixes"] == {"0001_view": "aa", "0002_view": "aa"}


def test_what_a_killed_merge_left_is_removed(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {1: [1]})
    left = tmp_path / ".all.merge.partial" / "run" / "videos"
    left.mkdir(parents=True)
    (left / "half.mp4").write_text("half")
    merge([one], tmp_path / "all")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "one"]
    assert not (tmp_path / "all" / "videos" / "half.mp4").exists()


def test_scenarios_beyond_the_limit_do_not_become_pending(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = open_dataset(folders.dataset).scenarios(8.0)
    monkeypatch.setattr(f"{__name__}.scenario", lambda number: there[number - 1])
    settings: dict[str, object] = {"dataset": str(folders.dataset)}
    whole = make_run(tmp_path / "whole", {1: [1]}, settings=settings)
    assert merge([whole], tmp_path / "a").pending == (there[1].id,)
    limited = make_run(tmp_path / "limited", {1: [1]}, settings=settings | {"limit": 1})
    assert merge([limited], tmp_path / "b").pending == ()


def test_the_users_choice_is_kept_and_two_choices_are_refused(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path / name, {1: [10, 20, 5]}) for name in ("one", "two"))
    choose(two, scenario(1).id, 2)
    merged = merge([one, two], tmp_path / "all")
    assert len(merged.users_choices) == 1 and "take 2 of 0 to 2, chosen by you" in merged.users_choices[0]
    with RunStore.open(tmp_path / "all") as store:
        outcome = store.outcomes()[scenario(1).id]
        assert (outcome.chosen, outcome.own.chosen) == (2, 1)
        assert store.chosen_path(scenario(1).id).read_text() == "5"
    choose(one, scenario(1).id, 0)
    with pytest.raises(ConfigError, match=r"you chose take 0 in .*one and take 2 in .*two"):
        merge([one, two], tmp_path / "again")
