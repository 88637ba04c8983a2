"""Finds the TensorRT library of a target and says what it is able to build for.

Two libraries share one code path: `tensorrt` (a GPU at build time, an engine per GPU) and `tensorrt_rtx`
(builds without a GPU for stated compute capabilities). Capabilities are integers: 89 is 8.9.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from engine.errors import nearest
from export.spec import ExportError, Recipe, require_capability

MODULES: Final = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
PACKAGES: Final = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """An installed library. `needs_gpu`: whether building does."""

    target: str
    module_name: str
    version: str
    needs_gpu: bool
    capabilities: tuple[int, ...]
    """What it builds for without asking a GPU; empty for the one that asks."""


def module_name(target: str) -> str:
    if target not in MODULES:
        raise ExportError(
            f"{target!r} is not a TensorRT target{nearest(target, MODULES)}",
            fix=f"use one of: {', '.join(MODULES)}",
        )
    return MODULES[target]


def is_installed(target: str) -> bool:
    return importlib.util.find_spec(module_name(target)) is not None


def import_library(target: str) -> ModuleType:
    """The Python module of the target; ExportError says how to get it.

    Not at import of this file: loading the library costs memory, and a run without it must not need it.
    """
    name = module_name(target)
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise missing(target, str(error)) from error


def missing(target: str, reason: str) -> ExportError:
    package = PACKAGES[target]
    return ExportError(
        f"target {target} needs the Python package {package}, which cannot be loaded: {reason}",
        fix=f"pip install {package}; the wheels of its libraries come from NVIDIA's own package index, so "
        "that host has to be reachable too (the package sends pip there)",
    )


def find(target: str) -> Library:
    """ExportError when the target is unknown or not installed."""
    trt = import_library(target)
    return Library(
        target=target,
        module_name=trt.__name__,
        version=str(trt.__version__),
        needs_gpu=not hasattr(trt, "ComputeCapability"),
        capabilities=_capabilities(trt),
    )


def _capabilities(trt: Any) -> tuple[int, ...]:
    names = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    return tuple(sorted(int(name[2:]) for name in names if name.startswith("SM") and name[2:].isdecimal()))


def check_capability(library: Library, recipe: Recipe, capability: int) -> None:
    """ExportError with the reason when this library or the recipe cannot serve GPUs of `capability`.

    Asked before a build: the builder itself drops a capability that cannot run FP8 without an error.
    """
    if library.capabilities and capability not in library.capabilities:
        listed = ", ".join(map(str, library.capabilities))
        raise ExportError(
            f"{library.target} {library.version} cannot build for compute capability {capability}",
            fix=f"use one of: {listed}; on another card use --target tensorrt there, or --target aoti",
        )
    require_capability(recipe, capability)
