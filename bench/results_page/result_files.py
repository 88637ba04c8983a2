"""The measurements in bench/results: read, checked for a schema this code knows, put in the page's order.

Knows no section. Invariant: a file that cannot be read whole is an error that names it, never a gap in the
page; a missing fact of the machine is left out, never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import RetakeError

Document = Mapping[str, Any]

SCHEMA = 1
KINDS_BY_NAME = ("demo_quality", "scoring", "selectors")
"""Measurements older than `kind`: the file's name says what they are."""
ORDER = (
    "demo_run",
    "end_to_end",
    "scaling",
    "overlap",
    "memory",
    "cosmos3",
    "models",
    "model_needs",
    "denoiser",
    "vlm_decode",
    "attention",
    "past_dense",
    "linear",
    "vae",
    "vae_calibration",
    "aoti",
    "export_build",
    "product_layout",
    "export_quality",
    "export_errors",
    "denoiser_quality",
    "policy",
    "world",
    "plan_confidence",
    *KINDS_BY_NAME,
    "loop_controls",
    "loop_variants",
    "critic_stages",
    "state_fit",
    "loop_budget",
    "scout_finishes",
    "faults",
    "growth",
    "demo_seconds",
)
MOVED = {
    **{
        f"bench.suites.{name}": f"bench.quality.{name}"
        for name in (
            "denoiser_quality",
            "export_calibration",
            "export_quality",
            "policy_calibration",
            "selector_quality",
        )
    },
    "bench.perf.demo_seconds": "bench.quality.demo_seconds",
    "bench.perf.vae_table": "bench.perf.vae",
    "bench.suites.export_build": "bench.perf.export_build",
    "bench.suites.scoring_check": "bench.scoring.check.compare",
}
"""What a measurement of its day was made with -> the module of today, so that a reader can repeat it."""
MACHINE_FACTS = {
    "driver": ("driver_version", "driver"),
    "compute capability": ("compute_cap",),
    "power cap": ("power_cap_w", "power_limit_w"),
    "SM clock": ("max_sm_clock_mhz", "sm_clock_mhz"),
    "Python": ("python",),
    "torch": ("torch",),
    "CUDA": ("cuda",),
    "cuDNN": ("cudnn",),
    "Triton": ("triton",),
    "diffusers": ("diffusers",),
    "NumPy": ("numpy",),
    "OpenCV": ("opencv-python-headless",),
}
"""What the page tells of a machine, and the names a manifest may have for it."""
UNITS = {"power cap": " W", "SM clock": " MHz"}


class ResultError(RetakeError):
    """A measurement file cannot be shown: unreadable, inconsistent, or of a newer schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """One measurement; `name` is the file's without its ending."""

    name: str
    kind: str
    document: Document

    @property
    def path(self) -> str:
        return f"bench/results/{self.name}.json"


def read_folder(folder: Path) -> list[ResultFile]:
    """Every measurement, by the order of kinds and then by name. ResultError for one that cannot be shown."""
    found = [read_file(path) for path in folder.glob("*.json")]
    places = {kind: place for place, kind in enumerate(ORDER)}
    return sorted(found, key=lambda file: (places.get(file.kind, len(places)), file.kind, file.name))


def read_file(path: Path) -> ResultFile:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultError(f"{path} is not JSON ({error})", fix="measure again, or remove the file") from error
    if not isinstance(document, dict):
        raise ResultError(f"{path} holds no JSON object", fix="measure again, or remove the file")
    schema = document.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise ResultError(
            f"{path} has schema {schema!r}, this version reads up to {SCHEMA}",
            fix="use the version of Retake that wrote it",
        )
    kind = document.get("kind", path.stem if path.stem in KINDS_BY_NAME else None)
    if not isinstance(kind, str):
        raise ResultError(
            f"{path} does not say what was measured",
            fix=f'give it a "kind", for example one of {", ".join(ORDER)}',
        )
    return ResultFile(name=path.stem, kind=kind, document=document)


def command_of(document: Document) -> str | None:
    """What was run, as the file says it, with modules by their names of today."""
    command = document.get("command")
    if not isinstance(command, str):
        command = " ".join(next(manifests(document), {}).get("argv") or ())
    return " ".join(MOVED.get(word, word) for word in command.split(" ")) or None


def machine_of(document: Document) -> list[str]:
    """Facts of the machine in a fixed order, each as "name value"; empty where the file has none."""
    manifest = next(manifests(document), None)
    if manifest is None:
        return []
    leaves = dict(_leaves(manifest))
    gpus = [gpu["name"] for gpu in manifest.get("machine", manifest).get("gpus", []) if "name" in gpu]
    gpus = gpus or [leaves[key] for key in ("gpu", "gpu_name") if isinstance(leaves.get(key), str)][:1]
    facts = [f"GPU {name}" for name in dict.fromkeys(gpus)]
    if leaves.get("cpu") and not gpus:
        facts.append(f"CPU {leaves['cpu']}")
    if cores := document.get("cores"):
        facts.append(f"{cores} cores")
    for fact, keys in MACHINE_FACTS.items():
        value = next((leaves[key] for key in keys if leaves.get(key) not in (None, "", "none")), None)
        if value is not None:
            facts.append(f"{fact} {value:g}{UNITS[fact]}" if fact in UNITS else f"{fact} {value}")
    return facts


def code_of(document: Document) -> str | None:
    """The commit and day of the measurement."""
    manifest = next(manifests(document), None)
    if manifest is None:
        return None
    code, started = manifest.get("code", {}), manifest.get("started", "")
    parts = [f"commit {code['commit'][:10]}"] if code.get("commit") else []
    if parts and code.get("dirty"):
        parts.append("with changes that were not committed")
    return ", ".join([*parts, *([started[:10]] if started else [])]) or None


def manifests(document: Document) -> Iterator[Mapping[str, Any]]:
    """The places where files of different ages keep what ran."""
    for key in ("measured_on", "manifest"):
        if isinstance(document.get(key), dict):
            yield document[key]
    yield from document.get("manifests", [])


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, value) of every number and text of a manifest, dictionaries inside lists included."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        elif isinstance(value, list):
            for entry in value:
                if isinstance(entry, dict):
                    yield from _leaves(entry)
        else:
            yield key, value
