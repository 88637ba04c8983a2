"""The loop over objects: a run folder that is read like any other, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from scripted_critic import ScriptedCritic
from tiny_run import Folders

import retake


class Shades:
    """A generator of plain greys, as bright as the seed says; fails on the scenario that it is told."""

    spec = retake.VideoSpec(width=32, height=32, fps=8.0, prefix_frames=24, num_frames=8)
    negative_prompt = "colour"
    notes: Mapping[str, str] = {}

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.prompts: list[retake.Prompt] = []

    def footprint(self, spec: retake.VideoSpec) -> retake.Footprint:
        return retake.Footprint(held={})

    def relieve(self) -> None:
        return None

    def start(self, scenario: retake.Scenario, prompt: retake.Prompt) -> retake.Job[retake.Video]:
        def make() -> retake.Video:
            if scenario.id == self.fails:
                raise ValueError("no such shade")
            self.prompts.append(prompt)
            return retake.Video(frames=np.full((8, 32, 32, 3), prompt.seed % 200, np.uint8), fps=8.0)

        return retake.OneStep(make)


class Darkest:
    def score(
        self,
        scenario: retake.Scenario,
        takes: Sequence[retake.Video],
        attempts: Sequence[retake.Attempt],
    ) -> list[float]:
        return [-float(take.frames.mean()) for take in takes]


@pytest.fixture
def scenarios(folders: Folders) -> tuple[retake.Scenario, ...]:
    return retake.open_scenarios(folders.dataset, 8.0)


def test_own_objects_are_refined_into_a_run_folder(
    scenarios: tuple[retake.Scenario, ...], tmp_path: Path
) -> None:
    generator, told = Shades(), []
    outcomes = retake.refine(
        scenarios,
        generator,
        ScriptedCritic(),
        tmp_path / "run",
        loop=retake.LoopConfig(loops=2),
        on_take=lambda name, take: told.append((name, take.index)),
    )
    assert [(one.chosen, one.stopped) for one in outcomes.values()] == [(2, "loops")] * 2
    assert told == [(one.id, index) for one in scenarios for index in range(3)]
    assert {prompt.negative for prompt in generator.prompts} == {"colour"}
    record = retake.read_run(tmp_path / "run")
    assert list(record.scenarios) == [one.id for one in scenarios] and record.scores is None
    first = record.scenarios[scenarios[0].id]
    assert first.outcome == outcomes[scenarios[0].id] and first.plan is not None
    assert first.chosen is not None
    assert first.chosen.read_bytes() == record.video(first.attempts[2]).read_bytes()
    assert retake.report(tmp_path / "run").is_file()
    with pytest.raises(retake.StoreError, match="already holds a run"):
        retake.refine(scenarios, generator, ScriptedCritic(), tmp_path / "run")


def test_an_error_costs_its_scenario(scenarios: tuple[retake.Scenario, ...], tmp_path: Path) -> None:
    bad, good = (one.id for one in scenarios)
    loop = retake.LoopConfig(loops=0)
    outcomes = retake.refine(scenarios, Shades(bad), ScriptedCritic(), tmp_path / "run", loop=loop)
    assert outcomes[bad].failure == "ValueError: no such shade" and outcomes[good].chosen == 0
    assert retake.read_run(tmp_path / "run").scenarios[bad].chosen is None


def test_a_selector_of_ones_own_chooses(scenarios: tuple[retake.Scenario, ...], tmp_path: Path) -> None:
    loop = retake.LoopConfig(loops=0, samples=3, selectors=("darkest",))
    by = {"darkest": Darkest()}
    run = tmp_path / "run"
    outcomes = retake.refine(scenarios, Shades(), ScriptedCritic(), run, loop=loop, selectors=by)
    for outcome in outcomes.values():
        shades = [take.prompt.seed % 200 for take in outcome.attempts]
        assert outcome.chosen == int(np.argmin(shades)) and len(set(shades)) == 3
    assert [entry.chosen for entry in retake.choose_again(run, by)] == [o.chosen for o in outcomes.values()]
    assert [entry.chosen for entry in retake.choose_again(run, by, takes=[1])] == [1, 1]
    with pytest.raises(retake.ConfigError, match="nearest: consensus"):
        retake.choose_again(run, "consensu")


def test_a_selector_that_nobody_asks_is_refused(
    scenarios: tuple[retake.Scenario, ...], tmp_path: Path
) -> None:
    with pytest.raises(retake.ConfigError, match="darkest would never be asked"):
        retake.refine(
            scenarios, Shades(), ScriptedCritic(), tmp_path / "run", selectors={"darkest": Darkest()}
        )
    loop = retake.LoopConfig(selectors=("darkest",))
    with pytest.raises(retake.ConfigError, match="'darkest' is not a selector"):
        retake.refine(scenarios, Shades(), ScriptedCritic(), tmp_path / "run", loop=loop)
    assert not (tmp_path / "run").exists()


class Scouting(Shades):
    """Its scouts are as bright as their takes, and smaller."""

    def check_scouts(self, form: retake.ScoutForm) -> None:
        if form.steps > 4:
            raise retake.ConfigError("no such steps", fix="fewer")

    def scout(
        self, scenario: retake.Scenario, prompt: retake.Prompt, form: retake.ScoutForm
    ) -> retake.Job[retake.Video]:
        frames = np.full((8, 16, 16, 3), prompt.seed % 200, np.uint8)
        return retake.OneStep(lambda: retake.Video(frames=frames, fps=8.0))

    def finish(
        self, scenario: retake.Scenario, prompt: retake.Prompt, form: retake.ScoutForm
    ) -> retake.Job[retake.Video]:
        return self.start(scenario, prompt)


def test_a_generator_of_ones_own_is_scouted(scenarios: tuple[retake.Scenario, ...], tmp_path: Path) -> None:
    loop = retake.LoopConfig(method="scout", loops=0, scouts=4, scout_choosers=("darkest",))
    by, run = {"darkest": Darkest()}, tmp_path / "run"
    outcomes = retake.refine(scenarios, Scouting(), ScriptedCritic(), run, loop=loop, selectors=by)
    record = retake.read_run(run)
    for name, outcome in outcomes.items():
        scouts = record.scenarios[name].scouts
        assert [scout.form.steps for scout in scouts] == [2] * 4 + [4] * 2
        (take,) = outcome.attempts
        assert take.prompt.seed % 200 == min(scout.prompt.seed % 200 for scout in scouts)
    for generator, settings, match in (
        (Shades(), loop, "Shades makes no scouts"),
        (Scouting(), retake.LoopConfig(method="scout", scout_steps=8), "no such steps"),
        (Scouting(), retake.LoopConfig(method="scout", samples=2), "loop.samples is of the paper loop"),
    ):
        with pytest.raises(retake.ConfigError, match=match):
            retake.refine(scenarios, generator, ScriptedCritic(), tmp_path / "other", loop=settings)
    assert not (tmp_path / "other").exists()
