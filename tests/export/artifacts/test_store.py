"""The store: a key for every ingredient, nothing half-written, nothing foreign opened."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from export.artifacts import store as artifact_store
from export.artifacts.device_identity import Machine
from export.artifacts.store import (
    Key,
    Store,
    make_key,
    read_artifact,
    require_current,
    require_intact,
)
from export.spec import ExportError, ExportSpec, Profile, TensorSpec

SPEC = ExportSpec(
    subject="wan_dit",
    inputs=(TensorSpec(name="x", dims=("B", 4), dtype="fp32"),),
    outputs=(TensorSpec(name="y", dims=("B", 4), dtype="fp32"),),
    profiles=(Profile(name="p", sizes={"B": 1}),),
    tolerance={},
    weights_digest="sha256:aaaa",
)
CARD = Machine(gpu="RTX 4090", compute_capability=89, driver="580.1", cpu="x86_64 avx2")
KEY = make_key(
    SPEC,
    recipe="fp8",
    scales="s",
    target="tensorrt-rtx",
    library="1.7.1",
    capabilities=(89,),
    options={"a": 1},
)
CHANGES: list[dict[str, Any]] = [
    {"subject": "vae_decoder"},
    {"weights": "sha256:bbbb"},
    {"recipe": "int8"},
    {"scales": "other"},
    {"scales": None},
    {"spec": dataclasses.replace(SPEC, profiles=(Profile(name="p", sizes={"B": 2}),)).record()},
    {"target": "tensorrt"},
    {"library": "1.7.2"},
    {"capabilities": (120,)},
    {"capabilities": (89, 120)},
    {"machine": CARD},
    {"loras": (("sha256:l", 1.0),)},
    {"loras": (("sha256:l", 0.5),)},
    {"options": {"a": 2}},
    {"exporter": artifact_store.EXPORTER_VERSION + 1},
]


def write_plan(folder: Path) -> Mapping[str, Any]:
    (folder / "engine.plan").write_bytes(b"plan")
    (folder / "sub").mkdir()
    (folder / "sub" / "layers.json").write_text("[]", encoding="utf-8")
    return {"build_s": 1.5}


def never(folder: Path) -> Mapping[str, Any]:
    raise AssertionError("built again")


def test_every_ingredient_is_in_the_key() -> None:
    keys = [KEY, *(dataclasses.replace(KEY, **change) for change in CHANGES)]
    assert len({key.digest for key in keys}) == len(keys) == len({key.folder_name for key in keys})
    assert {field.name for field in dataclasses.fields(Key)} == {
        name for change in CHANGES for name in change
    }


@pytest.mark.parametrize("part", ["gpu", "compute_capability", "driver", "cpu"])
def test_every_fact_of_the_machine_is_in_the_key(part: str) -> None:
    here = dataclasses.replace(KEY, capabilities=(), machine=CARD)
    there = dataclasses.replace(here, machine=dataclasses.replace(CARD, **{part: None}))
    assert here.digest != there.digest


def test_the_digest_does_not_depend_on_the_order_of_options() -> None:
    one, two = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert dataclasses.replace(KEY, options=one).digest == dataclasses.replace(KEY, options=two).digest


def test_what_was_stored_is_found_and_not_built_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.find(KEY) is None and store.list() == []
    made = store.store(KEY, write_plan, need_bytes=1)
    assert made.details == {"build_s": 1.5} and set(made.files) == {"engine.plan", "sub/layers.json"}
    assert made.num_bytes == 6 and made.file("engine.plan").read_bytes() == b"plan"
    assert store.store(KEY, never, need_bytes=1) == made == store.find(KEY)
    assert store.find(dataclasses.replace(KEY, weights="other")) is None
    assert store.list() == [made]
    require_intact(made)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        write_plan(folder)
        raise ExportError("a gate failed", fix="none")

    store = Store(tmp_path)
    with pytest.raises(ExportError, match="a gate failed"):
        store.store(KEY, fail, need_bytes=1)
    assert store.find(KEY) is None and [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
    assert store.store(KEY, write_plan, need_bytes=1).files


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / f".partial-{KEY.digest[:16]}"
    left.mkdir()
    (left / "engine.plan").write_bytes(b"half")
    made = Store(tmp_path).store(KEY, write_plan, need_bytes=1)
    assert made.file("engine.plan").read_bytes() == b"plan" and not left.exists()


def test_too_little_disk_space_is_refused_before_building(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the export needs about 1000000"):
        Store(tmp_path).store(KEY, never, need_bytes=10**15)


@pytest.mark.parametrize(
    ("code", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot be written")]
)
def test_an_error_of_the_disk_is_a_clear_one(code: int, message: str, tmp_path: Path) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        (folder / "engine.plan").write_bytes(b"half")
        raise OSError(code, "as the system says")

    with pytest.raises(ExportError, match=message):
        Store(tmp_path).store(KEY, fail, need_bytes=1)
    assert not any(path.is_dir() for path in tmp_path.iterdir())


def test_two_that_want_the_same_build_once(tmp_path: Path) -> None:
    builds: list[float] = []

    def slow(folder: Path) -> Mapping[str, Any]:
        builds.append(time.perf_counter())
        time.sleep(0.1)
        return write_plan(folder)

    store = Store(tmp_path)
    threads = [
        threading.Thread(target=store.store, args=(KEY, slow), kwargs={"need_bytes": 1}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1 and store.find(KEY) is not None


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "artifact.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.plan"
    (folder / "engine.plan").rename(outside)
    (folder / "engine.plan").symlink_to(outside)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "engine.plan").unlink(), "lacks engine.plan"),
        (lambda folder: (folder / "engine.plan").write_bytes(b"pla"), "has 3 bytes, stored were 4"),
        (link_out, "engine.plan is a link out of the artifact"),
        (lambda folder: (folder / "artifact.json").write_text("{}"), "is damaged: KeyError"),
        (lambda folder: (folder / "artifact.json").write_text("{"), "is damaged: JSONDecodeError"),
        (lambda folder: (folder / "artifact.json").write_text("[]"), "it is a list, not an object"),
        (lambda folder: (folder / "artifact.json").write_text("[" * 10**5), "it is nested too deep"),
        (
            lambda folder: (folder / "artifact.json").write_bytes(b"\xff\xfe"),
            "is damaged: JSONDecodeError",
        ),
        (lambda folder: (folder / "artifact.json").unlink(), "is no artifact"),
        (lambda folder: rewrite(folder, files=["engine.plan"]), "files is list, not dict"),
        (lambda folder: rewrite(folder, files={"../x": "0"}), "it lists a file '../x'"),
        (lambda folder: rewrite(folder, files={"/etc/passwd": "0"}), "it lists a file '/etc/passwd'"),
        (lambda folder: rewrite(folder, files={"engine.plan": 1}), "it lists a file 'engine.plan' with 1"),
        (lambda folder: rewrite(folder, digest="0" * 64), "its digest is not that of its key"),
        (lambda folder: rewrite(folder, key={"target": "onnx"}), "its key lacks capabilities, exporter"),
    ],
)
def test_a_damaged_folder_is_said_and_hides_no_other(damage: Any, message: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    whole = store.store(dataclasses.replace(KEY, recipe="int8"), write_plan, need_bytes=1)
    made = store.store(KEY, write_plan, need_bytes=1)
    damage(made.folder)
    with pytest.raises(ExportError, match=message) as caught:
        read_artifact(made.folder)
    assert caught.value.fix
    assert store.list() == [whole]
    said = [error.problem for error in store.damaged()]
    assert said == ([caught.value.problem] if (made.folder / "artifact.json").is_file() else [])
    with pytest.raises(ExportError, match=r"is damaged|is not whole|lacks|has 3 bytes|a link out"):
        store.store(KEY, never, need_bytes=1)


def test_a_manifest_of_an_older_version_has_no_sizes(tmp_path: Path) -> None:
    made = Store(tmp_path).store(KEY, write_plan, need_bytes=1)
    path = made.folder / "artifact.json"
    document = json.loads(path.read_text())
    del document["bytes"]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_artifact(made.folder) == made


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / KEY.folder_name).write_text("mine")
    with pytest.raises(ExportError, match="is not whole: it is no folder"):
        Store(tmp_path).store(KEY, never, need_bytes=1)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="file cannot be written") as caught:
        Store(tmp_path / "file").store(KEY, never, need_bytes=1)
    assert "give another --out" in caught.value.fix


def test_the_folder_of_another_key_is_not_taken(tmp_path: Path) -> None:
    made = Store(tmp_path).store(dataclasses.replace(KEY, recipe="int8"), write_plan, need_bytes=1)
    made.folder.rename(tmp_path / KEY.folder_name)
    with pytest.raises(ExportError, match="another artifact than its name says: recipe differ"):
        Store(tmp_path).store(KEY, never, need_bytes=1)


def test_a_lock_is_never_taken_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".lock-{KEY.digest[:16]}").symlink_to(victim)
    with pytest.raises(ExportError, match="cannot be written"):
        Store(tmp_path).store(KEY, never, need_bytes=1)
    assert victim.read_text() == "mine"


def test_what_killed_builds_left_goes_with_the_next_build(tmp_path: Path) -> None:
    """Of any key; what another process is building, and what is no build, stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    root = tmp_path / "store"
    for name in (".partial-dead", "..partial-dead.x1", ".partial-busy", "..partial-busy.x1", ".partial-a/b"):
        (root / name).mkdir(parents=True)
    (root / ".partial-dead" / "artifact.json").write_text("{}")
    (root / ".partial-link").symlink_to(outside)
    (root / f".partial-{KEY.digest[:16]}").symlink_to(outside)
    for name, age_s in ((".scales.0a.partial", 10**6), (".new.0b.partial", 0)):
        (root / name).write_text("half")
        os.utime(root / name, (time.time() - age_s,) * 2)
    with artifact_store._locked(root / ".lock-busy"):
        made = Store(root).store(KEY, write_plan, need_bytes=1)
    left = {path.name for path in root.iterdir() if not path.name.startswith(".lock-")}
    assert left == {made.folder.name, ".partial-busy", "..partial-busy.x1", ".new.0b.partial"}
    assert (outside / "file").read_text() == "mine"
    assert Store(root).list() == [made] and Store(root).damaged() == ()


