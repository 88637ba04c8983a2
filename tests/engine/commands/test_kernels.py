"""The command `retake kernels`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from engine import cli
from engine.commands._output import _without_nan
from kernels.dispatch import names


def call(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, ["kernels", *map(str, arguments)])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_the_table_names_every_kernel_and_the_choice(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    result = call("--shape", "1x2x300x64", "--no-time", "--json", out)
    for name in names():
        assert name in result.output
    document = json.loads(out.read_text())
    rows = {row["name"]: row for row in document["kernels"]}
    assert list(rows) == names() and document["machine"]["torch"] == torch.__version__
    assert document["problem"]["q_len"] == document["problem"]["kv_len"] == 300
    flash = rows["sdpa_flash"]
    assert flash["reason"] is None and 0 < flash["test"]["errors"]["relative"] < 0.01
    if torch.cuda.is_available():
        assert document["chosen"] is None  # nothing was timed
    else:
        assert document["chosen"] == "sdpa_flash" and "chosen" in result.output
        assert rows["fa3"]["reason"] == "needs a CUDA GPU" and "needs a CUDA GPU" in result.output


def test_keys_of_cross_attention_and_masks(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    call("--shape", "2x3x300x70x64", "--dtype", "fp16", "--mask", "lengths", "--no-time", "--json", out)
    asked = json.loads(out.read_text())["problem"]
    assert (asked["batch"], asked["heads"], asked["q_len"], asked["kv_len"], asked["head_dim"]) == (
        2,
        3,
        300,
        70,
        64,
    )
    assert (asked["dtype"], asked["mask"]) == ("fp16", "lengths")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--shape", "1x2x3"), "four whole numbers"),
        (("--shape", "1x2x0x64"), "four whole numbers"),
        (("--shape", "1x2xthreex64"), "four whole numbers"),
        (("--dtype", "fp8"), "bf16, fp16, fp32"),
        (("--mask", "causal"), "none, lengths"),
    ],
)
def test_a_users_error_has_a_fix(arguments: tuple[str, ...], text: str) -> None:
    assert text in call(*arguments, status=2).output


def test_json_has_no_nan() -> None:
    assert _without_nan({"a": {"b": math.nan}, "c": math.inf, "d": 1.0}) == {
        "a": {"b": None},
        "c": None,
        "d": 1.0,
    }


@pytest.mark.gpu
def test_times_on_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    call("--shape", "1x2x1024x64", "--json", out)
    document = json.loads(out.read_text())
    times = {row["name"]: row["ms"] for row in document["kernels"] if row["ms"] is not None}
    assert "sdpa_flash" in times and document["chosen"] in times
