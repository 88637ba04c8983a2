"""The store of what was built: a folder for each key, and the key is the digest of all that changes the bits.

Knows no target. Invariants: a folder is there whole or not at all; nothing is opened whose manifest differs
from what is asked for, or that belongs to another machine, library or checkpoint; no file of an artifact lies
outside its folder. Hidden entries are builds under way and their locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Final

from export.artifacts.device_identity import Machine
from export.artifacts.documents import read_document
from export.spec import ExportError, ExportSpec
from kernels.files import file_digest

EXPORTER_VERSION: Final = 2
"""Raised with every change of the exporter that changes what is built of the same inputs."""

MANIFEST: Final = "artifact.json"
AGAIN: Final = "delete the folder and export again"
ABANDONED_S: Final = 24 * 60 * 60
PARTIAL: Final = ".partial-"
LOCK: Final = ".lock-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Everything that changes what is built. Two keys are equal exactly if their digests are.

    `capabilities` for engines that are built for stated ones, else `machine`: what they were made on.
    """

    subject: str
    weights: str
    recipe: str
    scales: str | None
    spec: Mapping[str, Any]
    """`ExportSpec.record()`: inputs, outputs, profiles."""
    target: str
    library: str
    capabilities: tuple[int, ...] = ()
    machine: Machine | None = None
    loras: tuple[tuple[str, float], ...] = ()
    """(sha256 of the file, strength), in the order of merging."""
    options: Mapping[str, Any] = field(default_factory=dict)
    exporter: int = EXPORTER_VERSION

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        record: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return record

    @property
    def digest(self) -> str:
        return _digest(self.record())

    @property
    def folder_name(self) -> str:
        """Readable in front, unique behind."""
        where = "-".join(map(str, self.capabilities)) or "here"
        return f"{self.subject}-{self.recipe}-{self.target}-{where}-{_tag(self.digest)}"


