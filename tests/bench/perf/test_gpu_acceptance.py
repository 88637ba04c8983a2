"""The acceptance script as far as it goes without a card: what it refuses, and its arithmetic."""

from __future__ import annotations

import argparse
import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from tiny_wan import build_folder, edit

from bench.perf import attention_table
from bench.perf import gpu_acceptance as acceptance
from export import pipeline
from export.spec import ExportError
from export.trt.library import Library


def library(target: str, *capabilities: int) -> Library:
    return Library(
        target=target,
        module_name=target,
        version="1",
        needs_gpu=not capabilities,
        capabilities=tuple(capabilities),
    )


def installed(monkeypatch: pytest.MonkeyPatch, *targets: str) -> None:
    monkeypatch.setattr(acceptance, "is_installed", lambda target: target in targets)
    found = {"tensorrt-rtx": library("tensorrt-rtx", 89, 120), "tensorrt": library("tensorrt")}
    monkeypatch.setattr(acceptance, "find", lambda target: found[target])


@pytest.mark.parametrize(
    ("asked", "capability", "targets", "chosen"),
    [
        ("auto", 89, ("tensorrt-rtx", "tensorrt"), "tensorrt-rtx"),
        ("auto", 90, ("tensorrt-rtx", "tensorrt"), "tensorrt"),
        ("auto", 89, ("tensorrt",), "tensorrt"),
        ("tensorrt", 89, ("tensorrt-rtx", "tensorrt"), "tensorrt"),
    ],
)
def test_the_library_that_knows_the_card(
    asked: str, capability: int, targets: tuple[str, ...], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, *targets)
    assert acceptance.choose_target(asked, capability) == chosen


def test_no_library_for_the_card_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "tensorrt-rtx")
    with pytest.raises(ExportError, match="compute capability 90") as caught:
        acceptance.choose_target("auto", 90)
    assert "pip install tensorrt" in caught.value.fix


def test_without_a_gpu_it_ends_with_the_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(sys, "argv", ["gpu_acceptance", "--json", str(tmp_path / "a.json")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(acceptance.__file__), run_name="__main__")
    told = capsys.readouterr()
    assert ended.value.code == 2 and "torch sees no NVIDIA GPU" in told.err
    assert told.out == "" and not (tmp_path / "a.json").exists()


def arguments() -> argparse.Namespace:
    return argparse.Namespace(generator="demo", quant="fp16,fp8", target="auto")


def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "attention", lambda: [{"name": "sdpa_flash"}])
    installed(monkeypatch, "tensorrt-rtx")
    monkeypatch.setattr(acceptance, "present_capability", lambda: 89)


def test_engines_know_a_prefix_of_its_own(tmp_path: Path) -> None:
    folder = build_folder(tmp_path / "own")
    edit(folder, "retake.json", prefix_attention="own")
    given = argparse.Namespace(generator=str(folder), shape=None, out=tmp_path / "out")
    request, _ = acceptance.request_of("fp16", "onnx", 89, given)
    assert str(request.form).startswith("attention dense, its own prefix computed in every step")
    assert pipeline.spec_of(request).form == request.form


def test_a_recipe_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(name: str, *rest: object) -> dict[str, object]:
        if name == "fp16":
            raise ExportError("a gate failed", fix="none")
        return {"passed": True}

    prepared(monkeypatch)
    monkeypatch.setattr(acceptance, "measure", measure)
    document = acceptance.run(arguments())
    assert [record["passed"] for record in document["recipes"]] == [False, True]
    assert "a gate failed" in document["recipes"][0]["error"] and document["passed"] is False


def test_all_recipes_make_it_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(monkeypatch)
    monkeypatch.setattr(acceptance, "measure", lambda *rest: {"passed": True})
    document = acceptance.run(arguments())
    assert document["passed"] is True and document["attention"] == [{"name": "sdpa_flash"}]


def test_attention_is_timed_or_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("what a CPU lacks is what is asserted")
    rows = {row["name"]: row for row in acceptance.attention([(2, 96, 64)], rounds=2)}
    assert set(rows) == set(acceptance.ATTENTIONS)
    exact = rows.pop("sdpa_flash")
    assert len(exact["ms"]) == 2 and exact["relative_error"] < 0.01 and exact["reason"] is None
    assert all(row["reason"] and "ms" not in row for row in rows.values())
    lines = capsys.readouterr().err
    assert "sdpa_flash: " in lines and f"comfy_int8: not timed: {rows['comfy_int8']['reason']}" in lines


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), OSError("no kernel image")])
def test_attention_that_breaks_is_told_and_fails_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records of the recipes took an hour by then."""

    def broken(*_: object) -> list[dict[str, object]]:
        raise error

    monkeypatch.setattr(attention_table, "table", broken)
    rows = acceptance.attention([(2, 96, 64)])
    assert [row["name"] for row in rows] == list(acceptance.ATTENTIONS)
    assert all(row["reason"] == f"{type(error).__name__}: {error}" for row in rows)


def test_the_target_installs_every_library_that_it_times() -> None:
    """comfy-kitchen is in the extra of GPUs: without that its attention would never be timed."""
    root = Path(acceptance.__file__).resolve().parents[2]
    _, _, recipe = (root / "Makefile").read_text(encoding="utf-8").partition("\ngpu-acceptance:")
    (installed,) = re.findall(r"\.\[([a-z,]+)\]", recipe.partition("\n\n")[0])
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = [line for name in installed.split(",") for line in extras["optional-dependencies"][name]]
    assert any(line.startswith("comfy-kitchen") for line in packages)
    assert any(line.startswith("tensorrt-rtx") for line in packages)


@pytest.mark.parametrize(("together", "share"), [(15.0, 0.0), (10.0, 1.0), (12.5, 0.5), (16.0, -0.2)])
def test_how_much_was_hidden(together: float, share: float) -> None:
    assert acceptance.hidden_share(10.0, 5.0, together) == pytest.approx(share)


def test_the_spread_of_times() -> None:
    assert acceptance.spread(list(map(float, range(30, 0, -1)))) == {
        "median": 15.5,
        "p10": 4.0,
        "p90": 27.0,
        "n": 30,
    }


@pytest.mark.gpu
def test_the_overlap_is_measured_around_work_on_another_stream() -> None:
    """How much is hidden depends on what else the card does, so it is not asserted."""
    side = torch.cuda.Stream()

    def on_side() -> None:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(20_000_000)
        torch.cuda.current_stream().wait_stream(side)

    found = acceptance.overlap_test(on_side)
    assert min(found["engine_ms"], found["other_ms"]) > 0
    assert found["together_ms"] >= 0.9 * max(found["engine_ms"], found["other_ms"])
