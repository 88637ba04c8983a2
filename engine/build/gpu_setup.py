"""Checks of what a GPU needs around it: driver, torch's libraries, compilers, caches, shared memory.

Each asks the library that would fail in the middle of a run, as that library would ask, and says the fix.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.build import hub
from engine.build.checks import Check, answered, cannot_write, installed
from engine.machine import driver as nvidia
from engine.machine.compilers import cpp_fault, triton_fault
from engine.machine.driver import Driver
from engine.runs.manifest import gpus
from engine.settings.environment import cache_folder, chosen_gpus, compiled_folder

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GIB = 2**30
INSTALL: Final = "run `pip install -e .` in the repository"
INSTALL_GPU: Final = "run `pip install -e '.[gpu]'`"
TORCH_NEEDS: Final = ("nvidia-", "cuda-", "triton")
"""How the names of packages begin that torch is built against, by exact version."""
SHARED_BYTES: Final = 512 * 2**20
"""What `--gpus` with Ray takes of it. Docker gives a container 64 MiB unless it is told otherwise."""


def examine() -> list[Check]:
    """Every check of this room, in the order in which one thing rests on another."""
    found = [
        answered("GPU", gpu),
        answered("torch's libraries", torch_libraries),
        answered("C++ compiler", cpp_compiler),
    ]
    for probe in (triton, bitsandbytes, xformers):
        name = probe.__name__
        if installed(name) is not None:
            fix = f"run `pip install --force-reinstall --no-deps {name}`"
            found.append(answered(name, probe, fix=fix))
    return [*found, answered("caches", caches), shared_memory()]


def gpu() -> Check:
    if installed("torch") is None:
        return Check(name="GPU", ok=False, detail="unknown without torch", fix=INSTALL)
    import torch

    listed = gpus()
    driver = f"driver {listed[0]['driver_version']}" if listed else "driver unknown to nvidia-smi"
    if not torch.cuda.is_available():
        return _no_gpu(torch.version.cuda, torch.__version__, nvidia.ask(), driver if listed else "")
    built_for, parts, unknown = torch.cuda.get_arch_list(), [], []
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        parts.append(
            f"{found.name}, compute capability {found.major}.{found.minor}, "
            f"{found.multi_processor_count} SMs, {found.total_memory / GIB:.0f} GiB of memory (VRAM)"
        )
        if not nvidia.covers((found.major, found.minor), built_for):
            unknown.append(found.name)
    detail = f"{'; '.join(parts)}; {driver}, CUDA {torch.version.cuda}"
    if unknown:
        return Check(
            name="GPU",
            ok=False,
            detail=f"{detail}; torch has no code for {', '.join(unknown)}: {' '.join(built_for)}",
            fix="install a torch that is built for this GPU, or hide it: CUDA_VISIBLE_DEVICES",
        )
    return older_in_minor(detail, nvidia.ask(), str(torch.version.cuda))


def _no_gpu(torch_cuda: str | None, torch_version: str, driver: Driver | str, listed: str) -> Check:
    if torch_cuda is None and (listed or isinstance(driver, Driver)):
        detail = f"{listed or 'an NVIDIA driver'} is here, but torch {torch_version} is built without CUDA"
        return Check(name="GPU", ok=False, detail=detail, fix="install a CUDA build of torch")
    problem, fix = nvidia.why_unusable(
        driver, torch_cuda=torch_cuda or "0", visible=chosen_gpus(), devices=nvidia.device_nodes()
    )
    return Check(name="GPU", ok=False, detail=f"{problem}; {listed}" if listed else problem, fix=fix)


def older_in_minor(detail: str, driver: Driver | str, torch_cuda: str) -> Check:
    """A driver runs what is compiled with a later minor version of its CUDA, and refuses its PTX.

    torch's runtime compiler makes PTX (`torch.cuda._compile_kernel`, by which 4-bit layers are compiled).
    """
    if isinstance(driver, Driver) and driver.cuda < tuple(map(int, torch_cuda.split(".")[:2])):
        return Check(
            name="GPU",
            ok=False,
            detail=f"{detail}; the driver runs CUDA {driver.cuda[0]}.{driver.cuda[1]}: what is compiled "
            "while a model runs may be refused (`unsupported toolchain`)",
            fix=f"update the driver to one of CUDA {torch_cuda}, or install a torch built for the older",
        )
    return Check(name="GPU", ok=True, detail=detail)


def torch_libraries() -> Check:
    """The packages that the installed torch was built against.

    pip installs them once, and lets any later package replace them.
    """
    name = "torch's libraries"
    wanted = [] if installed("torch") is None else list(_needed_by("torch", frozenset()))
    wrong = [one for one in wanted if not one.specifier.contains(installed(one.name) or "", prereleases=True)]
    if wrong:
        found = (
            f"{one.name} {installed(one.name) or 'not installed'} (wants {one.specifier})" for one in wrong
        )
        names = " ".join(f"'{one.name}{one.specifier}'" for one in wrong)
        detail = f"not those that it was built with: {', '.join(found)}"
        return Check(name=name, ok=False, detail=detail, fix=f"run `pip install {names}`")
    detail = f"{len(wanted)} of the versions that it wants" if wanted else "it wants none"
    return Check(name=name, ok=True, detail=detail)


def _needed_by(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires(name) or ():
        one = Requirement(text)
        if not one.name.startswith(TORCH_NEEDS):
            continue
        asked = [{"extra": extra} for extra in extras or {""}]
        if one.marker is not None and not any(one.marker.evaluate(extra) for extra in asked):
            continue
        yield one
        if one.extras and installed(one.name) is not None:  # of a package that only names others
            yield from _needed_by(one.name, frozenset(one.extras))


def cpp_compiler() -> Check:
    name = "C++ compiler"
    if fault := cpp_fault():
        return Check(name=name, ok=False, detail=f"torch.compile {fault[0]}", fix=fault[1])
    return Check(name=name, ok=True, detail="makes what torch can load")


def triton() -> Check:
    if fault := triton_fault():
        return Check(name="triton", ok=False, detail=f"{installed('triton')}, {fault[0]}", fix=fault[1])
    return Check(name="triton", ok=True, detail=f"{installed('triton')}, its C compiler works")


def bitsandbytes() -> Check:
    """With its compiled part, for this torch's CUDA: without, it imports and raises at the first call."""
    return native_part(str(installed("bitsandbytes")), importlib.import_module("bitsandbytes.cextension").lib)


