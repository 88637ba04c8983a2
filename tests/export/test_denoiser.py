"""Which artifact serves a run: by folder or by target, the newest that fits, and every reason against one."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_wan import build_folder

from export import denoiser
from export.artifacts import places
from export.artifacts.store import MANIFEST, Artifact, Store, make_key
from export.artifacts.weights import folder_digest
from export.denoiser import Needs
from export.forms import PREFIX_SPARSE, Form
from export.pipeline import TARGETS
from export.spec import ExportError, ExportSpec, Profile, spec_from_record
from export.subjects import wan_dit
from export.subjects._loading import component_folder
from export.targets import onnx

SIZES = {"F": 3, "h": 4, "w": 4, "L": 24}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder(tmp_path_factory.mktemp("model") / "generator")


@pytest.fixture(scope="module")
def spec(checkpoint: Path) -> ExportSpec:
    profile = Profile(name="p", sizes=SIZES | {"B": 1})
    return wan_dit.prepare(checkpoint, profiles=(profile,), dtype="fp32", with_weights=False).spec


@pytest.fixture(autouse=True)
def runnable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs of this file are empty, so that only what is in the manifest decides."""
    monkeypatch.setattr(onnx, "require_runnable", lambda folder, device: {})


def needs(checkpoint: Path, **changes: Any) -> Needs:
    return dataclasses.replace(
        Needs(checkpoint=checkpoint, sizes=SIZES, single_rows=True, device="cpu"), **changes
    )


def stored(root: Path, spec: ExportSpec, *, age_s: int = 0, **changes: Any) -> Artifact:
    def build(folder: Path) -> Mapping[str, Any]:
        (folder / "file").write_bytes(b"x")
        return {}

    given: dict[str, Any] = {"recipe": "fp16", "scales": None, "target": "onnx", "library": "1"} | changes
    made = Store(root).store(make_key(spec, **given), build, need_bytes=1)
    path = made.folder / MANIFEST
    os.utime(path, (2e9 - age_s, 2e9 - age_s))
    return made


def with_profiles(spec: ExportSpec, *sizes: Mapping[str, int]) -> ExportSpec:
    profiles = tuple(Profile(name=f"p{n}", sizes=SIZES | {"B": 1} | one) for n, one in enumerate(sizes))
    return dataclasses.replace(spec, profiles=profiles)


def test_a_folder_is_taken_as_it_is(checkpoint: Path, spec: ExportSpec, tmp_path: Path) -> None:
    made = stored(tmp_path, spec)
    assert denoiser.find(str(made.folder), tmp_path / "elsewhere", needs(checkpoint)) == made
    assert denoiser.describe(made) == {
        "target": "onnx",
        "recipe": "fp16",
        "artifact": made.folder.name,
        "artifact_digest": made.digest,
        "built_by": "onnx: 1",
    }


def test_a_target_is_the_newest_of_it_that_fits(checkpoint: Path, spec: ExportSpec, tmp_path: Path) -> None:
    stored(tmp_path, spec, age_s=30)
    wanted = stored(tmp_path, spec, age_s=20, library="2")
    foreign = dataclasses.replace(spec, weights_digest="sha256:foreign")
    stored(tmp_path, foreign, age_s=10)
    stored(tmp_path, with_profiles(spec, {"F": 9}), age_s=5)
    stored(tmp_path, spec, age_s=4, loras=(("a" * 64, 0.5),))
    stored(tmp_path, spec, age_s=3, target="aoti")
    assert denoiser.find("onnx", tmp_path, needs(checkpoint)) == wanted


def test_what_was_put_elsewhere_is_found(checkpoint: Path, spec: ExportSpec, tmp_path: Path) -> None:
    store, other, gone = tmp_path / "store", tmp_path / "other\udcff", tmp_path / "gone"
    stored(store, spec, age_s=30)
    for place in (other, other, gone, store):
        places.note(store, place)
    wanted = stored(other, spec, age_s=20)
    assert places.places(store) == [store, other]
    assert denoiser.find("onnx", store, needs(checkpoint)) == wanted
    with pytest.raises(ExportError, match=r"no aoti artifact in .*store, .*other"):
        denoiser.find("aoti", store, needs(checkpoint))


