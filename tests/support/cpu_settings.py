"""Runs the tests that compare numbers under other kernels of this CPU, `make test-cpus`; no test here.

Which variables change the bits of a result, by digests of GEMMs, convolutions, attention and element-wise
operations under each, on a machine with avx512 and amx, with torch 2.13 and numpy 2:

ATEN_CPU_CAPABILITY      torch's own loops: softmax, silu and attention at "avx2", nearly all at "default",
                         randn too, so that tests see other inputs
MKL_ENABLE_INSTRUCTIONS  GEMM, 3D convolution and exp in fp32, GEMM in fp64; at "AVX2" the columns of a GEMM
                         depend on how many stand beside them, as the rows do everywhere
MKL_CBWR                 the same, and other bits again at "COMPATIBLE"
ONEDNN_MAX_CPU_ISA       GEMM and convolution in bf16 and fp16, 2D convolution at "SSE41", gelu below
                         "AVX512_CORE"; without VNNI the sums of `torch._int_mm` saturate and are wrong
OPENBLAS_CORETYPE        GEMM of numpy, and with it tl.dot of Triton's interpreter
OMP_NUM_THREADS          matrix times vector, silu, GEMM of numpy (where a test sets no number of its own)

No effect: NPY_DISABLE_CPU_FEATURES, MKL_DEBUG_CPU_TYPE, where a tensor begins (in steps of 16 bytes).
ATEN_CPU_CAPABILITY below avx512 needs ONEDNN_MAX_CPU_ISA below amx: else attention in bf16 packs its keys for
instructions that torch was told not to have, and raises.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SENSITIVE = (
    "tests/engine/denoise/test_guidance.py",
    "tests/engine/generators/wan/test_block.py",
    "tests/engine/generators/wan/test_forward.py",
    "tests/engine/generators/cosmos3/test_block.py",
    "tests/engine/quant/test_linears.py",
    "tests/export/subjects",
    "tests/kernels/linear",
)
"""Where kernels of other shapes meet, and little else takes time."""


@dataclass(frozen=True, kw_only=True)
class CpuSetting:
    """What a process of tests is started with; `needs` are flags of /proc/cpuinfo."""

    name: str
    variables: Mapping[str, str]
    needs: tuple[str, ...] = ()
    short: bool = False


SETTINGS = (
    CpuSetting(
        name="AMD with avx2",
        variables={
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "OPENBLAS_CORETYPE": "Zen",
        },
        needs=("avx2", "fma"),
        short=True,
    ),
    CpuSetting(
        name="AMD with avx512, two threads",
        variables={
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "OPENBLAS_CORETYPE": "Zen",
            "OMP_NUM_THREADS": "2",
        },
        needs=("avx512f", "avx512bw", "avx512vl"),
    ),
    CpuSetting(
        name="the least of instructions",
        variables={
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_CBWR": "COMPATIBLE",
            "OPENBLAS_CORETYPE": "Nehalem",
        },
        short=True,
    ),
    CpuSetting(name="two threads", variables={"OMP_NUM_THREADS": "2"}),
)


def lacking(setting: CpuSetting) -> list[str]:
    """The flags that this CPU does not have; none where the system does not list them."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set(setting.needs))
    return [flag for flag in setting.needs if flag not in flags]


def run(setting: CpuSetting, arguments: list[str]) -> int:
    """The exit status of pytest under the setting, 0 where this CPU cannot run it."""
    given = " ".join(f"{name}={value}" for name, value in setting.variables.items())
    if missing := lacking(setting):
        sys.stdout.write(f"--- {setting.name}: skipped, this CPU has no {', '.join(missing)}\n")
        return 0
    sys.stdout.write(f"--- {setting.name}: {given}\n")
    sys.stdout.flush()
    command = [sys.executable, "-m", "pytest", "-m", "numeric and not slow and not gpu", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **setting.variables}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main(arguments: list[str]) -> int:
    """`--short` runs the most sensitive files under the settings that differ most; pytest gets the rest."""
    short = "--short" in arguments
    given = [argument for argument in arguments if argument != "--short"] + list(SENSITIVE if short else ())
    chosen = [setting for setting in SETTINGS if setting.short or not short]
    statuses = {setting.name: run(setting, given) for setting in chosen}
    failed = [name for name, status in statuses.items() if status]
    sys.stdout.write(f"--- failed under: {'; '.join(failed)}\n" if failed else "")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
