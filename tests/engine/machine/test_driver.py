"""The driver: asked through real libraries that answer as a driver does, and what is said of each answer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from engine.machine import driver as nvidia
from engine.machine.driver import Driver, ask, covers, device_nodes, why_unusable

SOURCE = """
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuInit(unsigned flags) { return ERROR; }
int cuGetErrorName(int error, const char **name) { *name = "NAME_OF_IT"; return 0; }
"""


def library(folder: Path, version: int, error: int) -> str:
    """A libcuda.so.1 of this answer."""
    target = folder / nvidia.LIBRARY
    command = ["gcc", "-shared", "-fPIC", "-xc", "-", "-o", str(target)]
    command += [f"-DVERSION={version}", f"-DERROR={error}"]
    subprocess.run(command, input=SOURCE, text=True, check=True)
    return str(target)


def told(driver: Driver | str, torch_cuda: str = "13.0", visible: str | None = None, nodes: str = "") -> str:
    return " | ".join(why_unusable(driver, torch_cuda=torch_cuda, visible=visible, devices=nodes.split()))


def test_a_driver_answers(tmp_path: Path) -> None:
    assert ask(library(tmp_path, 12080, 803)) == Driver(cuda=(12, 8), error=803, name="NAME_OF_IT")


def test_a_library_that_is_none(tmp_path: Path) -> None:
    absent = ask(str(tmp_path / "libcuda.so.1"))
    assert isinstance(absent, str) and "cannot open shared object file" in absent
    (tmp_path / "libcuda.so.1").write_bytes(b"")
    damaged = ask(str(tmp_path / "libcuda.so.1"))
    assert isinstance(damaged, str) and "file too short" in damaged


@pytest.mark.parametrize(
    ("cuda", "error", "torch_cuda", "says"),
    [
        ((12, 2), 0, "13.0", "runs CUDA 12.2, torch is built for 13.0 | install driver 580"),
        ((11, 4), 0, "12.8", "install driver 525"),
        ((13, 0), 34, "13.0", "stub of the CUDA toolkit"),
        ((13, 0), 802, "13.0", "nvidia-fabricmanager"),
        ((13, 0), 803, "13.0", "restart the machine: the kernel runs another version"),
        ((13, 0), 804, "13.0", "cuda-compat out of LD_LIBRARY_PATH"),
        ((13, 0), 999, "13.0", "cuInit gave 999 NAME | see `sudo dmesg"),
        ((13, 0), 100, "13.0", "no GPU (cuInit gave 100 NAME) | start a container with `--gpus all`"),
        ((13, 0), 0, "13.0", "torch.cuda.init()"),
    ],
)
def test_each_answer_has_its_fix(cuda: tuple[int, int], error: int, torch_cuda: str, says: str) -> None:
    assert says in told(Driver(cuda=cuda, error=error, name="NAME" if error else ""), torch_cuda)


def test_hidden_gpus_are_no_missing_gpus() -> None:
    hidden = Driver(cuda=(13, 0), error=100, name="NAME")
    assert "CUDA_VISIBLE_DEVICES='' leaves none" in told(hidden, visible="", nodes="nvidia0 nvidiactl")
    assert "dmesg" in told(hidden, nodes="nvidia0 nvidiactl")


def test_a_library_that_is_missing_where_the_kernel_has_a_driver() -> None:
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in told("libcuda.so.1: no such file", nodes="nvidia0")
    assert "none found; runs use the CPU" in told("libcuda.so.1: no such file")


def test_nodes(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidiactl", "null"):
        (tmp_path / name).touch()
    (tmp_path / "nvidia-caps").mkdir()
    assert device_nodes(tmp_path) == ["nvidia0", "nvidiactl"]


def test_code_for_a_gpu() -> None:
    """Machine code stays within its major version; an `a` is for one architecture; PTX goes on."""
    assert covers((8, 9), ["sm_80", "sm_90"]) and not covers((8, 0), ["sm_86"])
    assert not covers((12, 0), ["sm_80", "sm_90"]) and covers((12, 0), ["sm_80", "compute_90"])
    assert covers((9, 0), ["sm_90a"]) and not covers((10, 0), ["sm_90a", "compute_90a", "sm_100f"][:2])
    assert covers((12, 1), ["sm_120"]) and not covers((7, 5), ["sm_80", "compute_80"])
