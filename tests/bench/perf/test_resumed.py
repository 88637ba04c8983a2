"""Parts in processes of their own: which are begun, with how much time, and what is told at the end."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.perf import resumed
from bench.perf.document import check, headed
from engine.errors import ConfigError


def part(name: str, least_s: float = 1.0, *left: str) -> resumed.Part:
    return resumed.Part(name=name, left=left, least_s=least_s, words=("--only", name))


def test_what_is_there_or_has_no_time_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[list[str]] = []

    def run(command: list[str], check: bool) -> Any:
        begun.append(command[1:])
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(resumed, "subprocess", SimpleNamespace(run=run))
    parts = [part("done"), part("long", 500.0, "a"), part("short", 1.0, "b")]
    broken = resumed.measure_parts("bench.x", parts, time.perf_counter() + 100.4)
    assert broken == [parts[2]]
    assert begun == [["-m", "bench.x", "--only", "short", "--budget", "100"]]
    told = capsys.readouterr().out
    assert told == "done is there\nlong: 100 s are left, 500 are needed\nshort: exit status 3\n"


@pytest.mark.parametrize(("holds", "left", "status"), [(True, [], 0), (False, [], 1), (True, ["b"], 1)])
def test_the_status_says_whether_all_is_measured_and_holds(
    holds: bool, left: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    document = headed("k", "c", {}, [check("a", holds, "x")], manifest={})
    assert resumed.finished(document, left) == status
    assert ("not measured yet: b; the same command goes on" in capsys.readouterr().out) == bool(left)


def test_an_error_of_the_user_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> int:
        raise ConfigError("no such folder", fix="name one")

    assert resumed.exit_status(refused) == 2 and resumed.exit_status(lambda: 1) == 1
    assert capsys.readouterr().err.startswith("error: no such folder")


def test_models_are_named_where_the_benchmark_makes_none(capsys: pytest.CaptureFixture[str]) -> None:
    makes = resumed.parser_of("p", None, budget_s=9.0, models=Path("models"))
    found = makes.parse_args(["--out", "x.json"])
    assert (found.models, found.out, found.budget) == (Path("models"), Path("x.json"), 9.0)
    with pytest.raises(SystemExit):
        resumed.parser_of("p", None, budget_s=9.0, models=None).parse_args(["--out", "x.json"])
    assert "--models" in capsys.readouterr().err
