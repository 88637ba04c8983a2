"""The commands run and resume with real small models, where a model or the device does its worst."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from scripted_critic import Ready
from tiny_run import CRITIC_SIDECAR, Folders, make_folders, script_the_critic
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from engine import cli
from engine.generators.wan.job import WanJob
from engine.runs.store import RunStore
from engine.types import Outcome, Verdict

LAUNCHES = {"generator": WanJob, "critic": Ready}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")


def run(folders: Folders, out: Path, *, critic: Path | None = None) -> Result:
    options = ["--generator", folders.generator, "--critic", critic or folders.critic, "--out", out]
    options += ["--device", "cpu", "--dtype", "fp32", "--loops", 1]
    return CliRunner().invoke(cli.app, ["run", str(folders.dataset), *map(str, options)])


def stored(out: Path) -> tuple[dict[str, Outcome], Mapping[tuple[str, int], str]]:
    """Outcomes, and the digest of each take; all takes are there as they were stored."""
    with RunStore.open(out, read_only=True) as store:
        assert store.changed_takes() == {}
        return store.outcomes(), store.video_digests()


def facts(outcomes: Mapping[str, Outcome]) -> dict[str, object]:
    return {
        key: (one.chosen, one.stopped, one.failure, [(a.prompt, a.critique) for a in one.attempts])
        for key, one in outcomes.items()
    }


@pytest.fixture(scope="module")
def whole(
    folders: Folders, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Outcome], Mapping[tuple[str, int], str]]:
    """What is stored of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as scripted:
        scripted.setenv("RETAKE_THREADS", "1")
        script_the_critic(scripted)
        assert run(folders, out).exit_code == 0
    return stored(out)


def lose_the_device(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """Once an attempt is stored the model's next launch fails, and whatever is launched after it here."""
    keep, is_stored, lost = RunStore.attempt, threading.Event(), threading.Event()

    def keeping(store: RunStore, *given: Any) -> None:
        keep(store, *given)
        is_stored.set()

    def breaking(name: str, launch: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def inside(job: Any) -> Any:
            if name == model and is_stored.is_set():
                lost.set()
            if lost.is_set():
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            return launch(job)

        return inside

    monkeypatch.setattr(RunStore, "attempt", keeping)
    for name, job in LAUNCHES.items():
        monkeypatch.setattr(job, "launch", breaking(name, job.launch))


@pytest.mark.parametrize("model", LAUNCHES)
def test_a_lost_device_ends_the_run_and_resume_gives_what_it_would_have_given(
    folders: Folders, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    script_the_critic(monkeypatch)
    expected, digests = whole
    cut = tmp_path / "cut"
    with monkeypatch.context() as broken:
        lose_the_device(broken, model)
        lost = run(folders, cut)
    assert lost.exit_code == 1, lost.output
    told = " ".join(lost.output.replace("│", " ").split())  # of a panel
    assert "DeviceError" in told and "illegal memory access" in told and "retake resume" in told
    before, kept = stored(cut)
    assert kept and kept.items() < digests.items(), "it has to come in the middle"
    assert facts(before).items() <= facts(expected).items(), "a lost device is no scenario's failure"
    resumed = CliRunner().invoke(cli.app, ["resume", str(cut)])
    assert resumed.exit_code == 0, resumed.output
    after, again = stored(cut)
    assert facts(after) == facts(expected) and again == digests


def test_a_critic_that_never_stops_costs_its_replies_and_the_run_goes_on(
    folders: Folders, tmp_path: Path
) -> None:
    critic = shutil.copytree(folders.critic, tmp_path / "critic")
    weights = load_file(critic / "model.safetensors")
    (tied,) = [name for name in weights if name.endswith("embed_tokens.weight")]
    end = AutoTokenizer.from_pretrained(critic).eos_token_id
    weights[tied][end] = 0  # the logit of the end: below the largest of all others
    save_file(weights, critic / "model.safetensors", metadata={"format": "pt"})
    done = run(folders, tmp_path / "run", critic=critic)
    assert done.exit_code == 0, done.output
    outcomes, _ = stored(tmp_path / "run")
    budget = 2 * CRITIC_SIDECAR["max_new_tokens"]  # asked once more
    assert [one.chosen for one in outcomes.values()] == [0, 0]
    for one in outcomes.values():
        for attempt in one.attempts:
            assert attempt.critique is not None and attempt.critique.verdict is Verdict.UNREADABLE
            assert attempt.critique.num_tokens == budget
    with RunStore.open(tmp_path / "run", read_only=True) as store:
        plans = [store.history(scenario.id).plan for scenario in store.scenarios()]
    assert [(reply.plan, reply.num_tokens) for reply in plans if reply is not None] == [(None, budget)] * 2
