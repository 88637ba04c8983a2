"""What the NVIDIA driver says of itself, asked through its own library, and why it gives a process no GPU.

Loads no torch: a driver that torch cannot use still answers. Numbers and meanings of errors are those of the
CUDA Driver API (`CUresult`), the oldest drivers those of CUDA's release notes (minor version compatibility).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LIBRARY: Final = "libcuda.so.1"
OLDEST: Final[Mapping[int, str]] = {11: "450", 12: "525", 13: "580"}
"""Major version of CUDA -> the first Linux driver that runs it."""
STUB, NO_DEVICE, INVALID_DEVICE = 34, 100, 101
FIXES: Final[Mapping[int, str]] = {
    STUB: "take the folder `stubs` of the CUDA toolkit out of LD_LIBRARY_PATH: it is for linking only",
    802: "start the fabric manager, of the driver's own version: `sudo systemctl start nvidia-fabricmanager`",
    803: "restart the machine: the kernel runs another version of the driver than the libraries, as after an "
    "update",
    804: "take the folder of cuda-compat out of LD_LIBRARY_PATH, or update the driver",
}
RESTART: Final = "see `sudo dmesg | grep NVRM`; restart the machine, as after a suspend or a lost GPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """`cuda` is the newest CUDA that the driver runs; `error` and `name` are what cuInit gave, 0 for none."""

    cuda: tuple[int, int]
    error: int = 0
    name: str = ""


def ask(library: str = LIBRARY) -> Driver | str:
    """Or why the library does not load. Starts the driver in this process, as torch will do."""
    try:
        driver = ctypes.CDLL(library)
        version, name = ctypes.c_int(), ctypes.c_char_p()
        driver.cuDriverGetVersion(ctypes.byref(version))
        error = int(driver.cuInit(0))
        driver.cuGetErrorName(error, ctypes.byref(name))
    except (OSError, AttributeError) as refused:  # no such library; one without these functions
        return str(refused)
    major, rest = divmod(version.value, 1000)
    named = (name.value or b"").decode(errors="replace") if error else ""
    return Driver(cuda=(major, rest // 10), error=error, name=named)


def why_unusable(
    driver: Driver | str, *, torch_cuda: str, visible: str | None, devices: Sequence[str]
) -> tuple[str, str]:
    """Problem and fix, where torch, built for `torch_cuda`, finds no GPU.

    visible: CUDA_VISIBLE_DEVICES. devices: names of the nodes /dev/nvidia*.
    """
    if isinstance(driver, str):
        if not devices:
            return "none found; runs use the CPU", (
                "install an NVIDIA driver if this machine has an NVIDIA GPU; start a container with "
                "`--gpus all`"
            )
        return f"the kernel has a driver, its library does not load: {driver}", (
            "install the libraries of the driver; start a container with "
            "`-e NVIDIA_DRIVER_CAPABILITIES=compute,utility`"
        )
    wanted, has = int(torch_cuda.split(".")[0]), ".".join(map(str, driver.cuda))
    if driver.error == STUB:
        return f"{LIBRARY} is the stub of the CUDA toolkit, not a driver", FIXES[STUB]
    if driver.cuda[0] < wanted:
        return f"the driver runs CUDA {has}, torch is built for {torch_cuda}", (
            f"install driver {OLDEST.get(wanted, 'of this CUDA')} or later, or a torch that is built for "
            f"CUDA {driver.cuda[0]}"
        )
    said = f"cuInit gave {driver.error} {driver.name}".rstrip()
    if driver.error in (NO_DEVICE, INVALID_DEVICE):
        if visible is not None:
            return f"CUDA_VISIBLE_DEVICES={visible!r} leaves none ({said})", (
                "unset it, or give numbers that `nvidia-smi -L` lists"
            )
        if not any(name.removeprefix("nvidia").isdigit() for name in devices):
            return f"the driver's library is here and no GPU ({said})", (
                "start a container with `--gpus all`; on the machine itself: `sudo modprobe nvidia-uvm`"
            )
    if driver.error == 0:
        return f"the driver runs CUDA {has}, and torch (CUDA {torch_cuda}) does not use it", (
            "run `python -c 'import torch; torch.cuda.init()'`, which says why"
        )
    return f"the driver does not start: {said}", FIXES.get(driver.error, RESTART)


def device_nodes(folder: Path = Path("/dev")) -> list[str]:
    """Names of the driver's nodes, such as nvidia0 and nvidiactl."""
    return sorted(path.name for path in folder.glob("nvidia*") if not path.is_dir())


def covers(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Whether code for these architectures, as `torch.cuda.get_arch_list` names them, runs on the GPU.

    Machine code (sm_) runs on its major version from its minor on, an intermediate form (compute_) on all
    that came after.
    """
    major, minor = capability
    for name in built_for:
        kind, _, number = name.partition("_")
        digits = number.rstrip("af")
        have = (int(digits[:-1]), int(digits[-1]))
        exact = number != digits  # sm_90a: this architecture alone
        if kind == "compute" and not exact and have <= (major, minor):
            return True
        if kind == "sm" and have[0] == major and (have[1] == minor if exact else have[1] <= minor):
            return True
    return False
