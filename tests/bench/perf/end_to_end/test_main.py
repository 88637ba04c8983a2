"""The three steps through the command: a part a process, joined; budgets; what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from whole_runs import tiny_models

from bench.perf.end_to_end import engine_run
from bench.perf.end_to_end.__main__ import main
from bench.perf.end_to_end.engine_run import BudgetSpent, Watch
from bench.perf.end_to_end.measured import Options
from bench.perf.end_to_end.variants import VARIANTS
from bench.results_page.page import make_page
from engine.build import prepare


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(out: Path, variant: str, *more: str, scenarios: int = 2) -> dict[str, Any]:
    arguments = ["--models", str(tiny_models()), "--variant", variant, "--scenarios", str(scenarios)]
    status = main(["run", *arguments, *more, "--out", str(out)], started_s=time.perf_counter())
    found: dict[str, Any] = json.loads(out.read_text())
    assert status == (0 if found["num_done"] else 1)
    return found


def joined(folder: Path, capsys: pytest.CaptureFixture[str], *names: str) -> tuple[dict[str, Any], str]:
    """The document of these parts, and what was told of it."""
    out = folder / "results" / "end_to_end_cpu.json"
    capsys.readouterr()
    assert main(["join", *(str(folder / f"{name}.json") for name in names), "--out", str(out)]) == 0
    assert "## How fast is a whole run?" in make_page(out.parent).text
    return json.loads(out.read_text()), capsys.readouterr().out


def test_a_part_and_its_takes_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("fast", "fast-generation-only")
    fast, alone = (run(tmp_path / f"{name}.json", name, scenarios=1) for name in names)
    assert (fast["tokens_per_scenario"], alone["tokens_per_scenario"]) == ({"clip00": 432}, {"clip00": 0})
    assert fast["tokens_per_critique_second"] > 0 and "tokens_per_critique_second" not in alone
    assert set(fast["busy_s"]) == {"generate", "critique", "encode"} and fast["complete"]
    assert fast["seconds_per_scenario"] == fast["makespan_s"]
    assert 0 < fast["first_denoise_step_s"] < fast["first_take_s"] < fast["makespan_s"]
    assert fast["process_to_window_s"] > fast["seconds_before"]["load"] > 0
    assert list(fast["seconds_before"]) == ["prepare", "load", "warm_up"]
    assert (tmp_path / "fast.svg").read_text().startswith("<svg")
    parts = fast["idle"]["parts_s"]
    assert sum(parts.values()) == pytest.approx(fast["makespan_s"]) and fast["idle"]["num_jobs"] == 2
    document, told = joined(tmp_path, capsys, *names)
    assert "holds: takes of fast and fast-generation-only are equal: equal in 1 scenario" in told
    assert set(document["summary"]) == {"fast_makespan_over_generation"}


def test_a_variant_of_patches_asks_for_them(tmp_path: Path) -> None:
    forms = {}
    for name, variant in VARIANTS.items():
        options = Options(models=tmp_path, runs=tmp_path, variant=variant, num_scenarios=1, num_steps=2)
        forms[name] = [options.config(warm_up=warm_up).critic.critique_form for warm_up in (False, True)]
    assert forms.pop("fast-patches") == ["patch", "patch"]
    assert set(map(tuple, forms.values())) == {("full", "full")}


@pytest.mark.slow
def test_patches_end_like_full_critiques_with_fewer_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("fast", "fast-patches")
    full, patches = (run(tmp_path / f"{name}.json", name, scenarios=1) for name in names)
    assert (full["tokens_per_scenario"], patches["tokens_per_scenario"]) == ({"clip00": 432}, {"clip00": 312})
    _, told = joined(tmp_path, capsys, *names)
    assert "takes, verdicts and merged plans of fast and fast-patches are equal: equal in 1 scen" in told
    assert "holds: critiques that are patches have as many tokens as real ones" in told


@pytest.mark.slow
def test_overlap_and_one_job_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("exact", "exact-sequential")
    side_by_side, alone = (run(tmp_path / f"{name}.json", name) for name in names)
    assert side_by_side["overlap_share"] >= alone["overlap_share"]
    document, told = joined(tmp_path, capsys, *names)
    assert "holds: outcomes of exact and exact-sequential are equal: equal in 2 scenarios" in told
    assert set(document["summary"]) == {"exact_overlap_over_sequential"}


@pytest.mark.slow
def test_the_script_is_asked_and_answers_as_the_exact_preset(tmp_path: Path) -> None:
    ours, script = (run(tmp_path / f"{name}.json", name) for name in ("exact", "script"))
    keys = ("prompt_sha256", "seed", "tokens", "score", "verdict")
    facts = [
        [{key: take[key] for key in keys} for one in part["scenarios"].values() for take in one["takes"]]
        for part in (ours, script)
    ]
    assert facts[0] == facts[1] and len(facts[0]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_runs(name: str, tmp_path: Path) -> None:
    assert run(tmp_path / "part.json", name, scenarios=1)["complete"]


@pytest.mark.slow
def test_one_run_of_the_script_is_cold_and_warm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = run(tmp_path / "script.json", "script", "--no-warm-up")
    assert sum(script["each_s"]) == pytest.approx(script["makespan_s"]) and len(script["each_s"]) == 2
    run(tmp_path / "fast.json", "fast")
    run(tmp_path / "first.json", "fast", "--no-warm-up", scenarios=1)
    summary = joined(tmp_path, capsys, "script", "fast", "first")[0]["summary"]
    assert {"fast_over_script", "fast_over_script_cold"} <= set(summary)


@pytest.mark.slow
def test_drafts_of_the_one_reply_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []

    def load(prepared: Any) -> Any:
        loaded.append(prepare.load(prepared))
        return loaded[-1]

    monkeypatch.setattr(engine_run, "load", load)
    run(tmp_path / "part.json", "exact", "--steps", "1", scenarios=1)
    [(_, critic)] = loaded
    assert not critic.recent


@pytest.mark.slow
def test_without_warm_up_it_is_the_users_run(tmp_path: Path) -> None:
    found = run(tmp_path / "part.json", "exact", "--no-warm-up", scenarios=1)
    outer = [path for path in found["seconds_before"] if "/" not in path]
    assert outer == ["process", "prepare", "load", "hash"], "as a user's run tells it"
    assert found["process_to_first_take_s"] > sum(found["seconds_before"][path] for path in outer[1:])
    warm = run(tmp_path / "warm.json", "exact", scenarios=1)
    assert warm["scenarios"] == found["scenarios"], "the warm-up leaves something behind"


def test_a_spent_budget_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(Watch):
        """The first scenario of the measured run uses the budget up."""

        def finished(self, scenario_ids: Any) -> None:
            super().finished(scenario_ids)
            if self._num == 2:
                self._deadline_s = 0.0

    monkeypatch.setattr(engine_run, "Watch", Impatient)
    found = run(tmp_path / "part.json", "exact-sequential", "--budget", "600", "--steps", "1")
    assert (found["num_done"], found["num_asked"], found["complete"]) == (1, 2, False)
    assert list(found["finished_s"]) == list(found["scenarios"]) == ["clip00"]
    assert found["scenarios"]["clip00"]["stopped"] == "loops" and found["settings"]["steps"] == 1
    assert "tokens_per_critique_second" not in found and found["busy_s"]["generate"] > 0


def test_a_budget_spent_before_the_measurement_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--models", str(tiny_models()), "--variant", "exact", "--scenarios", "1", "--budget", "0.1"]
    out = tmp_path / "x.json"
    assert main(["run", *arguments, "--out", str(out)], started_s=time.perf_counter()) == 2
    assert "budget of 0.1 s was spent before" in capsys.readouterr().err and not out.exists()


def test_the_watch_ends_a_run_before_the_budget_does() -> None:
    now = time.perf_counter()
    alone = Watch(3, now + 80.0, one_after_the_other=True)
    alone._began_s = now - 90.0
    with pytest.raises(BudgetSpent):
        alone.finished(["a"])  # 90 s each, 80 s left
    assert list(alone.ended_s) == ["a"]
    side_by_side = Watch(3, now + 80.0, one_after_the_other=False)
    side_by_side._began_s = now - 90.0
    side_by_side.finished(["a"])  # the others are under way
    side_by_side.update("generate", "b", 1, 2)
    late = Watch(3, now - 1.0, one_after_the_other=False)
    with pytest.raises(BudgetSpent):
        late.update("generate", "b", 1, 2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variant", "fast", "--scenarios", "3"], "3 scenarios are asked of 2 clips"),
        (["--variant", "fast-generation-only", "--scenarios", "1", "--no-warm-up"], "needs its warm-up"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.json"
    assert main(["run", "--models", str(tiny_models()), *more, "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert message in told and "fix: " in told and not out.exists()


def test_help_teaches_the_three_steps(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["run", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
    told = capsys.readouterr().out
    assert all(step in told for step in ("make --out", "run --models", "all --models", "join parts/*.json"))
    assert all(name in told for name in VARIANTS)
