"""The table of video models: made on a CPU with tiny models, gone on with, summed up, told on the page."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.perf import resumed
from bench.perf.models import __main__ as command
from bench.perf.models import measure
from bench.perf.models.document import joined, summary
from bench.perf.models.rows import BUDGETED, LORA, ROWS, Row, chosen
from bench.perf.models.sizes import ANYFLOW, NAMES, SIZES, TI2V, VACE
from bench.results_page.page import make_page
from engine.errors import ConfigError
from engine.machine.memory import GIB

SETTINGS = {"size": "tiny", "preset": "fast"}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def words(models: Path, out: Path, *only: str) -> list[str]:
    return ["--models", str(models), "--size", "tiny", "--out", str(out), "--in-process", "--only", *only]


def run(models: Path, out: Path, *only: str) -> list[dict[str, Any]]:
    status = command.main(words(models, out, *only), started_s=time.perf_counter())
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"]
    assert status == 0
    return rows


# --- rows and their sums ------------------------------------------------------------------------------------


def test_rows_are_named_by_model_stage_and_detail() -> None:
    assert chosen(None) == list(ROWS) and len({row.name for row in ROWS}) == len(ROWS)
    assert {row.model for row in ROWS} == set(NAMES)
    picked = [row.name for row in chosen([f"{VACE}/{LORA}", f"{TI2V}/budget"])]
    assert picked == [*(f"{TI2V}/budget/{vram}" for vram in ("24GiB", "48GiB", "80GiB")), f"{VACE}/lora"]
    with pytest.raises(ConfigError, match=r"(?s)'vace' is not a row.*use one of: .*vace-14b/budget/24GiB"):
        chosen(["vace"])


def test_each_size_has_each_model() -> None:
    for size in SIZES.values():
        assert tuple(model.name for model in size.models) == NAMES
        assert all(model.timed_steps <= model.whole_steps for model in size.models)


def way(step_s: float, clip_s: float) -> dict[str, Any]:
    return {"step_s": step_s, "clip_s": clip_s, "clip_steps": 50}


def row(name: str, **facts: Any) -> dict[str, Any]:
    model, stage = name.split("/")[:2]
    return {"name": name, "model": model, "stage": stage, "state": "run", "vram": ""} | facts


PLANNED = {"planned_bytes": 20 * GIB, "changed": ["denoise.vae_chunk = 2 saves 3 GiB: more passes"]}
DOCUMENTED = [
    row(
        f"{VACE}/budget/48GiB",
        vram="48GiB",
        peak_allocated_bytes=19 * GIB,
        peak_reserved_bytes=22 * GIB,
        **PLANNED,
        **way(9.0, 470.0),
    ),
    row(
        f"{TI2V}/budget/24GiB",
        vram="24GiB",
        peak_allocated_bytes=25 * GIB,
        peak_reserved_bytes=25 * GIB,
        **PLANNED,
        **way(1.0, 60.0),
    ),
    row(
        f"{VACE}/budget/24GiB", vram="24GiB", state="refused", why="the models need 30 GiB of 23 GiB", fix="x"
    ),
    row(f"{VACE}/diffusers/difference", latent_error=0.01, latent_error_of_timed=0.04),
    row(f"{VACE}/diffusers/round-0", ours=way(9.0, 470.0), library=way(18.0, 940.0)),
    row(f"{VACE}/diffusers/round-1", ours=way(11.0, 530.0), library=way(22.0, 1060.0)),
    row(
        f"{VACE}/lora",
        latent_change=0.1,
        step_ratio=1.1,
        step_s={"plain": 10.0, "merged": 11.0},
        steps_s={"plain": [10.0], "merged": [11.0]},
    ),
]


def test_the_summary_is_computed_from_the_rows() -> None:
    assert summary(DOCUMENTED) == {
        "num_run": 2,
        "num_refused": 1,
        "plan_error_worst": pytest.approx(-0.2),
        f"{VACE}_step_s": 10.0,
        f"{VACE}_library_step_s": 20.0,
        f"{VACE}_step_over_diffusers": 2.0,
        f"{VACE}_clip_s": 500.0,
        f"{VACE}_library_clip_s": 1000.0,
        f"{VACE}_clip_over_diffusers": 2.0,
        f"{VACE}_lora_step_ratio": 1.1,
        f"{VACE}_latent_error": 0.01,
    }


def test_what_does_not_hold_is_told() -> None:
    document = joined(DOCUMENTED, SETTINGS, "c")
    checks = {check["name"].rpartition(": ")[2].split(" ")[0]: check["holds"] for check in document["checks"]}
    assert checks == {"each": False, "nothing": True, "plans": False, "latents": True, "a": False}
    wrong = [{**DOCUMENTED[3], "latent_error": 0.5}]
    assert not joined(wrong, SETTINGS, "c")["all_checks_hold"]
    unused = [{**DOCUMENTED[6], "step_ratio": 1.0, "latent_change": 0.0}]
    assert not joined(unused, SETTINGS, "c")["all_checks_hold"], "the LoRA changed nothing"


def test_the_results_page_has_a_section_of_it(tmp_path: Path) -> None:
    assert "beside a 4-bit critic" not in make_page(tmp_path).text
    document = joined(DOCUMENTED, SETTINGS, "python -m bench.perf.models")
    (tmp_path / "models_h200.json").write_text(json.dumps(document))
    text = make_page(tmp_path).text
    assert f"{VACE}: 500.0 s a clip, 2.00x diffusers; memory planned at most 20.0 % off; 1 refused" in text
    assert f"| {VACE} | 48GiB | 20.00 | 19.00 | +5.3 | 9.000 | 470.0 | denoise.vae_chunk = 2 |" in text
    assert "refused: the models need 30 GiB of 23 GiB" in text
    assert f"| {VACE} | 10.000 | 11.000 | 1.100 | 1 |" in text


# --- measured with tiny models ------------------------------------------------------------------------------


def test_a_file_of_other_settings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.json"
    out.write_text(json.dumps(joined([], {"size": "full", "preset": "fast"}, "c")))
    assert command.main(words(tmp_path, out, TI2V)) == 2
    assert "name another --out" in capsys.readouterr().err


def test_rows_go_into_the_file_one_by_one_and_are_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, seen = tmp_path / "x.json", list[list[str]]()

    def measured(options: Any, wanted: list[Row], rows: Any, deadline_s: float) -> Iterator[dict[str, Any]]:
        seen.append([one.name for one in wanted])
        for one in wanted[:2]:  # as if the time ended there
            state = "failed" if one.detail == "48GiB" else "refused"
            yield row(one.name, vram=one.detail, state=state, why="too little", row_s=1.0)

    monkeypatch.setattr(measure, "measure", measured)

    def in_process(given: list[str], check: bool) -> Any:
        command.main(given[3:], started_s=time.perf_counter())
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(resumed, "subprocess", SimpleNamespace(run=in_process))
    given = [word for word in words(tmp_path, out, f"{TI2V}/{BUDGETED}") if word != "--in-process"]
    for status in (1, 1):
        assert command.main(given, started_s=time.perf_counter()) == status
    every = [f"{TI2V}/budget/{vram}" for vram in ("24GiB", "48GiB", "80GiB")]
    assert seen == [every, every[1:]], "what failed is measured again"
    assert f"{every[0]}, after 1 s: refused: too little" in capsys.readouterr().out
    document = json.loads(out.read_text())
    assert [one["name"] for one in document["rows"]] == [every[0], every[1], every[2]]
    assert document["manifest"]["packages"]["torch"] and document["summary"]["num_refused"] == 2


def test_what_a_broken_process_left_is_measured_stage_by_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "x.json", list[list[str]]()

    def measured(options: Any, wanted: list[Row], rows: Any, deadline_s: float) -> Iterator[dict[str, Any]]:
        seen.append([one.name for one in wanted])
        if wanted[0].stage == BUDGETED:
            yield row(wanted[0].name, state="failed", why="too little", row_s=1.0)
            raise KeyError("a process that breaks")
        for one in wanted:
            yield row(one.name, state="refused", why="too little", row_s=1.0)

    monkeypatch.setattr(measure, "measure", measured)

    def in_process(given: list[str], check: bool) -> Any:
        try:
            command.main(given[3:], started_s=time.perf_counter())
        except KeyError:
            return SimpleNamespace(returncode=1)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(resumed, "subprocess", SimpleNamespace(run=in_process))
    given = [word for word in words(tmp_path, out, TI2V) if word != "--in-process"]
    command.main(given, started_s=time.perf_counter())
    names = [one.name for one in ROWS if one.model == TI2V]
    assert seen == [names, names[1:3], names[3:6], names[6:]], "what failed has its turn in the next command"


def test_an_error_of_a_library_is_a_row_after_which_the_next_is_measured(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> dict[str, Any]:
        raise RuntimeError("CUDA error\nof many lines")

    monkeypatch.setattr(measure, "_difference", breaks)
    difference, lora = run(models, tmp_path / "x.json", f"{TI2V}/diffusers/difference", f"{TI2V}/lora")
    assert (difference["state"], difference["why"]) == ("failed", "CUDA error") and lora["state"] == "run"
    assert not json.loads((tmp_path / "x.json").read_text())["all_checks_hold"]


def test_rows_of_two_processes_come_into_one_file_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of two GPUs: the file has another row when the first process writes its own."""
    out = tmp_path / "x.json"
    other = row(f"{TI2V}/lora", state="refused", why="x")

    def measured(options: Any, wanted: list[Row], rows: Any, deadline_s: float) -> Iterator[dict[str, Any]]:
        assert not rows
        out.write_text(json.dumps(joined([other], SETTINGS, "c")))
        for one in wanted:
            yield row(one.name, state="refused", why="too little", row_s=1.0)

    monkeypatch.setattr(measure, "measure", measured)
    assert [one["name"] for one in run(tmp_path, out, f"{VACE}/lora")] == [f"{TI2V}/lora", f"{VACE}/lora"]


