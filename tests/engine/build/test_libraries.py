"""What a start imports: nothing that no run uses, whatever is installed; errors are the run's to tell."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engine.build import libraries
from engine.build.libraries import UNUSED, importing_ahead, without_unused
from engine.build.model_folders import ModelFolder, find_generator
from engine.settings.config import RunConfig

ROOT = Path(__file__).resolve().parents[3]
DEFERRED = {
    "cosmos_guardrail": "a check of prompts that we do not make",
    "datasets": "training alone",
    "diffusers.pipelines": "some hundred pipelines; the loop is ours",
    "engine.demo": "scenes are no part of a run",
    "engine.report": "written at the end",
    "export": "found by name where a run has an exported denoiser",
    "jax": "another framework",
    "matplotlib": "figures of exports alone",
    "onnx": "exports alone",
    "onnxruntime": "an exported denoiser alone",
    "pandas": "tables are read by csv",
    "pymunk": "simulated scenes alone",
    "tensorrt": "an exported denoiser alone",
    "tensorrt_rtx": "an exported denoiser alone",
    "tensorflow": "another framework",
    "torch.utils.tensorboard": "training alone",
    "transformers.pipelines": "the loop is ours",
    "transformers.trainer": "training alone",
}
"""Module -> why a run's start does without it. Each costs a tenth of a second to seconds."""

START = """
import sys
from engine.build import libraries, model_folders
with libraries.without_unused():
    found = model_folders.find_generator("demo"), model_folders.find_critic("demo")
    libraries.import_families(*found)
    for one in found:
        one.loader().load(one.path, device="cpu", dtype="fp32", with_weights=False)
print(*(name for name, module in sys.modules.items() if module is not None))
"""


def test_a_start_imports_nothing_that_it_does_not_use_nor_what_would_break_it(tmp_path: Path) -> None:
    for name in UNUSED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('built for another torch')\n")
        record = tmp_path / f"{name}-9.9.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
        (record / "RECORD").write_text(f"{name}/__init__.py,,\n")
    places = os.pathsep.join([str(ROOT), str(tmp_path)])
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", START], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = set(done.stdout.split())
    assert {"torch", "diffusers", "transformers"} <= loaded
    assert not loaded.intersection({*UNUSED, *DEFERRED})


def test_what_is_hidden_is_found_again_and_what_was_imported_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("unused_new", "unused_old"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(libraries, "UNUSED", {"unused_new": "", "unused_old": ""})
    old = __import__("unused_old")
    with without_unused():
        assert __import__("unused_old") is old
        with pytest.raises(ModuleNotFoundError):
            __import__("unused_new")
    assert __import__("unused_new").__name__ == "unused_new"
    monkeypatch.delitem(sys.modules, "unused_new")
    monkeypatch.delitem(sys.modules, "unused_old")


def test_imports_ahead_leave_errors_to_the_run_and_the_collector_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig(dataset=tmp_path, out=tmp_path / "out")
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(ModelFolder, "loader", lambda self: seen.append((self.family, gc.isenabled())))
    with importing_ahead(config):
        pass
    assert seen == [(find_generator("demo").family, False), ("qwen_vl", False)]
    missing = replace(config, generator=replace(config.generator, name=str(tmp_path / "none")))
    with importing_ahead(missing):
        pass
    assert len(seen) == 2 and gc.isenabled() and capfd.readouterr().err == ""
