"""What was found of an artifact stands beside it, once for each place, and never beside another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from export.artifacts import verified
from export.artifacts.store import Artifact, Store, make_key, read_artifact, require_intact
from export.spec import ExportError, ExportSpec, Profile, TensorSpec

SPEC = ExportSpec(
    subject="thing",
    inputs=(TensorSpec(name="x", dims=("B",), dtype="fp32"),),
    outputs=(TensorSpec(name="y", dims=("B",), dtype="fp32"),),
    profiles=(Profile(name="p", sizes={"B": 1}),),
    tolerance={},
    weights_digest="sha256:a",
)


def build(folder: Path) -> Mapping[str, Any]:
    (folder / "file").write_bytes(b"x")
    return {}


def artifact(root: Path, recipe: str = "fp16") -> Artifact:
    key = make_key(SPEC, recipe=recipe, scales=None, target="onnx", library="1")
    return Store(root).store(key, build, need_bytes=1)


def entry(runtime: str, **changes: Any) -> dict[str, Any]:
    made = {
        "place": {"runtime": runtime},
        "failures": [],
        "outputs": [],
        "num_forwards": 1,
        "inputs_are": "t",
    }
    return made | changes


def test_each_place_has_its_latest_entry(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    assert verified.verifications(made) == []
    for one in (entry("a"), entry("b"), entry("a", failures=["off"])):
        verified.note(made, one)
    assert verified.verifications(made) == [entry("b"), entry("a", failures=["off"])]
    require_intact(made)
    assert read_artifact(made.folder) == made  # the artifact itself is as before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ('{"schema": 9, "artifact": "", "verifications": []}', "schema 9"),
        ("[" * 10**5, "nested too deep"),
    ],
)
def test_damage_is_said_and_not_written_over(text: str, message: str, tmp_path: Path) -> None:
    made = artifact(tmp_path)
    (made.folder / verified.FILE).write_text(text)
    for use in (lambda: verified.verifications(made), lambda: verified.note(made, entry("a"))):
        with pytest.raises(ExportError, match=message):
            use()
    assert (made.folder / verified.FILE).read_text() == text


def test_an_entry_of_another_artifact_is_refused(tmp_path: Path) -> None:
    one, other = artifact(tmp_path), artifact(tmp_path, "int8")
    verified.note(one, entry("a"))
    shutil.copy(one.folder / verified.FILE, other.folder)
    with pytest.raises(ExportError, match=f"is of artifact {one.digest[:16]}"):
        verified.verifications(other)


@pytest.mark.parametrize("wrong", [3, {}, entry("a", place="here"), entry("a", failures="none")])
def test_an_entry_that_is_none_is_refused(wrong: Any, tmp_path: Path) -> None:
    made = artifact(tmp_path)
    document = {"schema": verified.SCHEMA, "artifact": made.digest, "verifications": [wrong]}
    (made.folder / verified.FILE).write_text(json.dumps(document))
    with pytest.raises(ExportError, match="an entry without place"):
        verified.verifications(made)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = artifact(tmp_path)
    monkeypatch.setattr(
        Path, "write_text", lambda *args, **kwargs: (_ for _ in ()).throw(PermissionError("no"))
    )
    with pytest.raises(ExportError, match="cannot be written: no"):
        verified.note(made, entry("a"))