def test_under_a_budget_a_run_is_measured_or_refused(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    options = command._parser().parse_args(words(models, out, TI2V))
    wanted = [Row(TI2V, BUDGETED, vram) for vram in ("1MiB", "48GiB", "80GiB")]
    found = list(measure.measure(options, wanted, [], time.perf_counter() + 100))
    refused, ran, same = found
    assert [(one["vram"], one["state"]) for one in found] == [
        ("1MiB", "refused"),
        ("48GiB", "run"),
        ("80GiB", "run"),
    ]
    assert "same_run_as" not in ran and same["same_run_as"] == f"{TI2V}/budget/48GiB"
    assert ran["planned_bytes"] > 0 and ran["num_takes"] == 1 and not ran["failures"]
    assert len(ran["steps_s"]) == 2 and ran["clip_steps"] == 3
    assert ran["clip_s"] == pytest.approx(ran["seconds"] + ran["step_s"])
    assert "the models need" in refused["why"] and refused["fix"]


def beside(models: Path, out: Path, name: str) -> None:
    rows = run(
        models, out, f"{name}/diffusers/difference", f"{name}/diffusers/round-0", f"{name}/diffusers/round-1"
    )
    difference, first, _ = rows
    assert difference["latent_error"] < 1e-5 and difference["latent_error_of_timed"] < 1e-4
    assert len(first["ours"]["steps_s"]) >= 2 and first["library"]["steps_s"]
    assert summary(rows)[f"{name}_step_over_diffusers"] > 0


def test_a_take_is_the_pipeline_s_before_it_is_timed(models: Path, tmp_path: Path) -> None:
    beside(models, tmp_path / "x.json", TI2V)


@pytest.mark.slow
@pytest.mark.parametrize("name", [ANYFLOW, VACE])
def test_so_are_those_of_the_other_models(models: Path, tmp_path: Path, name: str) -> None:
    beside(models, tmp_path / "x.json", name)


def test_a_lora_is_merged_by_the_product_and_steps_are_told_beside_those_without(
    models: Path, tmp_path: Path
) -> None:
    [found] = run(models, tmp_path / "x.json", f"{TI2V}/lora")
    assert found["latent_change"] > 1e-4 and found["step_ratio"] > 0
    assert {way: len(steps) for way, steps in found["steps_s"].items()} == {"plain": 4, "merged": 4}
