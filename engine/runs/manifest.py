"""What ran, so that a figure can be traced to it: commit, machine, package versions, weights, seeds, start.

Collects facts only and decides nothing; imports neither torch nor a model library. Invariant: a fact that is
not to be had is None, never a guess.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kernels.files import file_digest, whole_file

MANIFEST_VERSION = 1
WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf"})
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


def collect(
    config: Mapping[str, Any], models: Mapping[str, Path], *, seeds: Mapping[str, int], argv: Sequence[str]
) -> dict[str, Any]:
    """The manifest of a run that starts now; `models` are folders by role, every weight file is digested."""
    return {
        "manifest_version": MANIFEST_VERSION,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "argv": list(argv),
        "code": code_state(Path(__file__).resolve().parents[2]),
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cpu": cpu_model(),
            "gpus": gpus(),
        },
        "packages": package_versions(),
        "models": {
            role: {"folder": str(folder), "sha256": weight_digests(folder)} for role, folder in models.items()
        },
        "seeds": dict(seeds),
        "config": dict(config),
    }


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """JSON, whole or not at all."""
    text = json.dumps(manifest, indent=2, default=str, allow_nan=False) + "\n"
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


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
    """Name, driver, compute capability and memory of each NVIDIA GPU, as the driver states them."""
    fields = ("name", "driver_version", "compute_cap", "memory.total")
    listing = _output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    if listing is None:
        return []
    return [
        dict(zip(fields, (cell.strip() for cell in line.split(",")), strict=True))
        for line in listing.splitlines()
    ]


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


def weight_digests(folder: Path) -> dict[str, str]:
    """sha256 of every weight file below `folder` by relative path, read in blocks."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in WEIGHT_SUFFIXES and path.is_file():
            digests[path.relative_to(folder).as_posix()] = file_digest(path)
    return digests


def _output(program: str, *arguments: str) -> str | None:
    """What the program printed; None when there is no such program or it failed."""
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