def make_key(
    spec: ExportSpec,
    *,
    recipe: str,
    scales: str | None,
    target: str,
    library: str,
    capabilities: tuple[int, ...] = (),
    machine: Machine | None = None,
    loras: tuple[tuple[str, float], ...] = (),
    options: Mapping[str, Any] | None = None,
) -> Key:
    return Key(
        subject=spec.subject,
        weights=spec.weights_digest,
        recipe=recipe,
        scales=scales,
        spec=spec.record(),
        target=target,
        library=library,
        capabilities=capabilities,
        machine=machine,
        loras=loras,
        options={} if options is None else options,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A folder of the store, whose manifest was read. `details`: what the target noted of the build."""

    folder: Path
    key: Mapping[str, Any]
    digest: str
    files: Mapping[str, str]
    """Name -> sha256, of every file that was built."""
    details: Mapping[str, Any]

    def file(self, name: str) -> Path:
        assert name in self.files, f"{name} is not among {sorted(self.files)}"
        return self.folder / name

    @property
    def num_bytes(self) -> int:
        return sum((self.folder / name).stat().st_size for name in self.files)


class Store:
    """Artifacts below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: Key) -> Artifact | None:
        """The artifact of exactly this key, or None. ExportError when its folder is damaged."""
        folder = self.root / key.folder_name
        if not folder.exists() and not folder.is_symlink():
            return None
        if not (folder / MANIFEST).is_file():
            problem = f"{folder} is not whole: it is no folder with {MANIFEST}"
            raise ExportError(problem, fix="delete it and export again")
        artifact = read_artifact(folder)
        differences = _differences(artifact.key, key.record())
        if differences:
            problem = f"{folder} holds another artifact than its name says: {', '.join(differences)} differ"
            raise ExportError(problem, fix="rename it, or delete it and export again")
        return artifact

    def store(self, key: Key, build: Callable[[Path], Mapping[str, Any]], *, need_bytes: int) -> Artifact:
        """The artifact of `key`, built only if it is not there.

        `build` fills an empty folder and returns details (JSON values) for the manifest. Nothing is kept when
        it raises. need_bytes: free disk space without which it is not started. A second process that asks for
        the same key waits for the first and takes its result.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with _locked(self.root / f"{LOCK}{_tag(key.digest)}"):
                return self.find(key) or self._build(key, build, need_bytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                problem = f"the disk is full: {error}; nothing was kept in {self.root}"
                raise ExportError(problem, fix="free disk space, or give another --out") from error
            if error.errno in _NOT_WRITABLE:
                problem = f"{self.root} cannot be written: {error}"
                raise ExportError(problem, fix="make it a writable folder, or give another --out") from error
            raise

    def list(self) -> list[Artifact]:
        """Every artifact that can be read, by name of its folder."""
        return [found for found in self._survey() if isinstance(found, Artifact)]

    def damaged(self) -> tuple[ExportError, ...]:
        """What is wrong with each folder that has a manifest and cannot be read."""
        return tuple(found for found in self._survey() if isinstance(found, ExportError))

    def _survey(self) -> Iterator[Artifact | ExportError]:
        try:
            folders = sorted(self.root.iterdir()) if self.root.is_dir() else []
        except PermissionError as error:
            raise ExportError(f"{self.root} cannot be read: {error}", fix="make it readable") from error
        for folder in folders:
            if not folder.name.startswith(".") and (folder / MANIFEST).is_file():
                try:
                    yield read_artifact(folder)
                except ExportError as error:
                    yield error

    def _build(self, key: Key, build: Callable[[Path], Mapping[str, Any]], need_bytes: int) -> Artifact:
        self._sweep(key)
        require_space(self.root, need_bytes)
        partial = self.root / f"{PARTIAL}{_tag(key.digest)}"
        partial.mkdir()
        try:
            details = dict(build(partial))
            paths = sorted(path for path in partial.rglob("*") if path.is_file())
            assert paths, "nothing was built"
            names = {path.relative_to(partial).as_posix(): path for path in paths}
            manifest = {
                "digest": key.digest,
                "key": key.record(),
                "files": {name: file_digest(path) for name, path in names.items()},
                "bytes": {name: path.stat().st_size for name, path in names.items()},
                "details": details,
            }
            text = json.dumps(manifest, indent=1, allow_nan=False) + "\n"
            (partial / MANIFEST).write_text(text, encoding="utf-8")
            folder = self.root / key.folder_name
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return read_artifact(folder)

    def _sweep(self, key: Key) -> None:
        """Remove what killed builds left. Whoever builds holds the lock of its key, as the caller does; a
        single file (`whole_file`) has no lock and is written in minutes at most."""
        for path in self.root.glob(".*.partial"):
            if path.is_file() and path.stat().st_mtime < time.time() - ABANDONED_S:
                path.unlink()
        for path in [*self.root.glob(f"{PARTIAL}*"), *self.root.glob(f".{PARTIAL}*")]:
            tag = path.name.lstrip(".").removeprefix(PARTIAL.lstrip(".")).partition(".")[0]
            with contextlib.ExitStack() as held:
                if tag != _tag(key.digest):
                    try:
                        held.enter_context(_locked(self.root / f"{LOCK}{tag}", wait=False))
                    except BlockingIOError:
                        continue
                if path.is_symlink() or path.is_file():
                    path.unlink()
                else:
                    shutil.rmtree(path, ignore_errors=True)


_NOT_WRITABLE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of a key; BlockingIOError when another has it and we do not wait.

    Never through a link, which would make a lock of somebody's file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _tag(digest: str) -> str:
    return digest[:16]


def require_space(folder: Path, need_bytes: int) -> None:
    """ExportError when the disk of `folder` has fewer free bytes."""
    free = shutil.disk_usage(folder).free
    if free < need_bytes:
        raise ExportError(
            f"{folder} has {free / 1e9:.2f} GB of free disk space, "
            f"the export needs about {need_bytes / 1e9:.2f} GB",
            fix="free disk space, or give another --out",
        )


def read_artifact(folder: Path) -> Artifact:
    """The artifact in `folder`; ExportError when it is none, or a file is missing or cut off. Reads no large
    file."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ExportError(
            f"{folder} is no artifact: it has no {MANIFEST}",
            fix="give a folder that `retake export list` shows",
        )
    kinds = {"key": dict, "digest": str, "files": dict, "details": dict}
    manifest = read_document(path, kinds, fix=AGAIN)
    absent = {part.name for part in fields(Key)} - set(manifest["key"])
    if absent or _digest(manifest["key"]) != manifest["digest"]:
        told = f"its key lacks {', '.join(sorted(absent))}" if absent else "its digest is not that of its key"
        raise ExportError(f"{path} is damaged: {told}", fix=AGAIN)
    for name, digest in manifest["files"].items():
        if not isinstance(digest, str) or not _is_below(name):
            raise ExportError(f"{path} is damaged: it lists a file {name!r} with {digest!r}", fix=AGAIN)
    _require_files(folder, manifest["files"], manifest.get("bytes", {}))
    return Artifact(
        folder=folder,
        key=manifest["key"],
        digest=manifest["digest"],
        files=manifest["files"],
        details=manifest["details"],
    )


