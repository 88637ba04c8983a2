"""The export pipeline: refusals before a weight is read, the keys of its steps, LoRAs and streaming."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_exportable import build_exportable, build_lora

from engine.denoise.lora import read_loras
from export import pipeline
from export.artifacts.device_identity import Machine
from export.artifacts.store import Artifact, Key, Store
from export.pipeline import Request
from export.quantization.scales import Scales
from export.spec import RECIPES, ExportError, Profile
from export.trt.library import Library, is_installed

SIZES = {"B": 1, "F": 2, "h": 4, "w": 4, "L": 24}
needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxruntime") is None,
    reason="the packages onnx and onnxruntime are not both installed",
)
needs_rtx = pytest.mark.skipif(
    not is_installed("tensorrt-rtx"), reason="the package tensorrt-rtx is not installed"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_exportable(tmp_path_factory.mktemp("model") / "generator")


def request_of(source: Path, out: Path, **changes: Any) -> Request:
    base = Request(
        source=source,
        subject="wan_dit",
        target="onnx",
        recipe="fp16",
        profiles=(Profile(name="p", sizes=SIZES),),
        out=out,
    )
    return dataclasses.replace(base, **changes)


def quiet(text: str, peak_bytes: int | None) -> None: ...


def test_strengths_follow_the_colon(tmp_path: Path) -> None:
    path = build_lora(tmp_path / "a.safetensors")
    found = read_loras([str(path), f"{path}:0.5", f"{path}:-1"])
    assert [lora.strength for lora in found] == [1.0, 0.5, -1.0]
    assert len({lora.digest for lora in found}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "onxx"}, "'onxx' is not a target; nearest: onnx"),
        ({"subject": "vae"}, "'vae' is not a subject"),
        ({"recipe": "fp4"}, "'fp4' is not a quantization recipe"),
        ({"capabilities": (89,)}, "target onnx takes no compute capability"),
        ({"target": "aoti", "capabilities": (89,)}, "target aoti takes no compute capability"),
    ],
)
def test_bad_requests_are_refused(change: dict[str, Any], message: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        pipeline.check(request_of(source, tmp_path, **change))


@needs_rtx
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capabilities": ()}, "builds for stated compute capabilities"),
        ({"capabilities": (90,)}, "cannot build for compute capability 90"),
        ({"capabilities": (89, 86), "recipe": "fp8"}, r"needs compute capability 8.9, not 8.6"),
        ({"capabilities": (89,), "recipe": "nvfp4"}, r"needs compute capability 12.0, not 8.9"),
    ],
)
def test_cards_are_checked_first(change: dict[str, Any], message: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        pipeline.check(request_of(source, tmp_path, target="tensorrt-rtx", **change))


def test_missing_packages_say_how_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ExportError, match="needs the Python package tensorrt"):
        pipeline.check(request_of(source, tmp_path, target="tensorrt"))


def test_loras_are_refused_where_they_cannot_be_merged(source: Path, tmp_path: Path) -> None:
    loras = read_loras([str(build_lora(tmp_path / "a.safetensors"))])
    for change in ({"subject": "vae_decoder"}, {"low_memory": True}):
        with pytest.raises(ExportError, match=r"LoRAs"):
            pipeline.check(request_of(source, tmp_path, loras=loras, **change))


def test_a_lora_of_step_distillation_is_not_built_in(source: Path, tmp_path: Path) -> None:
    path = build_lora(tmp_path / "a.safetensors")
    steps = '{"timesteps": [1000, 500], "timesteps_are": "after shift"}'
    (tmp_path / "a.retake.json").write_text(steps)
    with pytest.raises(ExportError, match="brings steps, which an artifact does not keep"):
        pipeline.check(request_of(source, tmp_path, loras=read_loras([str(path)])))


@pytest.mark.parametrize(
    ("target", "recipe", "needed"),
    [
        ("onnx", "fp16", False),
        ("onnx", "fp8", True),
        ("onnx", "fp8-attention", True),
        ("onnx", "int8", True),
        ("onnx", "nvfp4", True),
        ("onnx", "int4", False),
        ("aoti", "fp8", False),
    ],
)
def test_which_recipes_need_scales(
    target: str, recipe: str, needed: bool, source: Path, tmp_path: Path
) -> None:
    assert pipeline.needs_scales(request_of(source, tmp_path, target=target, recipe=recipe)) is needed


@needs_onnx
def test_without_scales_nothing_is_built(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs the magnitudes"):
        pipeline.run(request_of(source, tmp_path, recipe="fp8"), None, quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_lora_changes_digest_and_weights_but_not_the_folder(source: Path, tmp_path: Path) -> None:
    path = build_lora(tmp_path / "a.safetensors")
    plain = request_of(source, tmp_path)
    once, half = (
        dataclasses.replace(plain, loras=read_loras([f"{path}:{strength}"])) for strength in (1, 0.5)
    )
    assert len({pipeline.digest_of(one) for one in (plain, once, half)}) == 3
    assert len({pipeline.scales_path(one) for one in (plain, once, half)}) == 3
    name = "transformer.blocks.0.attn1.to_q.weight"
    before, after = (
        pipeline.subject_of(one, dtype="fp32").module.state_dict()[name] for one in (plain, once)
    )
    updates = once.loras[0].updates["blocks.0.attn1.to_q"]
    torch.testing.assert_close(after, before + updates.up @ updates.down)
    assert (
        pipeline.spec_of(once).weights_digest
        == pipeline.digest_of(once)
        != pipeline.spec_of(plain).weights_digest
    )
    assert pipeline.subject_of(once, dtype="fp16").spec.weights_digest == pipeline.digest_of(once)


@needs_onnx
@needs_rtx
def test_the_plan_names_what_a_run_makes(source: Path, tmp_path: Path) -> None:
    request = request_of(source, tmp_path, target="tensorrt-rtx", capabilities=(89, 120))
    before = pipeline.plan(request, None)
    assert [step.name for step in before] == ["onnx", "tensorrt-rtx for 89", "tensorrt-rtx for 120"]
    assert not any(step.present for step in before) and all(step.need_bytes > 0 for step in before)
    assert Store(tmp_path).list() == []
    stages: list[str] = []
    made = pipeline.run(request, None, lambda text, peak: stages.append(text))
    assert [one.folder for one in made] == [step.folder for step in before]
    assert all(step.present for step in pipeline.plan(request, None))
    assert "loading the subject" in stages and "Building engine" in stages
    assert pipeline.run(request, None, lambda text, peak: pytest.fail(f"made again: {text}")) == made


@pytest.mark.parametrize(
    ("subject", "dims"),
    [
        ("wan_dit", {"B", "F", "h", "w", "L"}),
        ("vae_decoder", {"B", "F", "h", "w", "T", "H", "W"}),
        ("text_encoder", {"B", "L"}),
    ],
)
def test_one_video_is_a_profile_of_every_subject(
    subject: str, dims: set[str], source: Path, tmp_path: Path
) -> None:
    spec = pipeline.spec_of(request_of(source, tmp_path, subject=subject))
    assert set(spec.profiles[0].sizes) == dims and spec.subject == subject
    again = request_of(source, tmp_path, subject=subject, profiles=spec.profiles)
    assert pipeline.spec_of(again) == spec
    assert spec.weights_digest == pipeline.digest_of(again)


CARD = Machine(gpu="RTX 5090", compute_capability=120, driver="590.1", cpu="x86_64 avx2")


@pytest.mark.parametrize(
    ("target", "device", "place"),
    [
        ("aoti", "cpu", {"runtime": f"torch {torch.__version__}", "device": "x86_64 avx2"}),
        ("aoti", "cuda", {"runtime": f"torch {torch.__version__}", "device": "RTX 5090, driver 590.1"}),
        ("tensorrt-rtx", "cuda", {"runtime": "tensorrt-rtx 1.7", "device": "RTX 5090, driver 590.1"}),
    ],
)
def test_the_place_of_an_artifact_is_runtime_and_device(
    target: str, device: str, place: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(target=target, module_name="m", version="1.7", needs_gpu=False, capabilities=(120,))
    monkeypatch.setattr(pipeline, "present_machine", lambda: CARD)
    monkeypatch.setattr(pipeline, "find", lambda target: library)
    made = Artifact(folder=tmp_path, key={"target": target}, digest="d", files={}, details={})
    assert pipeline.place_of(made, device) == place


@needs_onnx
def test_an_unknown_scale_has_no_name_yet(source: Path, tmp_path: Path) -> None:
    (step,) = pipeline.plan(request_of(source, tmp_path, recipe="int8"), None)
    assert step.folder is None and not step.present


@needs_onnx
def test_streamed_weights_give_the_same_graph(source: Path, tmp_path: Path) -> None:
    inputs = {
        t.name: torch.randn(t.shape(SIZES)) for t in pipeline.spec_of(request_of(source, tmp_path)).inputs
    }
    outputs = []
    for low_memory in (False, True):
        request = request_of(source, tmp_path / str(low_memory), low_memory=low_memory)
        (made,) = pipeline.run(request, None, quiet)
        outputs.append(pipeline.load_built(made, "cpu")(inputs)["velocity"])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0.0, atol=1e-3)


@needs_onnx
@needs_rtx
def test_what_is_built_of_another_layout_is_not_found(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old graph gives the same numbers, but an engine of it would be gated on other kernels."""

    def keys(recipe: str) -> list[Key]:
        request = request_of(source, tmp_path, target="tensorrt-rtx", recipe=recipe, capabilities=(89,))
        return list(pipeline._keys(request, pipeline.spec_of(request), None).values())

    new, plain = keys("int8"), keys("fp16")
    assert [key.options["layout"] for key in new] == [2, 2]
    monkeypatch.setitem(RECIPES, "int8", dataclasses.replace(RECIPES["int8"], layout=1))
    old = keys("int8")
    assert {key.digest for key in new}.isdisjoint(key.digest for key in old)
    # what was stored before there were layouts says nothing of them
    assert not any("layout" in key.options for key in (*old, *plain))
    package = request_of(source, tmp_path, target="aoti", recipe="fp8")  # which has no such graph
    assert "layout" not in pipeline._keys(package, pipeline.spec_of(package), None)["aoti for cpu"].options


def test_scales_are_kept_under_their_checkpoint(source: Path, tmp_path: Path) -> None:
    request = request_of(source, tmp_path, recipe="fp8")
    scales = Scales(
        subject="wan_dit",
        weights_digest=pipeline.digest_of(request),
        producer="test",
        num_forwards=1,
        input_amax={"a": torch.ones(3)},
        attention_amax={},
    )
    assert pipeline.keep_scales(request, scales) == pipeline.scales_path(request)
    assert pipeline.scales_path(request).is_file()
