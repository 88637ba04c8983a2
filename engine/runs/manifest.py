"""What ran, so that a figure can be traced to it: commit, machine, package versions, weights, seeds, start.

Collects facts only and decides nothing; imports no model library, and torch only where CUDA_VISIBLE_DEVICES
is set. Invariant: a fact that is not to be had is None, never a guess.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import StoreError
from engine.settings.environment import chosen_gpus
from kernels.files import file_digest, read_json, whole_file

MANIFEST = "manifest.json"
Digest = Callable[[Path], str]
"""A file -> its sha256 in hex."""
MANIFEST_VERSION = 2
"""2: model folders are digested whole, and the prefixes too."""
WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf"})
MODEL_SUFFIXES = WEIGHT_SUFFIXES | {".json", ".txt", ".model", ".jinja"}
"""What a model is loaded from: also its settings, tokenizer, processor and chat template."""
_RESTORE = "restore the file, or delete it: a report then leaves it out, resuming asks first"
PACKAGES = (
    "retake-engine",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "tokenizers",
    "numpy",
    "av",
    "opencv-python-headless",
    "bitsandbytes",
    "triton",
    "xformers",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "tensorrt-rtx",
)


def surroundings() -> dict[str, Any]:
    """Code, machine and packages, the same for every run of a process; asks git and the driver, which may
    take a second."""
    return {
        "code": code_state(Path(__file__).resolve().parents[2]),
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cpu": cpu_model(),
            "gpus": gpus(),
        },
        "packages": package_versions(),
    }


def collect(
    config: Mapping[str, Any],
    models: Mapping[str, Path],
    *,
    seeds: Mapping[str, int],
    argv: Sequence[str],
    digest: Digest = file_digest,
    around: Callable[[], Mapping[str, Any]] = surroundings,
) -> dict[str, Any]:
    """The manifest of a run that starts now; `models` are folders by role, digested whole by `digest`."""
    return {
        "manifest_version": MANIFEST_VERSION,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "argv": list(argv),
        **around(),
        "models": {
            role: {"folder": str(folder), "sha256": model_digests(folder, digest)}
            for role, folder in models.items()
        },
        "seeds": dict(seeds),
        "config": dict(config),
    }


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """JSON, whole or not at all."""
    text = json.dumps(manifest, indent=2, default=str, allow_nan=False) + "\n"
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def read_manifest(path: Path) -> dict[str, Any]:
    """Empty where there is none; keys that we do not know are kept. StoreError where it is no manifest."""
    if not path.is_file():
        return {}
    try:
        manifest = read_json(path)
    except ValueError as error:
        raise StoreError(f"{path} is not JSON: {error}", fix=_RESTORE) from error
    if fault := _fault(manifest):
        raise StoreError(f"{path} is no manifest: {fault}", fix=_RESTORE)
    if manifest.get("manifest_version", 1) > MANIFEST_VERSION:
        raise StoreError(
            f"{path} has version {manifest['manifest_version']}; this retake reads up to {MANIFEST_VERSION}",
            fix="use the retake that made this run, or a newer one",
        )
    found: dict[str, Any] = manifest
    return found


def _fault(manifest: Any) -> str | None:
    """What is not as `collect` writes it; what is absent is of an older version."""
    if not isinstance(manifest, dict):
        return f"it holds {type(manifest).__name__}, not an object"
    version = manifest.get("manifest_version", 1)
    if type(version) is not int or version < 1:
        return f"manifest_version is {version!r}"
    for key in (
        "code",
        "machine",
        "packages",
        "models",
        "seeds",
        "config",
        "prefixes",
        "resolved",
        "denoiser",
    ):
        if not isinstance(manifest.get(key, {}), dict):
            return f"{key} is no object"
    for key in ("packages", "prefixes"):
        if not all(isinstance(value, str) for value in manifest.get(key, {}).values()):
            return f"{key} holds what is no text"
    for role, model in manifest.get("models", {}).items():
        if not isinstance(model, dict) or not isinstance(model.get("sha256"), dict):
            return f"the {role} has no digests"
    for key in ("resumed", "merged"):
        entries = manifest.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            return f"{key} is no list of objects"
    return None


def code_state(root: Path) -> dict[str, Any]:
    """Commit and whether the tree differs from it; both None for an installed copy without a repository.

    The repository must be rooted at `root`: an environment inside somebody's checkout says nothing of us.
    """
    top = _output("git", "-C", str(root), "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return {"commit": None, "dirty": None}
    status = _output("git", "-C", str(root), "status", "--porcelain")
    return {
        "commit": _output("git", "-C", str(root), "rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
    }


def gpus() -> list[dict[str, str]]:
    """Name, driver, compute capability and memory of each NVIDIA GPU that this process may use, as the
    driver states them."""
    fields = ("name", "driver_version", "compute_cap", "memory.total")
    listing = _output("nvidia-smi", f"--query-gpu=uuid,{','.join(fields)}", "--format=csv,noheader")
    if listing is None:
        return []
    visible = _visible_uuids()
    rows = [[cell.strip() for cell in line.split(",")] for line in listing.splitlines()]
    return [
        dict(zip(fields, cells, strict=True))
        for uuid, *cells in rows
        if visible is None or uuid.removeprefix("GPU-") in visible
    ]


def _visible_uuids() -> set[str] | None:
    """Of the GPUs that CUDA_VISIBLE_DEVICES leaves; None where it hides none.

    CUDA is asked, since its indices count in another order than the driver's listing.
    """
    if chosen_gpus() is None:
        return None
    import torch

    return {str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())}


def cpu_model() -> str | None:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def package_versions() -> dict[str, str]:
    """The installed ones of `PACKAGES`; a package that is missing is absent."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def model_files(folder: Path) -> list[Path]:
    """Every file below `folder` that a model is loaded from, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix in MODEL_SUFFIXES and path.is_file())


def model_digests(folder: Path, digest: Digest = file_digest) -> dict[str, str]:
    """sha256 of each of `model_files`, by relative path."""
    return {path.relative_to(folder).as_posix(): digest(path) for path in model_files(folder)}


def weight_digests(folder: Path, digest: Digest = file_digest) -> dict[str, str]:
    """Of weights alone."""
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for path in model_files(folder)
        if path.suffix in WEIGHT_SUFFIXES
    }


def _output(program: str, *arguments: str) -> str | None:
    """What the program printed; None when there is no such program or it failed."""
    if shutil.which(program) is None:
        return None
    command = [program, *arguments]  # of a caller in this file
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # nosec B603
    return done.stdout.strip() if done.returncode == 0 else None
