"""The measurement on a CPU, in small: checked before it is timed, and gone on with where it stopped."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.perf.past_dense import __main__ as past_dense
from bench.perf.past_dense import attention, takes
from bench.perf.past_dense.__main__ import Group, is_whole, main, measure
from bench.perf.past_dense.case import Case, against

torch.set_num_threads(1)


def rows(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    groups = json.loads(path.read_text())["groups"]
    return {name: {row["name"]: row for row in group["rows"]} for name, group in groups.items()}


def test_small_on_a_cpu_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    out = tmp_path / "past_dense.json"
    arguments = ["--small", "--rounds", "1", "--out", str(out)]
    assert main([*arguments, "--only", "forwards, prefix"]) == 0
    assert list(rows(out)) == ["forwards, prefix kept"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("forwards, prefix kept (") == 1
    document = json.loads(out.read_text())
    assert document["kind"] == "past_dense" and "machine" in document["manifest"]["timing"]
    found = rows(out)
    assert len(found) == 6
    cosmos3 = found["forwards of cosmos3-nano, attention exchanged"]
    assert 0 < cosmos3["triton_prefix_sparse"]["relative_error"] < 0.05
    assert "no attention kernel does" in cosmos3["fa3_prefix_sparse"]["reason"]
    for preset in ("fast", "fastest"):
        names = [f"{preset} before", preset, f"{preset}, sparse", f"{preset} before, sparse"]
        takes = [found["takes, denoise steps"][name] for name in names]
        assert all("summary" in row for row in takes)
        sparse = ", sparse by triton_prefix_sparse"
        assert [row["of"] for row in takes] == [f"all 4 steps{told}" for told in ("", "", sparse, sparse)]
        errors = [row["error_to_preset"] for row in takes]
        assert errors[0] == 0 and all(0 < error < 0.3 for error in errors[1:])
    assert set(document["summary"]) == {
        "take_over_fast_before",
        "fastest_take_over_fastest_before",
        "take_over_diffusers",
        "fastest_take_over_diffusers",
    }
    stock = [row for row in found["takes, denoise steps"].values() if row["name"].startswith("diffusers")]
    assert [row["forwards"] for row in stock] == [8, 8]
    assert all("summary" in row and 0 < row["relative_error"] < 0.02 for row in stock)
    assert stock[0]["error_to_preset"] == 0 and "skipped_forwards" not in stock[0]
    assert stock[1]["skipped_forwards"] in range(7)
    kept = found["forwards, prefix kept"]
    assert all("summary" in row for row in kept.values())
    assert kept["own prefix, FA3 FP8 attention, kept"]["relative_error"] < 0.01
    assert kept["own prefix, making what is kept"]["kept_bytes"] > 0
    (attention,) = (group for name, group in found.items() if name.startswith("attention"))
    sparse = attention["triton_prefix_sparse 128x64, 0.25 of the blocks"]
    assert sparse["relative_error"] < 1e-5 < sparse["error_to_exact"]
    assert attention["choice of blocks, and means"]["chosen"] == pytest.approx(2 / 7)
    assert "needs a CUDA GPU" in attention["fa3"]["reason"]
    of_fp8 = [name for name in attention if name.startswith("fa3_fp8_prefix_sparse 128x64, 0.25")]
    assert len(of_fp8) == 2 and all("needs a CUDA GPU" in attention[name]["reason"] for name in of_fp8)
    assert (
        "needs a CUDA GPU" in attention["fa3_fp8 over the prefix, with log-sum-exp, inputs in E4M3"]["reason"]
    )
    assert "comfy-kitchen" in found["passes"]["comfy-kitchen: int8 linear"]["reason"]


def test_what_is_wrong_is_not_timed() -> None:
    one = torch.ones(4)

    def case(name: str, result: torch.Tensor) -> Case:
        check = against(lambda: one, lambda found: found)
        return Case(name=name, of="", make=lambda: lambda: result, check=check, allowed=0.1)

    cases = [case("right", one * 1.01), case("wrong", one * 2), case("nan", one * float("nan"))]
    group = Group(name="g", seconds=0.0, cases=lambda: cases)
    made = {row["name"]: row for row in measure(group, 2, math.inf)}
    assert len(made["right"]["ms"]) == 2
    for name in ("wrong", "nan"):
        assert "not timed" in made[name]["reason"] and "ms" not in made[name]
    late = measure(group, 2, -math.inf)
    assert [row["reason"] for row in late] == ["the budget was spent"] * 3
    assert is_whole(list(made.values())) and not is_whole(late)


def test_rounds_of_slow_cases_end_with_the_budget_but_for_the_first() -> None:
    calls: list[str] = []

    def case(name: str, wait_s: float) -> Case:
        def make() -> Callable[[], None]:
            time.sleep(wait_s)
            return lambda: calls.append(name)

        return Case(name=name, of="", make=make, check=lambda found: {}, allowed=0.0)

    def group(wait_s: float) -> Group:
        return Group(name="g", seconds=0.0, cases=lambda: [case("a", 0.0), case("b", wait_s)], most_rounds=3)

    assert [len(row["ms"]) for row in measure(group(0.0), 12, math.inf)] == [3, 3]
    assert calls == ["a", "b", *"abbaab"]  # the first call of each is that which checks it
    late = measure(group(0.4), 12, time.perf_counter() + 0.2)  # over when the second is ready
    assert [len(row["ms"]) for row in late] == [1, 1]


def test_the_summary_is_of_the_blocks_of_a_run_and_of_the_fastest_take() -> None:
    def of(**medians: float) -> dict[str, Any]:
        made = [
            {"name": n.replace("_x", " 128x64, 0.25 of the blocks"), "summary": {"median": m}}
            for n, m in medians.items()
        ]
        return {"rows": [*made, {"name": "fa3_fp8", "reason": "needs a CUDA GPU"}]}

    named = f"attention {attention.problems(small=False)[0]}"
    rows = of(fa3_fp8=6.0, fa3_prefix_sparse_x=5.0, triton_prefix_sparse_x=7.0, fa3_prefix_sparse_less=1.0)
    assert attention.summary({named: rows}) == {"attention_prefix_over_fa3_fp8": 1.2}
    eight_bit = {"fa3_fp8_prefix_sparse_x": 2.0, "fa3_fp8_prefix_sparse_x, prefix in E4M3": 4.0}
    assert attention.summary({named: of(fa3_fp8=6.0, **eight_bit)}) == {
        "attention_fp8_prefix_over_fa3_fp8": 1.5  # neither side is charged with its rounding
    }
    assert attention.summary({}) == attention.summary({named: of(fa3_fp8=6.0)}) == {}
    made = {
        "fast before": 10.0,
        "fast before, sparse": 8.0,
        "fast": 9.0,
        "fastest before": 4.0,
        "fastest, sparse": 3.0,
    }
    assert takes.summary({takes.NAME: of(**made)}) == {
        "take_over_fast_before": 0.8,
        "fastest_take_over_fastest_before": 0.75,
    }
    assert takes.summary({takes.NAME: of(fast=10.0)}) == takes.summary({}) == {}
    stock = {"diffusers compiled": 20.0, "diffusers compiled, step cache": 16.0}
    assert takes.summary({takes.NAME: of(**stock)}) == {}
    assert takes.summary({takes.NAME: of(**stock, **made)}) == {
        "take_over_fast_before": 0.8,
        "take_over_diffusers": 0.5,
        "fastest_take_over_fastest_before": 0.75,
        "fastest_take_over_diffusers": 0.1875,
    }


def test_without_time_left_no_group_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = [
        Group(name="long", seconds=100.0, cases=lambda: []),
        Group(name="short", seconds=1.0, cases=lambda: []),
    ]
    monkeypatch.setattr(past_dense, "groups", lambda **options: groups)
    out = tmp_path / "o.json"
    assert main(["--out", str(out), "--budget", "50"]) == 1
    told = capsys.readouterr().out
    assert list(rows(out)) == ["short"] and "long: left out" in told and "not measured yet: long;" in told
    assert main(["--out", str(out), "--budget", "50", "--only", "short"]) == 0
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(out), "--only", "none such"])
    assert "they are: long, short" in capsys.readouterr().err