def native_part(found: str, library: object) -> Check:
    """`library` is what bitsandbytes loaded: its own class says whether of a CUDA, or why none."""
    import torch

    failed, on_gpu = vars(library).get("error_msg"), torch.cuda.is_available()
    if failed is None and (not on_gpu or getattr(type(library), "compiled_with_cuda", False)):
        kind = "CUDA" if on_gpu else "CPUs"
        return Check(name="bitsandbytes", ok=True, detail=f"{found}, with its part for {kind}")
    reason = " ".join((failed or "it is for CPUs only").split())
    return Check(
        name="bitsandbytes",
        ok=False,
        detail=f"{found}, its compiled part does not load: {reason[:200]}",
        fix="unset BNB_CUDA_VERSION where it is set, and run `pip install --force-reinstall --no-deps "
        f"bitsandbytes`; it needs the libraries of torch's CUDA ({torch.version.cuda or 'none here'})",
    )


def xformers() -> Check:
    from kernels.attention.xformers_memory_efficient import CUDA_12, not_loaded

    reason = not_loaded()
    if reason is None:
        return Check(name="xformers", ok=True, detail=str(installed("xformers")))
    fix = CUDA_12 if CUDA_12 in reason else "install the xformers that is built for this torch, or none"
    detail = f"{installed('xformers')}: {reason.removesuffix(f'; {CUDA_12}')}"
    return Check(name="xformers", ok=False, detail=detail, fix=fix)


def caches() -> Check:
    """Where files are written that a run makes for the next, and code that it loads."""
    places = {
        "Retake": cache_folder(),
        "torch": compiled_folder(),
        "models": hub.cache(),
    }
    if installed("triton") is not None:
        places["triton"] = Path(importlib.import_module("triton.knobs").cache.dir)
    faults = {name: (place, cannot_write(place)) for name, place in places.items()}
    wrong = [f"{place} of {name}: {why}" for name, (place, why) in faults.items() if why]
    if not wrong:
        return Check(name="caches", ok=True, detail=", ".join(str(place) for place in places.values()))
    return Check(
        name="caches",
        ok=False,
        detail=f"no code or file can be kept in {'; '.join(wrong)}",
        fix="change the rights there, or name other folders: XDG_CACHE_HOME, TORCHINDUCTOR_CACHE_DIR, "
        "TRITON_CACHE_DIR, HF_HOME",
    )


def shared_memory(folder: Path = Path("/dev/shm")) -> Check:  # nosec B108 # looked at, not written
    """Locks between processes lie in it, and what an engine of a cluster sends."""
    fix = "start a container with `--shm-size 2g`; on the machine itself mount a tmpfs on /dev/shm"
    name = "shared memory"
    try:
        multiprocessing.get_context("spawn").Lock()
        total = shutil.disk_usage(folder).total if folder.is_dir() else 0
    except OSError as error:
        detail = f"none for locks between processes: {error.strerror}"
        return Check(name=name, ok=False, detail=detail, fix=fix)
    detail = f"{total / GIB:.2f} GiB in {folder}"
    if total < SHARED_BYTES:
        wanted = f"{detail}; several GPUs with Ray want {SHARED_BYTES / GIB:.1f}, and write to the disk here"
        return Check(name=name, ok=False, detail=wanted, fix=fix)
    return Check(name=name, ok=True, detail=detail)
