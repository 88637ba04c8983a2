"""What a GPU needs around it: libraries, packages and folders that are really broken, and what is said."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.build import gpu_setup
from engine.build.checks import cannot_write
from engine.machine import driver as nvidia
from engine.machine.driver import Driver
from kernels.attention.xformers_memory_efficient import not_loaded


def package(folder: Path, name: str, version: str, *requires: str) -> None:
    """An installed distribution, as pip would leave its metadata."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Requires-Dist: {one}" for one in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def test_states_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(nvidia, "device_nodes", list)
    monkeypatch.setattr(nvidia, "ask", lambda: "no such file")
    monkeypatch.setattr(gpu_setup, "gpus", list)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "none found" in gpu_setup.gpu().detail
    monkeypatch.setattr(nvidia, "ask", lambda: Driver(cuda=(12, 4)))
    assert "without CUDA" in gpu_setup.gpu().detail
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpu_setup, "gpus", lambda: [{"driver_version": "550.1"}])
    check = gpu_setup.gpu()
    assert "runs CUDA 12.4, torch is built for 13.0; driver 550.1" in check.detail and "580" in check.fix
    assert not check.ok and not check.required


@pytest.mark.parametrize(
    ("broken", "rows"),
    [
        ("torch", {"GPU", "C++ compiler", "bitsandbytes"}),
        ("packaging.requirements", {"torch's libraries"}),
        ("triton.knobs", {"caches"}),
    ],
)
def test_a_broken_package_is_told_and_ends_nothing(
    broken: str, rows: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.requires
    asked = {"torch": ["triton==3.7.1"]}
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked.get(name) or real(name))
    monkeypatch.setattr(gpu_setup, "triton_fault", lambda: None)
    for name in (broken, *(name for name in sys.modules if name.startswith(f"{broken}."))):
        monkeypatch.setitem(
            sys.modules, name, None
        )  # a part that was imported before is found without its package
    told = {check.name: check for check in gpu_setup.examine()}
    for name in rows & told.keys():
        assert not told[name].ok and "cannot be told: " in told[name].detail and told[name].fix
    assert rows & told.keys()


@pytest.mark.gpu
def test_a_gpu_that_works() -> None:
    driver = nvidia.ask()
    assert isinstance(driver, Driver) and driver.error == 0
    assert gpu_setup.gpu().ok and gpu_setup.torch_libraries().ok and gpu_setup.cpp_compiler().ok


def test_hidden_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(nvidia, "ask", lambda: Driver(cuda=(13, 0), error=100))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "CUDA_VISIBLE_DEVICES='7' leaves none" in gpu_setup.gpu().detail


def test_a_driver_of_an_earlier_minor_version() -> None:
    older = gpu_setup.older_in_minor("a GPU", Driver(cuda=(13, 0)), "13.2")
    assert not older.ok and "runs CUDA 13.0" in older.detail and "CUDA 13.2" in older.fix
    assert gpu_setup.older_in_minor("a GPU", Driver(cuda=(13, 0)), "13.0").ok
    assert gpu_setup.older_in_minor("a GPU", Driver(cuda=(13, 2)), "12.8").ok


def test_libraries_that_another_package_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(
        tmp_path,
        "torch",
        "2.11.0",
        'nvidia-cudnn-cu13==9.15.1; platform_system == "Linux"',
        'nvidia-nothing==1; platform_system == "Windows"',
        "cuda-toolkit[cudart]==13.0.2",
        "numpy",
    )
    package(tmp_path, "cuda_toolkit", "13.0.2", 'nvidia-cuda-runtime==13.0.96; extra == "cudart"')
    package(tmp_path, "nvidia_cudnn_cu13", "9.15.1")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    check = gpu_setup.torch_libraries()
    assert "nvidia-cuda-runtime not installed (wants ==13.0.96)" in check.detail
    assert check.fix == "run `pip install 'nvidia-cuda-runtime==13.0.96'`"
    package(tmp_path, "nvidia_cuda_runtime", "13.2.1")
    check = gpu_setup.torch_libraries()
    assert not check.ok and "nvidia-cuda-runtime 13.2.1 (wants ==13.0.96)" in check.detail
    (tmp_path / "nvidia_cuda_runtime-13.2.1.dist-info" / "METADATA").unlink()
    (tmp_path / "nvidia_cuda_runtime-13.2.1.dist-info").rmdir()
    package(tmp_path, "nvidia_cuda_runtime", "13.0.96")
    check = gpu_setup.torch_libraries()
    assert check.ok and check.detail.startswith("3 of the versions")