def test_none_that_fits_is_said_with_each_reason(checkpoint: Path, spec: ExportSpec, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is none of this target") as caught:
        denoiser.find("onnx", tmp_path, needs(checkpoint))
    assert f"retake export {checkpoint} --target onnx" in caught.value.fix
    stored(tmp_path, dataclasses.replace(spec, weights_digest="sha256:foreign"))
    stored(tmp_path, spec, loras=(("a" * 64, 0.5),))
    for frames in range(5, 9):
        stored(tmp_path, with_profiles(spec, {"F": frames}))
    with pytest.raises(ExportError, match="and 2 more") as caught:
        denoiser.find("onnx", tmp_path, needs(checkpoint))
    assert caught.value.problem.count("wan_dit-fp16-onnx-here-") == denoiser.MAX_LISTED


def test_a_damaged_artifact_hides_no_other(checkpoint: Path, spec: ExportSpec, tmp_path: Path) -> None:
    damaged = stored(tmp_path, spec, recipe="int8").folder
    (damaged / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(ExportError, match=f"no onnx artifact.*{damaged.name}.*is damaged"):
        denoiser.find("onnx", tmp_path, needs(checkpoint))
    made = stored(tmp_path, spec)
    assert denoiser.find("onnx", tmp_path, needs(checkpoint)) == made


@pytest.mark.parametrize(
    ("sizes", "single_rows", "fits"),
    [
        ({}, True, True),
        ({"L": 32}, True, True),  # shorter texts are padded and masked
        ({"L": 16}, True, False),
        ({"w": 6}, True, False),
        ({"B": 2}, True, False),
        ({"B": 2}, False, True),
    ],
)
def test_the_shape_decides(
    sizes: dict[str, int], single_rows: bool, fits: bool, checkpoint: Path, spec: ExportSpec, tmp_path: Path
) -> None:
    folder = str(stored(tmp_path, with_profiles(spec, {"F": 1}, sizes)).folder)
    asked = needs(checkpoint, single_rows=single_rows)
    if fits:
        assert str(denoiser.find(folder, tmp_path, asked).folder) == folder
    else:
        with pytest.raises(ExportError, match="the video needs"):
            denoiser.find(folder, tmp_path, asked)


def test_loras_are_taken_by_folder_and_written_down(
    checkpoint: Path, spec: ExportSpec, tmp_path: Path
) -> None:
    loras = (("c" * 64, 0.5),)
    merged = dataclasses.replace(spec, weights_digest=f"{spec.weights_digest}+{'c' * 64}*0.5")
    made = stored(tmp_path, merged, loras=loras)
    assert denoiser.find(str(made.folder), tmp_path, needs(checkpoint)) == made
    assert denoiser.describe(made)["loras"] == f"{'c' * 16} at 0.5"


def test_what_is_no_denoiser_is_refused(checkpoint: Path, spec: ExportSpec, tmp_path: Path) -> None:
    decoder = stored(tmp_path, dataclasses.replace(spec, subject="vae_decoder"))
    record = spec.record()
    record["inputs"][1]["dims"] = ["B"]
    single = stored(tmp_path, spec_from_record(record))
    for made, reason in ((decoder, "it is a vae_decoder"), (single, "one timestep for all frames")):
        with pytest.raises(ExportError, match=reason):
            denoiser.find(str(made.folder), tmp_path, needs(checkpoint))
    with pytest.raises(ExportError, match="is no artifact"):
        denoiser.find(str(tmp_path), tmp_path, needs(checkpoint))
    with pytest.raises(ExportError, match="neither a folder nor a target") as caught:
        denoiser.find("openvino", tmp_path, needs(checkpoint))
    assert all(target in caught.value.fix for target in TARGETS)


def test_what_cannot_run_here_is_refused(
    checkpoint: Path, spec: ExportSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, device: str) -> None:
        raise ExportError(f"no {device} here", fix="none")

    monkeypatch.setattr(onnx, "require_runnable", refuse)
    for wanted in (str(stored(tmp_path, spec).folder), "onnx"):
        with pytest.raises(ExportError, match="no cuda here"):
            denoiser.find(wanted, tmp_path, needs(checkpoint, device="cuda"))
    engine = stored(tmp_path, spec, target="tensorrt-rtx", capabilities=(120,))
    with pytest.raises(ExportError, match="runs on a GPU, not on cpu"):
        denoiser.find(str(engine.folder), tmp_path, needs(checkpoint))


def test_the_digest_is_that_of_the_weights(checkpoint: Path, spec: ExportSpec) -> None:
    assert spec.weights_digest == folder_digest(component_folder(checkpoint, "transformer"))
    assert json.dumps(spec.record())


def in_form(spec: ExportSpec, form: Form) -> ExportSpec:
    return dataclasses.replace(spec, form=form)


def test_a_sparse_package_is_taken_by_its_folder_alone(
    checkpoint: Path, spec: ExportSpec, tmp_path: Path
) -> None:
    form = Form(attention=PREFIX_SPARSE, prefix_frames=2)
    made = stored(tmp_path, in_form(spec, form))
    two = needs(checkpoint, prefix_frames=2)
    assert denoiser.find(str(made.folder), tmp_path, two) == made
    assert denoiser.describe(made)["form"] == str(form)
    with pytest.raises(ExportError, match=f"its attention is {PREFIX_SPARSE}"):
        denoiser.find("onnx", tmp_path, two)
    with pytest.raises(ExportError, match="the run has 1 latent frame of prefix"):
        denoiser.find(str(made.folder), tmp_path, needs(checkpoint, prefix_frames=1))


def test_a_package_looks_at_its_prefix_as_the_model_does(
    checkpoint: Path, spec: ExportSpec, tmp_path: Path
) -> None:
    made = stored(tmp_path, in_form(spec, Form(own_prefix=True, prefix_frames=2)))
    with pytest.raises(ExportError, match="its prefix looks at itself alone, the model's at everything"):
        denoiser.find(str(made.folder), tmp_path, needs(checkpoint, prefix_frames=2))
