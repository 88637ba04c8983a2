"""What an engine is tied to: the GPU and driver, or, for code compiled for a processor, its instruction set.

Facts only, and no torch. Invariant: a fact that is not to be had is None, and is compared as such.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """`gpu` None: no NVIDIA GPU; capability and driver are None too. `cpu`: what code is compiled for."""

    gpu: str | None
    compute_capability: int | None
    driver: str | None
    cpu: str

    def record(self) -> dict[str, Any]:
        return asdict(self)


def present_machine(gpu_index: int = 0) -> Machine:
    """As the driver states it. gpu_index counts as nvidia-smi does: CUDA may count visible GPUs only."""
    gpu, driver, capability = _gpu(gpu_index)
    return Machine(gpu=gpu, driver=driver, compute_capability=capability, cpu=_instruction_set())


def _gpu(index: int) -> tuple[str | None, str | None, int | None]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None, None, None
    fields = "name,driver_version,compute_cap"
    done = subprocess.run(  # nosec B603 # no text of a user in it
        [tool, f"--id={index}", f"--query-gpu={fields}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    cells = [cell.strip() for cell in done.stdout.strip().split(",")]
    if done.returncode != 0 or len(cells) != 3:
        return None, None, None
    return cells[0], cells[1], int(cells[2].replace(".", ""))


def _instruction_set() -> str:
    """Architecture and vector extensions, which compilers target by default."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line.split(":")[1].split() for line in file if line.startswith("flags")), [])
    except OSError:
        flags = []
    extensions = sorted({"avx2", "avx512f", "amx_tile", "avx512_vnni"}.intersection(flags))
    return " ".join([platform.machine(), *extensions])
