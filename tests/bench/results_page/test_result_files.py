"""Measurement files are read whole or refused by name; facts of the machine come from files of every age."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from measurements import MANIFEST, denoiser, kernel_rows, put

from bench.results_page.result_files import (
    MOVED,
    ResultError,
    code_of,
    command_of,
    machine_of,
    read_file,
    read_folder,
)

ROOT = Path(__file__).resolve().parents[3]


def test_order_is_by_kind_then_name(tmp_path: Path) -> None:
    put(tmp_path, "scoring", {})
    put(tmp_path, "zz", {"kind": "something_else", "rows": []})
    put(tmp_path, "attention_b", {"kind": "attention", "rows": kernel_rows()})
    put(tmp_path, "attention_a", {"kind": "attention", "rows": kernel_rows()})
    put(tmp_path, "denoiser_h200", denoiser())
    found = [file.name for file in read_folder(tmp_path)]
    assert found == ["denoiser_h200", "attention_a", "attention_b", "scoring", "zz"]


def test_kind_of_an_older_file_is_its_name(tmp_path: Path) -> None:
    assert read_file(put(tmp_path, "demo_quality", {})).kind == "demo_quality"
    with pytest.raises(ResultError, match="does not say what was measured"):
        read_file(put(tmp_path, "unnamed", {"rows": []}))


@pytest.mark.parametrize("schema", [2, 1.5, "1", None])
def test_newer_schema_is_refused(tmp_path: Path, schema: object) -> None:
    with pytest.raises(ResultError, match=r"denoiser\.json has schema .*reads up to 1"):
        read_file(put(tmp_path, "denoiser", denoiser() | {"schema": schema}))


def test_what_is_no_measurement_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no JSON object"):
        read_file(put(tmp_path, "list", []))
    path = tmp_path / "cut.json"
    path.write_text('{"kind": ', encoding="utf-8")
    with pytest.raises(ResultError, match=r"cut\.json is not JSON"):
        read_file(path)


def test_machine_and_code() -> None:
    document = denoiser()
    assert machine_of(document) == [
        "GPU NVIDIA X", "driver 1.2", "compute capability 9.0", "torch 2.13", "cuDNN 91900",
    ]  # fmt: skip
    assert code_of(document) == "commit 0123456789, 2026-01-02"
    dirty = MANIFEST | {"code": {"commit": "0123456789abcdef", "dirty": True}}
    assert (
        code_of({"manifest": dirty}) == "commit 0123456789, with changes that were not committed, 2026-01-02"
    )


def test_machine_of_a_flat_manifest_with_power_and_clock() -> None:
    manifest = {"gpu": "NVIDIA Y", "driver": "2.0", "power_cap_w": 700.0, "sm_clock_mhz": 1980}
    assert machine_of({"manifest": manifest}) == [
        "GPU NVIDIA Y", "driver 2.0", "power cap 700 W", "SM clock 1980 MHz",
    ]  # fmt: skip


def test_cpu_is_told_only_without_a_gpu() -> None:
    manifest = {"machine": {"gpus": [], "cpu": "some CPU"}}
    assert machine_of({"manifest": manifest, "cores": 2}) == ["CPU some CPU", "2 cores"]
    assert machine_of({"measured_on": {"cpu": "that", "gpus": []}, "manifests": [MANIFEST]}) == ["CPU that"]


def test_missing_facts_are_left_out() -> None:
    assert machine_of({}) == [] and code_of({}) is None and command_of({}) is None
    assert code_of({"manifest": {"code": {"commit": None, "dirty": None}}}) is None
    assert command_of({"manifest": {"argv": ["python", "-m", "y"]}}) == "python -m y"


def test_commands_name_modules_of_today() -> None:
    told = {"command": "python -m bench.suites.scoring_check --rounds 2"}
    assert command_of(told) == "python -m bench.scoring.check.compare --rounds 2"
    assert all(importlib.util.find_spec(module) is not None for module in MOVED.values())


def test_every_command_of_the_page_names_a_module_that_exists() -> None:
    commands = [command_of(file.document) for file in read_folder(ROOT / "bench" / "results")]
    modules = {words[2] for words in (told.split() for told in commands if told) if words[1] == "-m"}
    assert len(modules) > 5
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []
