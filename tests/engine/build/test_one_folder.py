"""One Cosmos3 folder as generator and critic: the weights in memory once, and a run from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_cosmos3_folder as tiny
import torch
from sliding import SlidingSquare
from tiny_run import CRITIC_SIDECAR, Silent
from tiny_wan import build_scenario
from typer.testing import CliRunner

from engine import cli
from engine.api.takes import finish
from engine.build.model_folders import find_critic, find_generator
from engine.build.prepare import prepare
from engine.build.run import build_run, resume_run
from engine.critics.qwen_vl import critic as qwen_vl
from engine.critics.qwen_vl.critic import SHARED, QwenVLCritic
from engine.critics.qwen_vl.footprint import footprint as critic_footprint
from engine.demo.layout import write_dataset
from engine.errors import ConfigError, ModelError
from engine.generators.cosmos3 import generator as cosmos3
from engine.runs.store import RunStore
from engine.settings.config import RunConfig, load_config
from engine.types import Outcome, PlanReply, Verdict
from engine.video.files import probe

DURATIONS = {"prefix_frames": 24, "num_frames": 40, "num_inference_steps": 1, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("models") / "cosmos3"
    return tiny.add_reasoner(
        tiny.build_folder(place, width=32, height=32, critic=CRITIC_SIDECAR, **DURATIONS)
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scenes") / "dataset"
    write_dataset(place, [SlidingSquare(0), SlidingSquare(1)], views=("perspective-center",))
    return place


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")


def config(folder: Path, dataset: Path, out: Path, **settings: object) -> RunConfig:
    base = {"dataset": str(dataset), "out": str(out), "model": str(folder), "device": "cpu", "dtype": "fp32"}
    return load_config(None, base | {"loop.loops": 1} | settings)


def loaded(folder: Path) -> tuple[Any, QwenVLCritic]:
    generator = cosmos3.load(folder, device="cpu", dtype="fp32", lends=True)
    return generator, qwen_vl.load(folder, device="cpu", dtype="fp32", tower=generator.reasoner)


def planned(critic: QwenVLCritic, place: Path) -> PlanReply:
    return finish(critic.plan(build_scenario(place, num_frames=24)))


def test_the_folder_is_found_as_both(folder: Path) -> None:
    generator, critic = find_generator(str(folder)), find_critic(str(folder))
    assert (generator.family, critic.family, generator.lends) == ("cosmos3", "qwen_vl", True)


def test_the_critic_reads_by_the_generators_tower(folder: Path, tmp_path: Path) -> None:
    """Replies equal those of a critic that read the folder for itself, by transformers' own mapping."""
    generator, shared = loaded(folder)
    alone = qwen_vl.load(folder, device="cpu", dtype="fp32")
    theirs = {id(parameter) for parameter in generator.parts.transformer.parameters()}
    own = [name for name, parameter in shared.model.named_parameters() if id(parameter) not in theirs]
    assert own and all(name.startswith("model.visual.") for name in own)
    assert shared.notes["weights"] == SHARED and "weights" not in alone.notes
    first, second = planned(shared, tmp_path / "a"), planned(alone, tmp_path / "b")
    assert (first.raw, first.num_tokens) == (second.raw, second.num_tokens)
    assert first.num_tokens == 2 * CRITIC_SIDECAR["max_new_tokens"], "both tries wrote all they may"


@pytest.mark.slow
def test_takes_are_the_same_whether_a_critic_reads_beside_or_not(folder: Path, tmp_path: Path) -> None:
    from engine.types import Prompt

    prompt = Prompt(text="it rolls", negative="", seed=3, revision=0)
    scenario = build_scenario(tmp_path, num_frames=24)
    generators = (loaded(folder)[0], cosmos3.load(folder, device="cpu", dtype="fp32"))
    shared, alone = (finish(generator.start(scenario, prompt)).frames for generator in generators)
    assert (shared == alone).all()


