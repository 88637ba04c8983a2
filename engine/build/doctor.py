"""What this machine can run: a list of checks, each with its fix where something is missing.

Looks, loads no model and changes nothing. Only a check marked `required` says that the default run cannot
work; everything else is an option that this machine lacks.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from engine.build import gpu_setup, hub
from engine.build import model_folders as models
from engine.build.checks import BROKEN, Check, answered, existing, installed
from engine.build.gpu_setup import INSTALL, INSTALL_GPU
from engine.errors import RetakeError
from engine.settings.config import BUNDLED
from engine.settings.environment import cache_folder, usable_cores
from kernels.files import file_digest

GIB = 2**30
MIN_RAM_BYTES = 3 * GIB  # the bundled models with torch and both lanes peak below this

INSTALL_EXPORT = "run `pip install -e '.[export]'`"

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "av", "pymunk")
OPTIONAL_PACKAGES = {
    "triton": ("fused kernels", INSTALL_GPU),
    "bitsandbytes": ("critics in nf4 and int8", INSTALL_GPU),
    "xformers": ("its attention kernels", INSTALL_GPU),
    "onnx": ("export", INSTALL_EXPORT),
    "onnxruntime": ("checking exports", INSTALL_EXPORT),
    "tensorrt-rtx": ("TensorRT engines", INSTALL_EXPORT),
    "llguidance": ("constrained decoding of critiques", "run `pip install -e '.[constrained]'`"),
}


def examine() -> list[Check]:
    """Every check of this machine, in the order in which a reader wants them."""
    around_gpu = gpu_setup.examine()
    looked_at = {check.name for check in around_gpu}
    return [
        _python(),
        _cores(),
        _memory(),
        *(package(name) for name in PACKAGES),
        *around_gpu,
        *(optional_package(name) for name in OPTIONAL_PACKAGES if name not in looked_at),
        answered("H.264 encoder", encoder, required=True),
        bundled("generator", models.find_generator),
        bundled("critic", models.find_critic),
        answered("models of the hub", _hub_models),
        answered("disk", _disk),
    ]


def _hub_models() -> Check:
    """Of the hub's cache, what a family here loads, whole or not."""
    found = []
    for name in hub.in_cache():
        for find in (models.find_generator, models.find_critic):
            with suppress(RetakeError):
                size = sum(path.stat().st_size for path in find(name).path.rglob("*.safetensors"))
                found.append(f"{name} ({size / 1e9:.1f} GB)")
    if found:
        return Check(name="models of the hub", ok=True, detail=", ".join(found))
    example = next(iter(hub.HOSTED))
    return Check(
        name="models of the hub",
        ok=False,
        detail=f"none that is loaded here in {hub.cache()}",
        fix=f"{hub.command(example)}\n{hub.describe(example)}",
    )


def _disk() -> Check:
    """Where models and what is kept between runs lie, and runs by default."""
    places = {"models": hub.cache(), "cache": cache_folder(), "here": Path.cwd()}
    free = {name: shutil.disk_usage(existing(place)).free / 1e9 for name, place in places.items()}
    said = ", ".join(f"{free[name]:.0f} GB free for {name} ({place})" for name, place in places.items())
    return Check(name="disk", ok=True, detail=said)


def can_run(checks: list[Check]) -> bool:
    """Whether the default run works here."""
    return all(check.ok for check in checks if check.required)


def bundled(what: str, find: Callable[[str], models.ModelFolder]) -> Check:
    """The bundled model is complete; its digest, so that two machines can be compared."""
    try:
        folder = find(BUNDLED).path
        weights = sorted(folder.rglob("*.safetensors"))
        size = sum(path.stat().st_size for path in weights)
        detail = (
            f"{models.weight_elements(folder) / 1e6:.1f} M parameters, {size / 2**20:.1f} MiB, "
            f"sha256 {_digest(weights)}"
        )
    except RetakeError as error:
        return Check(name=f"bundled {what}", ok=False, detail=error.problem, required=True, fix=error.fix)
    return Check(name=f"bundled {what}", ok=True, detail=detail, required=True)


def ram_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _digest(paths: list[Path]) -> str:
    """First 12 hex digits of sha256 over the files in name order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(bytes.fromhex(file_digest(path)))
    return total.hexdigest()[:12]


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Check(
        name="Python", ok=ok, detail=found, required=True, fix="" if ok else "use Python 3.11 or 3.12"
    )


def _cores() -> Check:
    total = os.cpu_count() or 1
    return Check(name="CPU cores", ok=True, detail=f"{usable_cores()} usable of {total}")


def _memory() -> Check:
    total = ram_bytes()
    ok = total >= MIN_RAM_BYTES
    fix = "" if ok else f"use a machine with at least {MIN_RAM_BYTES / GIB:.0f} GiB of memory"
    return Check(name="memory", ok=ok, detail=f"{total / GIB:.1f} GiB", required=True, fix=fix)


def package(name: str) -> Check:
    """Installed and importable: a broken binary wheel shows here, not in the middle of a run."""
    version = installed(name)
    if version is None:
        return Check(name=name, ok=False, detail="not installed", required=True, fix=INSTALL)
    try:
        importlib.import_module(name)
    except BROKEN as error:
        detail, fix = f"{version}, does not import: {error}", f"run `pip install --force-reinstall {name}`"
        return Check(name=name, ok=False, detail=detail, required=True, fix=fix)
    return Check(name=name, ok=True, detail=version, required=True)


def optional_package(name: str) -> Check:
    version = installed(name)
    purpose, fix = OPTIONAL_PACKAGES[name]
    if version is None:
        return Check(name=name, ok=False, detail=f"not installed; for {purpose}", fix=fix)
    return Check(name=name, ok=True, detail=version)


def encoder() -> Check:
    """H.264 by libx264, which every take is written with."""
    missing = Check(
        name="H.264 encoder",
        ok=False,
        detail="PyAV has no libx264",
        required=True,
        fix="install the PyAV wheel: `pip install --force-reinstall av`",
    )
    if installed("av") is None:
        return missing
    import av
    import av.codec

    try:
        av.codec.Codec("libx264", "w")
    except (av.FFmpegError, ValueError):
        return missing
    return Check(name="H.264 encoder", ok=True, detail="libx264", required=True)
