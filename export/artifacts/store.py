"""The store of what was built: a folder for each key, and the key is the digest of all that changes the bits.

Knows no target. Invariants: a folder is there whole or not at all; nothing is opened whose manifest differs
from what is asked for, or that belongs to another machine, library or checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from export.artifacts.device_identity import Machine
from export.spec import ExportError, ExportSpec
from kernels.files import file_digest, read_json

EXPORTER_VERSION: Final = 2
"""Raised with every change of the exporter that changes what is built of the same inputs."""

MANIFEST: Final = "artifact.json"


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
        text = json.dumps(self.record(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return text_digest(text)

    @property
    def folder_name(self) -> str:
        """Readable in front, unique behind."""
        where = "-".join(map(str, self.capabilities)) or "here"
        return f"{self.subject}-{self.recipe}-{self.target}-{where}-{self.digest[:16]}"


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
        if not folder.is_dir():
            return None
        artifact = read_artifact(folder)
        differences = _differences(artifact.key, key.record())
        assert not differences, f"{folder}: same name, other key: {differences}"
        return artifact

    def store(self, key: Key, build: Callable[[Path], Mapping[str, Any]], *, need_bytes: int) -> Artifact:
        """The artifact of `key`, built only if it is not there.

        `build` fills an empty folder and returns details (JSON values) for the manifest. Nothing is kept when
        it raises. need_bytes: free disk space without which it is not started. A second process that asks for
        the same key waits for the first and takes its result.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self._lock(key):
                return self.find(key) or self._build(key, build, need_bytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                problem = f"the disk is full: {error}; nothing was kept in {self.root}"
                raise ExportError(problem, fix="free disk space, or give another --out") from error
            if error.errno in (errno.EACCES, errno.EROFS):
                problem = f"{self.root} cannot be written: {error}"
                raise ExportError(problem, fix="make it writable, or give another --out") from error
            raise

    def list(self) -> list[Artifact]:
        """Every artifact, by name of its folder. ExportError when one is damaged."""
        if not self.root.is_dir():
            return []
        return [read_artifact(path.parent) for path in sorted(self.root.glob(f"*/{MANIFEST}"))]

    def _build(self, key: Key, build: Callable[[Path], Mapping[str, Any]], need_bytes: int) -> Artifact:
        require_space(self.root, need_bytes)
        partial = self.root / f".partial-{key.digest[:16]}"
        # Holding the lock, what lies here is of a process that was killed.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            details = dict(build(partial))
            names = sorted(str(p.relative_to(partial)) for p in partial.rglob("*") if p.is_file())
            assert names, "nothing was built"
            manifest = {
                "digest": key.digest,
                "key": key.record(),
                "files": {name: file_digest(partial / name) for name in names},
                "details": details,
            }
            text = json.dumps(manifest, indent=1, allow_nan=False) + "\n"
            (partial / MANIFEST).write_text(text, encoding="utf-8")
            folder = self.root / key.folder_name
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return read_artifact(folder)

    @contextlib.contextmanager
    def _lock(self, key: Key) -> Iterator[None]:
        with (self.root / f".lock-{key.digest[:16]}").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


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
    """The artifact in `folder`; ExportError when it is none, or a file is missing. Reads no large file."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ExportError(
            f"{folder} is no artifact: it has no {MANIFEST}",
            fix="give a folder that `retake export list` shows",
        )
    try:
        manifest = read_json(path)
        artifact = Artifact(
            folder=folder,
            key=manifest["key"],
            digest=manifest["digest"],
            files=manifest["files"],
            details=manifest["details"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{path} is damaged: {error!r}", fix="delete the folder and export again"
        ) from error
    missing = [name for name in artifact.files if not (folder / name).is_file()]
    if missing:
        raise ExportError(f"{folder} lacks {', '.join(missing)}", fix="delete the folder and export again")
    return artifact


def require_intact(artifact: Artifact) -> None:
    """ExportError when a file does not have the digest it was stored with. Reads every file."""
    for name, digest in artifact.files.items():
        found = file_digest(artifact.folder / name)
        if found != digest:
            raise ExportError(
                f"{artifact.folder / name} is damaged: sha256 {found[:16]}, stored with {digest[:16]}",
                fix="delete the folder and export again",
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


def text_digest(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
