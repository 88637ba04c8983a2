"""The composition root with real small models: order of checks, wiring, resuming, local failures."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import Folders, Silent, make_folders, script_the_critic

from engine.build import engine
from engine.build import prepare as preparing
from engine.build import run as build
from engine.build.needs import plan_run
from engine.build.opened_dataset import open_dataset
from engine.build.prepare import prepare
from engine.build.relief import EMPTIED
from engine.build.run import build_run, resume_run
from engine.build.used_memory import USED
from engine.critics.qwen_vl import critic as qwen_vl
from engine.critics.qwen_vl import folder as critic_folder
from engine.critics.qwen_vl.reply_job import ReplyJob
from engine.datasets.folder import ClipFolder
from engine.datasets.physics_iq import PhysicsIQ
from engine.errors import ConfigError, DatasetError, DoesNotFit, ModelError, StoreError
from engine.generators.wan import generator as wan
from engine.generators.wan.job import WanJob
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.store import RunStore
from engine.runs.trace import AROUND
from engine.runs.trace_file import read_trace
from engine.settings.config import read_config
from engine.settings.presets import PRESETS
from engine.types import Outcome, Verdict
from engine.video.files import probe, write_mp4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")


@pytest.fixture
def own_dataset(folders: Folders, tmp_path: Path) -> Folders:
    """The same with a copy of the dataset that the test may damage."""
    shutil.copytree(folders.dataset, tmp_path / "dataset")
    return Folders(dataset=tmp_path / "dataset", generator=folders.generator, critic=folders.critic)


def conditioning(dataset: Path) -> list[Path]:
    return sorted(p for p in dataset.rglob("*conditioning-videos*.mp4") if "take-1" in p.name)


def facts(outcomes: dict[str, Outcome]) -> dict[str, object]:
    """What must not depend on order or interruption: everything but the clock."""
    return {
        key: (
            o.chosen,
            o.failure,
            o.stopped,
            [
                (a.index, a.round, a.sample, a.prompt, a.critique and replace(a.critique, seconds=0.0))
                for a in o.attempts
            ],
            [a.selector_scores for a in o.attempts],
        )
        for key, o in outcomes.items()
    }


def test_real_small_models_run_end_to_end(folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with build_run(folders.config(out)) as run:
        assert run.num_pending == 2
        outcomes = run.execute(Silent())
    assert [outcome.chosen for outcome in outcomes.values()] == [0, 0]
    for outcome in outcomes.values():  # random weights write no JSON
        assert outcome.attempts[0].critique is not None
        assert outcome.attempts[0].critique.verdict is Verdict.UNREADABLE
    for clip in sorted((out / "chosen").glob("*.mp4")):
        assert (probe(clip).num_frames, probe(clip).fps) == (40, 8.0)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["resolved"]["dtype"] == "fp32"
    assert manifest["models"]["generator"]["sha256"]
    assert manifest["critic"] == {"chat_template": "chat_template.jinja"}
    assert {span.lane for span in read_trace(out)} == {"generate", "critique", "encode", *AROUND}
    given = folders.config(out)
    kept = replace(given, denoise=replace(given.denoise, preset="exact"))
    assert read_config(out) == kept, "as it ran: a CPU's preset is named"
    with RunStore.open(out, read_only=True) as store:
        table = next(folders.dataset.rglob("descriptions.csv"))
        assert set(store.opened_files()) == {table, *conditioning(folders.dataset)}


def test_overlap_interruption_and_resumption_change_nothing(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    with build_run(folders.config(tmp_path / "whole")) as run:
        whole = run.execute(Silent())
    assert [len(outcome.attempts) for outcome in whole.values()] == [3, 3]
    assert [outcome.chosen for outcome in whole.values()] == [2, 2]
    with build_run(folders.config(tmp_path / "serial", settings={"schedule.overlap": False})) as run:
        assert facts(run.execute(Silent())) == facts(whole)
    cut, rest = Silent(interrupt=2), Silent()
    with build_run(folders.config(tmp_path / "cut")) as run, pytest.raises(KeyboardInterrupt):
        run.execute(cut)
    num_spans = len(tuple(read_trace(tmp_path / "cut")))
    with resume_run(tmp_path / "cut") as run:
        assert facts(run.execute(rest)) == facts(whole)
    assert not set(cut.attempts) & set(rest.attempts)
    assert len(cut.attempts) + len(rest.attempts) == 6
    assert len(tuple(read_trace(tmp_path / "cut"))) > num_spans


def test_lanes_on_threads_and_replies_side_by_side_change_nothing(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU. Replies are a tiny critic's own: unreadable, so that each is tried twice."""
    settings = {"loop.loops": 2, "loop.patience": 3}
    serial = settings | {"schedule.overlap": False}
    with build_run(folders.config(tmp_path / "serial", settings=serial)) as run:
        expected = facts(run.execute(Silent()))
    threads, seen = engine.lane_threads, set[str]()
    generate, decode = WanJob.launch, ReplyJob.launch

    def noting(own: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def launch(job: Any) -> Any:
            seen.add(threading.current_thread().name.split("_")[0])
            return own(job)

        return launch

    monkeypatch.setattr(WanJob, "launch", noting(generate))
    monkeypatch.setattr(ReplyJob, "launch", noting(decode))
    monkeypatch.setattr(engine, "lane_threads", lambda wanted, release: threads(True, lambda: None))
    for module in (engine, preparing):
        monkeypatch.setattr(module, "replies_at_once", lambda config, device: 3)
    with build_run(folders.config(tmp_path / "threads", settings=settings)) as run:
        assert facts(run.execute(Silent())) == expected
    assert seen == {"retake-generate", "retake-critique"}


BEST_OF_THREE: dict[str, object] = {
    "loop.loops": 1,
    "loop.samples": 3,
    "loop.selectors": ["consensus", "critic_score"],
}


def test_best_of_three_is_the_same_serial_and_interrupted(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    with build_run(folders.config(tmp_path / "whole", settings=BEST_OF_THREE)) as run:
        whole = run.execute(Silent())
    for outcome in whole.values():
        assert [(a.round, a.sample) for a in outcome.attempts] == [(r, s) for r in range(2) for s in range(3)]
        judged = [a.index for a in outcome.attempts if a.critique is not None]
        assert len(judged) == 2 and outcome.chosen in judged
        assert all("consensus" in a.selector_scores for a in outcome.attempts)
        assert ["critic_score" in a.selector_scores for a in outcome.attempts] == [
            a.critique is not None for a in outcome.attempts
        ]
    spans = tuple(read_trace(tmp_path / "whole"))
    assert {span.lane for span in spans} == {"generate", "critique", "encode", "select", *AROUND}
    serial = BEST_OF_THREE | {"schedule.overlap": False}
    with build_run(folders.config(tmp_path / "serial", settings=serial)) as run:
        assert facts(run.execute(Silent())) == facts(whole)
    cut, rest = Silent(interrupt=5), Silent()
    config = folders.config(tmp_path / "cut", settings=BEST_OF_THREE)
    with build_run(config) as run, pytest.raises(KeyboardInterrupt):
        run.execute(cut)
    with resume_run(tmp_path / "cut") as run:
        assert facts(run.execute(rest)) == facts(whole)
    assert len(cut.attempts) + len(rest.attempts) == 12 and not set(cut.attempts) & set(rest.attempts)


def test_the_shards_of_a_dataset_are_the_whole_dataset_once(folders: Folders, tmp_path: Path) -> None:
    def ids(**settings: object) -> list[str]:
        config = folders.config(tmp_path / "run", settings=settings)
        return [scenario.id for scenario in build.prepare(config).scenarios]

    parts = [ids(shard=f"{part}/2") for part in (1, 2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(ids())


def test_a_finished_run_resumes_without_loading(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    with build_run(folders.config(tmp_path / "run", settings={"loop.loops": 0, "limit": 1})) as run:
        outcomes = run.execute(Silent())
    monkeypatch.setattr(build, "load", lambda prepared: pytest.fail("models were loaded"))
    with resume_run(tmp_path / "run") as run:
        assert run.num_pending == 0
        assert run.execute(Silent()) == outcomes


def test_a_bad_clip_fails_its_scenario_and_is_retried_on_resume(
    own_dataset: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    bad = conditioning(own_dataset.dataset)[0]
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    display = Silent()
    with build_run(own_dataset.config(tmp_path / "run", settings={"loop.loops": 0})) as run:
        outcomes = list(run.execute(display).values())
    assert len(display.outcomes) == 2
    assert outcomes[0].failure is not None
    assert bad.name in outcomes[0].failure
    assert outcomes[1].chosen == 0
    bad.write_bytes(whole)
    with resume_run(tmp_path / "run") as run:
        assert run.num_pending == 1
        assert [outcome.chosen for outcome in run.execute(Silent()).values()] == [0, 0]


def test_resuming_with_nothing_usable_records_the_failure_again(
    own_dataset: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    conditioning(own_dataset.dataset)[0].write_bytes(b"")
    with build_run(own_dataset.config(tmp_path / "run", settings={"loop.loops": 0})) as run:
        run.execute(Silent())
    with resume_run(tmp_path / "run") as run:
        failures = [outcome.failure for outcome in run.execute(Silent()).values()]
    assert [failure is None for failure in failures] == [False, True]


def test_a_dataset_without_a_usable_clip_is_refused(own_dataset: Folders, tmp_path: Path) -> None:
    for clip in conditioning(own_dataset.dataset):
        clip.write_bytes(b"not a video")
    with pytest.raises(
        DatasetError, match=r"no scenario of .* is usable: .* is not a readable video"
    ) as told:
        build_run(own_dataset.config(tmp_path / "run"))
    assert told.value.fix.startswith("replace the file") and "fix:" not in told.value.problem
    assert not (tmp_path / "run").exists()


def test_a_missing_column_is_refused_before_loading(own_dataset: Folders, tmp_path: Path) -> None:
    table = next(own_dataset.dataset.rglob("descriptions.csv"))
    table.write_text(table.read_text().replace("category", "kind", 1))
    with pytest.raises(DatasetError, match="no column category"):
        prepare(own_dataset.config(tmp_path / "run"))


def test_wrong_folders_and_names_are_refused_before_loading(folders: Folders, tmp_path: Path) -> None:
    refusals: list[tuple[dict[str, object], type[Exception]]] = [
        ({"generator.name": str(tmp_path)}, ModelError),
        ({"critic.name": str(folders.generator)}, ModelError),
        ({"loop.selectors": ["critic_scor"]}, ConfigError),
        ({"dataset": str(tmp_path)}, DatasetError),
    ]
    for settings, error in refusals:
        with pytest.raises(error):
            prepare(folders.config(tmp_path / "run", settings=settings))


def test_models_that_do_not_fit_are_refused(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "device_budget", lambda device, vram: 2**20)
    with pytest.raises(DoesNotFit, match="generator"):
        prepare(folders.config(tmp_path / "run"))


def test_the_outline_is_planned_with_the_loaded_models_bytes(folders: Folders, tmp_path: Path) -> None:
    prepared = prepare(folders.config(tmp_path / "run"))
    generator, critic = build.load(prepared)
    assert generator.spec == prepared.spec
    parts = {"generator": generator.footprint(prepared.spec), "critic": critic.footprint(prepared.spec)}
    assert prepared.memory.parts == parts


def test_an_existing_run_is_not_overwritten(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    config = folders.config(tmp_path / "run", settings={"loop.loops": 0, "limit": 1})
    with build_run(config):
        pass
    before = (tmp_path / "run" / "config.toml").read_bytes()
    with pytest.raises(StoreError, match="already holds a run"):
        build_run(folders.config(tmp_path / "run"))
    assert (tmp_path / "run" / "config.toml").read_bytes() == before


def test_a_refused_run_touches_nothing_of_another_process(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes start in one folder: the second has passed all checks when the first takes the lock."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.toml").write_text("of the first")
    with (out / "run.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="being written by another process"):
            build_run(folders.config(out, settings={"limit": 1}))
    assert (out / "config.toml").read_text() == "of the first"
    assert sorted(path.name for path in out.iterdir()) == ["config.toml", "run.lock"]


def change_weights(folder: Path) -> str:
    path = next(folder.rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    return path.relative_to(folder).as_posix()


@pytest.mark.parametrize("what", ["weights", "sidecar", "text", "prefix", "setting"])
def test_a_run_that_rests_on_something_else_is_refused_or_noted(
    own_dataset: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    script_the_critic(monkeypatch)
    generator = shutil.copytree(own_dataset.generator, tmp_path / "generator")
    own = replace(own_dataset, generator=generator)
    cut, out = Silent(interrupt=1), tmp_path / "run"
    with build_run(own.config(out)) as run, pytest.raises(KeyboardInterrupt):
        run.execute(cut)
    with RunStore.open(out, read_only=True) as store:
        (pending, *_) = store.pending()
        made = len(store.attempts(pending.id))
    says = what
    if what == "weights":
        says = f"file {change_weights(generator)} of the generator: changed"
    elif what == "sidecar":
        path = generator / "retake.json"
        path.write_text(path.read_text() + "\n")
        says = "file retake.json of the generator: changed"
    elif what == "text":
        table = next(own.dataset.rglob("descriptions.csv"))
        table.write_text(table.read_text().replace(pending.text, pending.text + " again"))
        says = f"text of scenario {pending.id}"
    elif what == "prefix":
        frames = np.zeros((24, 32, 32, 3), np.uint8)
        write_mp4(pending.prefix.path, frames, 8.0)
        says = f"prefix of scenario {pending.id}"
    else:
        config = out / "config.toml"
        config.write_text(config.read_text().replace("seed = 0", "seed = 1"))
        says = "setting loop.seed: 0, now 1"
    with pytest.raises(StoreError, match=re.escape(says)) as error:
        resume_run(out)
    assert "--accept-changes" in error.value.fix
    if what == "weights":
        return  # damaged on purpose: it cannot be loaded
    with resume_run(out, accept_changes=True) as run:
        run.execute(Silent())
    (note,) = json.loads((out / "manifest.json").read_text())["resumed"]
    assert says in note["changes"] and note["attempts_before"][pending.id] == made


def test_resuming_needs_the_dataset(
    own_dataset: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    with build_run(own_dataset.config(tmp_path / "run")):
        pass
    table = next(own_dataset.dataset.rglob("descriptions.csv"))
    rows = table.read_text().splitlines()
    table.write_text("\n".join([rows[0], *rows[2:]]) + "\n")
    with pytest.raises(DatasetError, match="lacks 1 scenario of this run"):
        resume_run(tmp_path / "run")


def test_dataset_kinds(folders: Folders, tmp_path: Path) -> None:
    assert isinstance(open_dataset(folders.dataset), PhysicsIQ)
    shutil.copyfile(conditioning(folders.dataset)[0], tmp_path / "mine.mp4")
    (tmp_path / "mine.txt").write_text("A square slides.")
    assert isinstance(open_dataset(tmp_path), ClipFolder)


def test_own_clips_run(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_the_critic(monkeypatch)
    clips = tmp_path / "clips"
    clips.mkdir()
    shutil.copyfile(conditioning(folders.dataset)[0], clips / "mine.mp4")
    (clips / "mine.txt").write_text("A square slides.")
    config = folders.config(tmp_path / "run", settings={"dataset": str(clips), "loop.loops": 0})
    with build_run(config) as run:
        assert run.execute(Silent())["mine"].chosen == 0
    assert (tmp_path / "run" / "chosen" / "mine.mp4").is_file()


def test_the_folders_negative_prompt_is_used_unless_given(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    for name, given, used in (("a", None, "still"), ("b", "", ""), ("c", "blurred", "blurred")):
        settings = {"loop.loops": 0, "limit": 1, "generator.negative": given}
        with build_run(folders.config(tmp_path / name, settings=settings)) as run:
            (outcome,) = run.execute(Silent()).values()
        assert outcome.attempts[0].prompt.negative == used


def test_needs(folders: Folders, tmp_path: Path) -> None:
    needs = plan_run(folders.config(tmp_path / "run"), timed=True)
    assert (needs.num_scenarios, needs.refused, needs.num_steps) == (2, {}, 1)
    assert needs.time is not None
    assert needs.time.takes_per_scenario == 3
    assert needs.time.generate_s > 0
    assert needs.time.critique_s > 0
    assert plan_run(folders.config(tmp_path / "run"), timed=False).time is None
    best = plan_run(folders.config(tmp_path / "run", settings=BEST_OF_THREE), timed=True).time
    assert best is not None
    assert (best.takes_per_scenario, best.critiques_per_scenario) == (6, 2)
    assert not (tmp_path / "run").exists()


def test_a_job_that_finds_no_memory_gives_some_up_and_the_run_goes_on(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice: first what the allocator keeps, then the passes of the autoencoder; the manifest says so."""
    script_the_critic(monkeypatch)
    launch, seen = WanJob.launch, list[int]()

    def short_of_memory(job: WanJob) -> Any:
        if len(seen) < 2:
            seen.append(job._chunk_latents)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return launch(job)

    settings = {"loop.loops": 0, "limit": 1}
    with build_run(folders.config(tmp_path / "whole", settings=settings)) as run:
        expected = run.execute(Silent())
    monkeypatch.setattr(WanJob, "launch", short_of_memory)
    with build_run(folders.config(tmp_path / "run", settings=settings)) as run:
        outcomes = run.execute(Silent())
    assert facts(outcomes) == facts(expected), "passes of another size give the same frames"
    assert seen == [4, 4]
    (entry,) = read_manifest(tmp_path / "run" / MANIFEST)[USED]
    assert entry["relieved"] == [EMPTIED, "the autoencoder takes one latent frame at a time"]


def test_memory_is_planned_by_preset_and_by_steps(folders: Folders, tmp_path: Path) -> None:
    plans = {
        preset: prepare(folders.config(tmp_path / "run", settings={"denoise.preset": preset})).memory.parts
        for preset in PRESETS
    }
    assert plans["fast"]["critic"] == plans["exact"]["critic"]
    working = {preset: plan["generator"].working for preset, plan in plans.items()}
    assert working["fast"]["denoise step"] != working["exact"]["denoise step"]
    assert working["fast"]["autoencoder pass"] != working["exact"]["autoencoder pass"], "its passes are fused"
    steps = folders.config(tmp_path / "run", settings={"generator.steps": 5})
    needs = plan_run(steps, timed=False)
    assert needs.memory.parts != plans["exact"] and needs.num_steps == 5


def test_what_does_not_fit_is_changed_told_and_pinned(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    given = folders.config(tmp_path / "run", settings={"loop.loops": 0, "limit": 1})
    whole = prepare(given).memory
    monkeypatch.setattr(preparing, "device_budget", lambda device, vram: whole.peak_bytes)
    with build_run(given) as run:
        assert [line.partition(" saves ")[0] for line in run.changed] == ["denoise.vae_chunk = 2"]
        assert all(outcome.failure is None for outcome in run.execute(Silent()).values())
    assert read_config(tmp_path / "run").denoise.vae_chunk == 2
    manifest = read_manifest(tmp_path / "run" / MANIFEST)
    assert manifest["memory"]["changed"] == list(run.changed)
    assert manifest["memory"]["required_bytes"] <= manifest["memory"]["budget_bytes"]
    refusing = folders.config(tmp_path / "no", settings={"memory.fit": "refuse"})
    with pytest.raises(DoesNotFit, match=r"denoise\.vae_chunk = 2 saves"):
        prepare(refusing)


def test_a_quantized_critic_is_planned_smaller(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        critic_folder, "_quantization_options", lambda *arguments: {}
    )  # bitsandbytes is not needed
    spec = wan.load(folders.generator, device="cpu", dtype="fp32", with_weights=False).spec
    planned = {
        name: qwen_vl.load(
            folders.critic, device="cpu", dtype="bf16", quantization=name, with_weights=False
        ).footprint(spec)
        for name in ("none", "int8", "nf4")
    }
    language = qwen_vl.load(folders.critic, device="cpu", dtype="bf16").model.model.language_model
    num_weights = sum(m.weight.numel() for m in language.modules() if isinstance(m, torch.nn.Linear))
    saved = {name: planned["none"].held_bytes - plan.held_bytes for name, plan in planned.items()}
    assert saved["int8"] == num_weights
    assert saved["nf4"] == pytest.approx(num_weights * (2 - 0.516), rel=0.01)