def test_bitsandbytes_without_its_library() -> None:
    """Its own two classes: the one that stands for a library which did not load, and that of a CPU's."""
    extension = pytest.importorskip("bitsandbytes.cextension")
    error = "libcudart.so.13: cannot open shared object file: No such file or directory"
    check = gpu_setup.native_part("0.50", extension.ErrorHandlerMockBNBNativeLibrary(error))
    assert not check.ok and error in check.detail and "--force-reinstall" in check.fix
    assert gpu_setup.bitsandbytes().ok


def test_bitsandbytes_without_its_part_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    extension = pytest.importorskip("bitsandbytes.cextension")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check = gpu_setup.native_part("0.50", extension.BNBNativeLibrary(None))
    assert not check.ok and "it is for CPUs only" in check.detail


@pytest.mark.slow
def test_bitsandbytes_whose_library_was_removed(tmp_path: Path) -> None:
    """Of a copy of the real package, in a process of its own."""
    real = Path(pytest.importorskip("bitsandbytes").__file__).parent
    (tmp_path / "bitsandbytes").mkdir()
    for path in real.iterdir():
        if path.suffix != ".so":
            (tmp_path / "bitsandbytes" / path.name).symlink_to(path)
    code = (
        "from engine.build import gpu_setup; check = gpu_setup.bitsandbytes(); print(check.ok, check.detail)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("False") and "compiled part does not load" in done.stdout


def test_xformers_without_its_cuda_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose compiled part is linked with a libcudart.so.12 that is gone, as beside CUDA 13."""
    runtime, part = tmp_path / "libcudart.so.12", tmp_path / "xformers" / "_C.so"
    (tmp_path / "xformers" / "ops").mkdir(parents=True)
    build = ["gcc", "-shared", "-fPIC", "-xc", "/dev/null", "-o"]
    subprocess.run([*build, runtime, "-Wl,-soname,libcudart.so.12"], check=True)
    subprocess.run([*build, part, "-Wl,--no-as-needed", "-xnone", runtime], check=True)
    runtime.unlink()
    for name in ("__init__", "ops/__init__", "ops/fmha"):
        (tmp_path / "xformers" / f"{name}.py").touch()
    (tmp_path / "xformers" / "_cpp_lib.py").write_text(
        "import ctypes\n"
        "_cpp_library_load_exception = None\n"
        f"try:\n    ctypes.CDLL({str(part)!r})\n"
        "except OSError as error:\n    _cpp_library_load_exception = error\n"
    )
    package(tmp_path, "xformers", "0.0.35")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    not_loaded.cache_clear()
    try:
        check = gpu_setup.xformers()
    finally:
        not_loaded.cache_clear()
        for name in [name for name in sys.modules if name.split(".")[0] == "xformers"]:
            del sys.modules[name]
    assert not check.ok and "libcudart.so.12: cannot open shared object file" in check.detail
    assert "nvidia-cuda-runtime-cu12" in check.fix and "LD_LIBRARY_PATH" in check.fix


def test_caches_that_take_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in {"XDG_CACHE_HOME": "a", "TORCHINDUCTOR_CACHE_DIR": "b"}.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    assert gpu_setup.caches().ok and list(tmp_path.iterdir()) == []
    (tmp_path / "b").touch()  # a file where the folder should be
    check = gpu_setup.caches()
    assert not check.ok and f"{tmp_path / 'b'} of torch: Not a directory" in check.detail
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/proc/compiled")
    assert "/proc/compiled of torch: " in gpu_setup.caches().detail


def test_a_disk_without_execution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cannot_write(tmp_path / "new" / "folder") is None
    real = os.statvfs(tmp_path)

    class Mounted:
        f_flag = real.f_flag | os.ST_NOEXEC

    monkeypatch.setattr(os, "statvfs", lambda path: Mounted())
    assert "noexec" in (cannot_write(tmp_path) or "")


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_setup.shared_memory(tmp_path).ok
    absent = gpu_setup.shared_memory(tmp_path / "absent")
    assert not absent.ok and "--shm-size" in absent.fix
    monkeypatch.setattr(gpu_setup, "SHARED_BYTES", 2**60)
    assert "several GPUs with Ray want" in gpu_setup.shared_memory(tmp_path).detail