def test_changed_bytes_are_found(tmp_path: Path) -> None:
    made = Store(tmp_path).store(KEY, write_plan, need_bytes=1)
    made.file("engine.plan").write_bytes(b"plam")
    with pytest.raises(ExportError, match=r"engine\.plan is damaged: sha256"):
        require_intact(made)


def test_an_engine_of_this_machine_is_let_through(tmp_path: Path) -> None:
    made = Store(tmp_path).store(KEY, write_plan, need_bytes=1)
    require_current(made, library="1.7.1", machine=CARD, weights="sha256:aaaa")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"library": "1.8"}, "built with tensorrt-rtx 1.7.1, installed is 1.8"),
        (
            {"machine": dataclasses.replace(CARD, compute_capability=120, gpu="RTX 5090")},
            r"for compute capability 8.9, this machine has 12.0 \(RTX 5090\)",
        ),
        (
            {"machine": Machine(gpu=None, compute_capability=None, driver=None, cpu="x")},
            r"this machine has no GPU \(None\)",
        ),
        ({"weights": "sha256:bbbb"}, "of weights sha256:aaaa, the given checkpoint has sha256:bbbb"),
    ],
)
def test_a_foreign_engine_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = Store(tmp_path).store(KEY, write_plan, need_bytes=1)
    given: dict[str, Any] = {"library": "1.7.1", "machine": CARD, **change}
    with pytest.raises(ExportError, match=message):
        require_current(made, **given)


def test_an_engine_of_another_driver_or_exporter_is_refused(tmp_path: Path) -> None:
    key = dataclasses.replace(
        KEY, capabilities=(), machine=CARD, exporter=artifact_store.EXPORTER_VERSION + 1
    )
    made = Store(tmp_path).store(key, write_plan, need_bytes=1)
    newer = dataclasses.replace(CARD, driver="590.2")
    with pytest.raises(ExportError) as caught:
        require_current(made, library="1.7.1", machine=newer)
    assert "built on driver 580.1, this machine has 590.2" in caught.value.problem
    assert f"of exporter version {artifact_store.EXPORTER_VERSION + 1}" in caught.value.problem


def test_a_copied_folder_is_still_itself(tmp_path: Path) -> None:
    made = Store(tmp_path / "a").store(KEY, write_plan, need_bytes=1)
    shutil.copytree(made.folder, tmp_path / "b")
    copied = read_artifact(tmp_path / "b")
    assert copied.digest == KEY.digest and json.loads(json.dumps(copied.key)) == KEY.record()
