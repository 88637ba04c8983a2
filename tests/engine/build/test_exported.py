"""A run denoised by an exported form: the same takes, what is refused, falling back, resuming."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_export_store import build_graph, perturb
from tiny_run import Folders, Silent, make_folders, script_the_critic
from tiny_wan import edit
from typer.testing import CliRunner

from engine import cli
from engine.api.takes import finish
from engine.build import run as build
from engine.build.exported import DIGEST, FALLBACK
from engine.build.prepare import prepare
from engine.build.run import build_run, resume_run
from engine.errors import ConfigError, RetakeError, StoreError
from engine.generators.wan import generator as wan
from engine.machine.outline import bytes_of
from engine.settings.config import read_config
from engine.types import Frames, Prompt
from export.artifacts.store import text_digest

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the packages onnx, onnxruntime and onnxscript are not all installed",
)

AROUND: dict[str, object] = {
    "denoise.cfg_gate": 0.5,
    "denoise.step_cache": 0.3,
    "denoise.step_cache_by": "even",
    "denoise.early_stop": 0.5,
    "denoise.vae": "fused",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def graph(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_graph(folders.generator, tmp_path_factory.mktemp("exports"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def frames(folders: Folders, out: Path, settings: dict[str, object]) -> tuple[Frames, Any]:
    """Of the first scenario, and the generator."""
    prepared = prepare(folders.config(out, settings=settings))
    generator: Any = build.load(prepared)[0]
    scenario = prepared.scenarios[0]
    job = generator.start(scenario, Prompt(text=scenario.text, negative="still", seed=3, revision=0))
    return finish(job).frames.astype(int), generator


def other_checkpoint(folders: Folders, root: Path) -> Folders:
    shutil.copytree(folders.generator, root / "other")
    perturb(root / "other")
    return dataclasses.replace(folders, generator=root / "other")


@pytest.mark.parametrize("more", [{}, AROUND], ids=["alone", "with the parts around it"])
def test_takes_are_those_of_the_module(
    folders: Folders, graph: Path, tmp_path: Path, more: dict[str, object]
) -> None:
    guided = {"generator.steps": 6, "generator.guidance_scale": 2.0} | more
    exact, _ = frames(folders, tmp_path, guided)
    found, generator = frames(folders, tmp_path, guided | {"denoise.engine": str(graph)})
    assert np.abs(found - exact).max() <= 1 and exact.std() > 1
    assert next(generator.parts.transformer.parameters()).is_meta, "its weights are not read"
    assert not next(generator.parts.vae.parameters()).is_meta
    if more:
        gateless, _ = frames(
            folders,
            tmp_path,
            guided | {"denoise.engine": str(graph), **dict.fromkeys(("denoise.cfg_gate",), 1.0)},
        )
        assert not np.array_equal(found, gateless), "the parts have an effect"


def test_a_run_writes_down_what_denoised_it(folders: Folders, graph: Path, tmp_path: Path) -> None:
    with build_run(folders.config(tmp_path / "run", settings={"denoise.engine": str(graph)})) as run:
        assert run.warning is None
        outcomes = run.execute(Silent())
    assert all(outcome.failure is None for outcome in outcomes.values())
    notes = json.loads((tmp_path / "run" / "manifest.json").read_text())["denoiser"]
    artifact = json.loads((graph / "artifact.json").read_text())
    assert (notes["target"], notes["recipe"], notes["artifact"]) == ("onnx", "fp16", graph.name)
    assert notes[DIGEST] == artifact["digest"] and notes["forward"] == "exported"
    assert "onnxscript" in notes["built_by"]


def test_a_target_means_the_newest_that_fits_and_is_pinned(
    folders: Folders, graph: Path, tmp_path: Path
) -> None:
    config = folders.config(tmp_path / "run", settings={"denoise.engine": "onnx"})
    with pytest.raises(RetakeError, match="there is none of this target"):
        build_run(config)
    assert not (tmp_path / "run").exists()
    stored = tmp_path / "cache" / "retake" / "exports" / graph.name
    shutil.copytree(graph, stored)
    build_run(config).__exit__(None, None, None)
    assert read_config(tmp_path / "run").denoise.engine == str(stored)


def test_what_an_engine_holds_for_its_steps_is_planned_instead_of_a_step(
    folders: Folders, graph: Path, tmp_path: Path
) -> None:
    """TensorRT is given the memory of its largest profile once."""
    config = folders.config(tmp_path / "run", settings={"denoise.engine": str(graph)})
    found = prepare(config).exported
    assert found is not None and found.scratch_bytes is None
    outline = wan.load(folders.generator, device="cpu", dtype="fp32", with_weights=False)
    before = outline.footprint(outline.spec)
    details = {**found.artifact.details, "activation_bytes": [5 << 20, 7 << 20]}
    engine = dataclasses.replace(found, artifact=dataclasses.replace(found.artifact, details=details))
    assert engine.scratch_bytes == 7 << 20
    outline.denoiser_bytes, outline.scratch_bytes = 1 << 20, engine.scratch_bytes
    after = outline.footprint(outline.spec)
    assert after.held["denoiser's scratch"] == 7 << 20 and after.held["transformer"] == 1 << 20
    assert after.working["denoise step"] < before.working["denoise step"]


def test_the_weights_of_the_artifact_are_planned_instead_of_the_modules(
    folders: Folders, graph: Path, tmp_path: Path
) -> None:
    plain = prepare(folders.config(tmp_path / "run"))
    built = prepare(folders.config(tmp_path / "run", settings={"denoise.engine": str(graph)}))
    size = sum(path.stat().st_size for path in graph.iterdir() if path.name != "artifact.json")
    assert built.exported is not None and built.exported.num_bytes == size
    assert plain.exported is None
    own, form = (one.memory.parts["generator"].held_bytes for one in (plain, built))
    outline = wan.load(folders.generator, device="cpu", dtype="fp32", with_weights=False)
    assert form - size == own - bytes_of(outline.parts.transformer) > 0


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"denoise.linear": "int8"}, "linear"),
        ({"denoise.attention": ["sdpa_math"]}, "attention"),
        ({"denoise.compile": "on"}, "compile"),
        ({"denoise.graphs": "on"}, "graphs"),
        ({"denoise.forward": "fast"}, "forward"),
        ({"denoise.prefix_kept": 0.2}, "prefix_kept"),
        ({"denoise.preset": "fastest"}, "quantized_attention"),
    ],
)
def test_parts_of_the_modules_forward_are_refused(
    folders: Folders, graph: Path, tmp_path: Path, settings: dict[str, object], part: str
) -> None:
    config = folders.config(tmp_path / "run", settings=settings | {"denoise.engine": str(graph)})
    for allowed in (False, True):  # no fallback from a contradiction
        given = dataclasses.replace(config.denoise, allow_fallback=allowed)
        with pytest.raises(ConfigError, match=f"{part}.* cannot be had with it") as caught:
            prepare(dataclasses.replace(config, denoise=given))
        assert "--preset exact" in caught.value.fix


def test_another_checkpoint_is_refused_unless_the_user_allows_to_fall_back(
    folders: Folders, graph: Path, tmp_path: Path
) -> None:
    other = other_checkpoint(folders, tmp_path)
    settings: dict[str, object] = {"denoise.engine": str(graph)}
    with pytest.raises(RetakeError, match="it is of weights sha256"):
        build_run(other.config(tmp_path / "run", settings=settings))
    assert not (tmp_path / "run").exists()
    settings["denoise.allow_fallback"] = True
    with build_run(other.config(tmp_path / "run", settings=settings)) as run:
        assert run.warning is not None and "it is of weights sha256" in run.warning
    notes = json.loads((tmp_path / "run" / "manifest.json").read_text())["denoiser"]
    assert notes["forward"] == "library" and notes[FALLBACK] == run.warning and DIGEST not in notes
    assert read_config(tmp_path / "run").denoise.engine == "", "a resumed run stays with the module"
    exact, _ = frames(other, tmp_path, {})
    assert np.array_equal(frames(other, tmp_path, settings)[0], exact)


def test_a_graph_that_cannot_be_opened_is_found_before_the_run(
    folders: Folders, graph: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(graph, tmp_path / "broken"))
    (broken / "model.onnx.data").write_bytes(b"short")
    settings: dict[str, object] = {"denoise.engine": str(broken)}
    with pytest.raises(RetakeError, match="has 5 bytes, stored were"):
        build_run(folders.config(tmp_path / "run", settings=settings))
    with build_run(
        folders.config(tmp_path / "run", settings=settings | {"denoise.allow_fallback": True})
    ) as run:
        assert "has 5 bytes, stored were" in str(run.warning)


def test_another_video_and_another_device_are_refused(folders: Folders, graph: Path, tmp_path: Path) -> None:
    longer = Path(shutil.copytree(folders.generator, tmp_path / "longer"))
    edit(longer, "retake.json", num_frames=44)
    other = dataclasses.replace(folders, generator=longer)
    with pytest.raises(RetakeError, match=r"the video needs .*'F': 18"):
        prepare(other.config(tmp_path / "run", settings={"denoise.engine": str(graph)}))
    with pytest.raises(RetakeError, match="neither a folder nor a target") as caught:
        prepare(folders.config(tmp_path / "run", settings={"denoise.engine": "tensort"}))
    assert "tensorrt-rtx" in caught.value.fix


def test_a_resumed_run_keeps_its_artifact_wherever_it_is(
    folders: Folders, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    place = Path(shutil.copytree(graph, tmp_path / "here"))
    config = folders.config(tmp_path / "run", settings={"denoise.engine": str(place)})
    with build_run(config) as run, pytest.raises(KeyboardInterrupt):
        run.execute(Silent(interrupt=1))
    place.rename(tmp_path / "there")
    with pytest.raises(RetakeError, match="neither a folder nor a target"):
        resume_run(tmp_path / "run")
    changed = json.loads((tmp_path / "there" / "artifact.json").read_text())
    other = Path(shutil.copytree(tmp_path / "there", tmp_path / "other"))
    key = changed["key"] | {"library": "another"}
    digest = text_digest(json.dumps(key, sort_keys=True, separators=(",", ":")))
    (other / "artifact.json").write_text(json.dumps(changed | {"key": key, "digest": digest}))
    told = f"artifact {changed['digest'][:16]}, which artifact {digest[:16]}"
    with pytest.raises(StoreError, match=told):
        resume_run(tmp_path / "run", denoiser=str(other))
    with resume_run(tmp_path / "run", denoiser=str(tmp_path / "there")) as run:
        assert all(outcome.failure is None for outcome in run.execute(Silent()).values())


def test_a_run_of_the_module_is_not_resumed_with_an_artifact(
    folders: Folders, graph: Path, tmp_path: Path
) -> None:
    with build_run(folders.config(tmp_path / "run")) as run, pytest.raises(KeyboardInterrupt):
        run.execute(Silent(interrupt=1))
    with pytest.raises(StoreError, match="started with the generator's own denoiser") as caught:
        resume_run(tmp_path / "run", denoiser=str(graph))
    assert "without --denoiser" in caught.value.fix


def test_from_the_command_line(folders: Folders, graph: Path, tmp_path: Path) -> None:
    def call(*more: object, status: int = 0) -> str:
        models = ("--generator", folders.generator, "--critic", folders.critic, "--device", "cpu")
        arguments = ("run", folders.dataset, *models, "--dtype", "fp32", "--loops", 0, "--limit", 1, *more)
        result = CliRunner().invoke(cli.app, list(map(str, arguments)))
        assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
        return " ".join(result.output.replace("│", " ").split())

    assert "1 of 1 scenario done" in call("--denoiser", graph, "--out", tmp_path / "a")
    assert read_config(tmp_path / "a").denoise.engine == str(graph)
    refused = call("--denoiser", "onnx", "--out", tmp_path / "b", status=2)
    assert "there is none of this target" in refused and "Traceback" not in refused
    told = call("--denoiser", "onnx", "--allow-fallback", "--out", tmp_path / "c")
    assert "Fallback" in told and "onnx was asked for and is not used" in told
    for verb in ("run", "demo", "resume"):
        assert "--denoiser" in CliRunner().invoke(cli.app, [verb, "--help"]).output