def test_a_plan_counts_the_tower_once(folder: Path, dataset: Path, tmp_path: Path) -> None:
    prepared = prepare(config(folder, dataset, tmp_path / "run"))
    generator, critic = loaded(folder)
    parts = prepared.memory.parts
    assert parts["critic"].held["model"] == sum(
        tensor.numel() * tensor.element_size()
        for tensor in (*critic.model.model.visual.parameters(), *critic.model.buffers())
    )
    assert parts["critic"].held == critic_footprint(critic, prepared.spec).held
    assert parts["generator"].held == generator.footprint(prepared.spec).held
    other = prepare(config(folder, dataset, tmp_path / "run", **{"critic.quantization": "nf4"}))
    text = parts["generator"].held["text tower"] - other.memory.parts["generator"].held["text tower"]
    assert text == sum(
        p.nbytes for p in (critic.model.lm_head.weight, critic.model.model.language_model.norm.weight)
    )


def test_a_second_copy_of_the_tower_is_refused(folder: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads by that tower too"):
        prepare(config(folder, dataset, tmp_path / "run", **{"memory.text_encoder": "streamed"}))


@pytest.mark.slow
def test_a_run_with_a_critic_of_4_bits_and_the_tower_on_the_host(
    folder: Path, dataset: Path, tmp_path: Path
) -> None:
    """The places that a small GPU needs; takes are those of a run with all on the device."""
    digests = []
    for name, settings in (
        ("resident", {}),
        ("evicted", {"critic.quantization": "nf4", "memory.text_encoder": "streamed"}),
    ):
        with build_run(config(folder, dataset, tmp_path / name, **{"loop.loops": 0}, **settings)) as run:
            outcomes = run.execute(Silent())
        assert all(outcome.failure is None for outcome in outcomes.values())
        with RunStore.open(tmp_path / name, read_only=True) as store:
            digests.append({key: value for key, value in store.video_digests().items() if key[1] == 0})
    assert digests[0] == digests[1]
    assert json.loads((tmp_path / "evicted" / "manifest.json").read_text())["denoiser"]["streamed"]


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("preset", ["exact", "fast"])
def test_on_a_gpu_both_read_the_one_tower_while_steps_are_graphs(
    folder: Path, dataset: Path, tmp_path: Path, preset: str
) -> None:
    settings = {"device": "cuda", "dtype": "bf16", "denoise.preset": preset}
    with build_run(config(folder, dataset, tmp_path / preset, **settings)) as run:
        outcomes = run.execute(Silent())
    assert [outcome.failure for outcome in outcomes.values()] == [None, None]
    manifest = json.loads((tmp_path / preset / "manifest.json").read_text())
    assert manifest["critic"]["weights"] == SHARED


def test_edge_is_refused_as_a_critic_by_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "cosmos3_edge"}))
    with pytest.raises(ModelError, match="Cosmos3-Edge has feed-forwards without a gate"):
        find_critic(str(tmp_path))


def facts(outcomes: dict[str, Outcome]) -> dict[str, object]:
    return {
        key: (
            o.chosen,
            o.failure,
            [(a.prompt, a.critique and replace(a.critique, seconds=0.0)) for a in o.attempts],
        )
        for key, o in outcomes.items()
    }


def test_a_run_with_one_folder_named_once(folder: Path, dataset: Path, tmp_path: Path) -> None:
    """Through the command, store and report; interrupted, it goes on to the same outcomes and takes."""
    out = tmp_path / "whole"
    words = [
        "run",
        dataset,
        "--model",
        folder,
        "--out",
        out,
        "--device",
        "cpu",
        "--dtype",
        "fp32",
        "--loops",
        1,
    ]
    result = CliRunner().invoke(cli.app, [*map(str, words), "--loops", "1"])
    assert result.exit_code == 0, result.output
    with RunStore.open(out, read_only=True) as store:
        whole, digests = store.outcomes(), store.video_digests()
    assert {o.attempts[0].critique.verdict for o in whole.values() if o.attempts[0].critique} == {
        Verdict.UNREADABLE  # random weights write no JSON
    }
    for clip in sorted((out / "chosen").glob("*.mp4")):
        assert (probe(clip).num_frames, probe(clip).fps) == (40, 8.0)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["critic"]["weights"] == SHARED and manifest["denoiser"]["forward"] == "library"
    assert (out / "report.html").is_file()

    with pytest.raises(KeyboardInterrupt), build_run(config(folder, dataset, tmp_path / "part")) as run:
        run.execute(Silent(interrupt=1))
    with resume_run(tmp_path / "part") as resumed:
        assert facts(resumed.execute(Silent())) == facts(whole)
    with RunStore.open(tmp_path / "part", read_only=True) as store:
        assert store.video_digests() == digests
