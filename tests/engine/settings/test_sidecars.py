"""What stands beside a model: its settings are read, an adapter is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ModelError
from engine.settings.fields import setting, validate
from engine.settings.sidecars import ADAPTERS, SIDECAR, read_sidecar, refuse_adapters


@dataclass(frozen=True, kw_only=True)
class Beside:
    rate: float = setting(8.0, low=1.0, high=240.0, help="Rate of it.")
    sizes: tuple[float, ...] | None = setting(None, help="Sizes of it.")

    def __post_init__(self) -> None:
        validate(self, "")


def test_the_defaults_hold_where_nothing_is_said(tmp_path: Path) -> None:
    assert read_sidecar(tmp_path, Beside) == Beside()
    (tmp_path / SIDECAR).write_text('{"sizes": [3, 2.5]}')
    assert read_sidecar(tmp_path, Beside) == Beside(rate=8.0, sizes=(3.0, 2.5))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"rates": 3}, "rates is not a setting; nearest: rate"),
        ({"rate": 0}, r"rate is 0.0, out of range\n.*from 1.0 to 240.0"),
        ({"rate": 10**400}, "rate is inf, out of range"),
        ({"rate": -(10**400)}, "rate is -inf, out of range"),
        ({"rate": float("nan")}, "rate is nan, out of range"),
        ({"rate": True}, "rate is True, which is not a number"),
        ({"rate": None}, "rate is None, which is not a number"),
        ({"sizes": [True]}, "which is not a list of numbers"),
        ({"sizes": [[1]]}, "which is not a list of numbers"),
        ([], "holds no JSON object"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_its_place(tmp_path: Path, table: Any, says: str) -> None:
    (tmp_path / SIDECAR).write_text(json.dumps(table))
    with pytest.raises(ModelError, match=rf"{SIDECAR}.*{says}"):
        read_sidecar(tmp_path, Beside)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("part", ["", "transformer"])
def test_an_adapter_is_refused_by_name(tmp_path: Path, name: str, part: str) -> None:
    refuse_adapters(tmp_path, ["transformer"], fix="use some tool")
    (tmp_path / part).mkdir(exist_ok=True)
    (tmp_path / part / name).touch()
    with pytest.raises(ModelError, match=rf"holds an adapter \({Path(part) / name}\)") as error:
        refuse_adapters(tmp_path, ["transformer"], fix="use some tool")
    assert error.value.fix == "use some tool"