def _require_files(folder: Path, names: Mapping[str, str], sizes: Any) -> None:
    """ExportError for what is missing, is a link out of the folder, or has not the size it was stored with.

    An older version noted no sizes.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ExportError(f"{folder} lacks {', '.join(missing)}", fix=AGAIN)
    root = folder.resolve()
    for name in names:
        place, size = (folder / name).resolve(), (folder / name).stat().st_size
        if not place.is_relative_to(root):
            problem = f"{folder / name} is a link out of the artifact, to {place}"
            raise ExportError(problem, fix="put the file itself there, or export again")
        if isinstance(sizes, dict) and sizes.get(name, size) != size:
            problem = f"{folder / name} has {size} bytes, stored were {sizes[name]}"
            raise ExportError(problem, fix="copy the whole folder again, or delete it and export again")


def _is_below(name: str) -> bool:
    """Whether a name of a manifest stays in its folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def require_intact(artifact: Artifact) -> None:
    """ExportError when a file does not have the digest it was stored with. Reads every file."""
    for name, digest in artifact.files.items():
        found = file_digest(artifact.folder / name)
        if found != digest:
            raise ExportError(
                f"{artifact.folder / name} is damaged: sha256 {found[:16]}, stored with {digest[:16]}",
                fix=AGAIN,
            )


def require_current(
    artifact: Artifact,
    *,
    library: str,
    machine: Machine,
    weights: str | None = None,
) -> None:
    """ExportError that lists what differs: library, card, driver, exporter and, if given, the checkpoint."""
    key, wrong = artifact.key, []
    if key["library"] != library:
        wrong.append(f"it was built with {key['target']} {key['library']}, installed is {library}")
    if key["exporter"] != EXPORTER_VERSION:
        wrong.append(f"it is of exporter version {key['exporter']}, this is version {EXPORTER_VERSION}")
    if key["capabilities"] and machine.compute_capability not in key["capabilities"]:
        built_for = ", ".join(str(cc / 10) for cc in key["capabilities"])
        found = "no GPU" if machine.compute_capability is None else f"{machine.compute_capability / 10}"
        wrong.append(f"it is for compute capability {built_for}, this machine has {found} ({machine.gpu})")
    if key["machine"] is not None:
        for part in fields(Machine):
            then, now = key["machine"][part.name], getattr(machine, part.name)
            if then != now:
                wrong.append(f"it was built on {part.name} {then}, this machine has {now}")
    if weights is not None and key["weights"] != weights:
        wrong.append(_other_weights(key["weights"], weights))
    if wrong:
        raise ExportError(
            f"{artifact.folder.name} cannot be used here: {'; '.join(wrong)}",
            fix="export again on this machine with the same options",
        )


def require_checkpoint(artifact: Artifact, weights: str) -> None:
    """ExportError when the artifact is of another checkpoint or another set of LoRAs."""
    if artifact.key["weights"] != weights:
        raise ExportError(
            f"{artifact.folder.name} cannot be compared: {_other_weights(artifact.key['weights'], weights)}",
            fix="give the model and the LoRAs that it was made of",
        )


def _other_weights(built: str, given: str) -> str:
    return f"it is of weights {built[:23]}, the given checkpoint has {given[:23]}"


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def _digest(record: Mapping[str, Any]) -> str:
    return text_digest(json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False))


def text_digest(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
