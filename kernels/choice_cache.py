"""A decision between kernels on disk, under a name that changes with everything that could change it.

Knows no kernel. Invariant: a file that is damaged or of another key is never used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from kernels import timing
from kernels.autotune import Tiles
from kernels.files import whole_file

if TYPE_CHECKING:
    from kernels.descriptors import AttentionProblem

log = logging.getLogger(__name__)

LIBRARIES = ("fa3_fwd", "nvidia-cudnn-frontend", "xformers", "triton", "comfy-kitchen")
"""Distributions whose version changes what is fastest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a choice consists of, without the function itself."""

    name: str
    ms: Mapping[str, float]
    reasons: Mapping[str, str]
    tiles: Tiles | None = None


def path(
    folder: Path, problem: AttentionProblem, wanted: Sequence[str], accuracy: Sequence[str], package: str
) -> Path:
    """Where the decision of this problem, machine, software and source lies."""
    known = {
        "problem": dataclasses.asdict(problem),
        "wanted": list(wanted),
        "accuracy": sorted(accuracy),
        "machine": timing.machine(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "source": source_digest(package),
    }
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    return folder / f"attention-{digest[:24]}.json"


def read(path: Path) -> Decision | None:
    """None when there is no such file or it holds no decision."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        tiles = document["tiles"]
        return Decision(
            name=document["name"],
            ms=document["ms"],
            reasons=document["reasons"],
            tiles=None if tiles is None else Tiles(**tiles),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("kernel choice %s is not readable and made again: %s", path, error)
        return None


def write(path: Path, decision: Decision) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(dataclasses.asdict(decision), indent=1), encoding="utf-8")


def source_digest(package: str) -> str:
    """Of the Python files of `package` and of those beside this one."""
    module = importlib.import_module(package)
    folders = [Path(__file__).parent, *map(Path, module.__path__)]
    digest = hashlib.sha256()
    for file in sorted(file for folder in folders for file in folder.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "none"
