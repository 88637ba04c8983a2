"""Our package `kernels` beside Hugging Face's of the same import name, installed in any order.

The made package has the real one's shape: names in `__init__` that come from modules, a module that others
import directly, a version in its metadata. The slow test installs the real one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MADE = {
    "kernels/__init__.py": "from kernels.load import Mode, get_kernel\n__version__ = '0.17.2'\n",
    "kernels/load.py": "from kernels.layer import Mode\ndef get_kernel(name): return name\n",
    "kernels/layer/__init__.py": "from kernels.layer.mode import Mode\n",
    "kernels/layer/mode.py": "class Mode: pass\n",
    "kernels-0.17.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: kernels\nVersion: 0.17.2\n",
}
USE = """
import sys
from kernels.layer.mode import Mode
import kernels
assert kernels.__version__ == "0.17.2", kernels.__version__
from kernels import get_kernel, Mode as same
assert same is Mode and get_kernel.__module__ == "kernels.load"
assert not hasattr(kernels, "no_such_name") and not hasattr(kernels, "_no_such_name")
from kernels.files import file_digest
import kernels.dispatch, kernels.attention
"""
ORDERS = ("ours in front", "ours last", "theirs last")


def made_package(folder: Path) -> Path:
    for name, text in MADE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    record = "".join(f"{name},,\n" for name in MADE)
    (folder / "kernels-0.17.2.dist-info" / "RECORD").write_text(record)
    return folder


def installed(theirs: Path, folder: Path, order: str) -> list[Path]:
    """Entries of sys.path: our checkout in front, or both in one folder, the last one over the other."""
    if order == "ours in front":
        return [ROOT, theirs]
    sources = [theirs, ROOT] if order == "ours last" else [ROOT, theirs]
    for source in sources:
        shutil.copytree(source / "kernels", folder / "kernels", dirs_exist_ok=True)
    for info in theirs.glob("*.dist-info"):
        shutil.copytree(info, folder / info.name, dirs_exist_ok=True)
    return [folder, theirs] if order == "theirs last" else [folder]


def run(code: str, path: list[Path], cwd: Path) -> str:
    code = f"import sys; sys.path[:0] = {[str(entry) for entry in path]!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.parametrize("order", ORDERS)
def test_both_are_whole(tmp_path: Path, order: str) -> None:
    theirs = made_package(tmp_path / "theirs")
    run(USE, installed(theirs, tmp_path / "both", order), tmp_path)


def test_alone_nothing_of_the_other_is_claimed(tmp_path: Path) -> None:
    said = run("import kernels; print(kernels.__path__, hasattr(kernels, 'get_kernel'))", [ROOT], tmp_path)
    assert said == f"[{str(ROOT / 'kernels')!r}] False"


def test_no_module_of_ours_has_a_name_of_theirs() -> None:
    """Of version 0.17.2; in one folder the later one would overwrite the other's."""
    theirs = {
        *("archs", "backends", "benchmark", "benchmarks", "cli", "compat", "deps", "hf_hub", "importer"),
        *("install", "layer", "load", "locking", "python_deps", "resolver", "status", "validate"),
        *("variants", "verify"),
    }
    ours = {path.stem for path in (ROOT / "kernels").iterdir() if not path.name.startswith("_")}
    assert "dispatch" in ours and ours.isdisjoint(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_beside_the_real_package(tmp_path: Path, order: str) -> None:
    """Installs it where that can be done; its names work, and so do the libraries that look for it."""
    theirs = tmp_path / "theirs"
    install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(theirs), "kernels==0.17.2"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"kernels could not be installed: {done.stderr.strip()[-200:]}")
    names = "CUDAProperties, LayerRepository, get_kernel, kernelize, use_kernel_mapping"
    run(
        f"from kernels import {names}\n"
        "import kernels.dispatch\n"
        "from transformers import Qwen3VLForConditionalGeneration\n"
        "from diffusers import WanTransformer3DModel\n",
        [*installed(theirs, tmp_path / "both", order), theirs],
        tmp_path,
    )
