"""What stands beside a field: read as entries, checked as values, worded for people."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from engine.errors import ConfigError
from engine.settings.fields import entries, same_setting, section, setting, validate
from engine.settings.toml import from_table, rename, to_toml


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int | None = setting(None, low=1, unset="as large as fits", help="Size of it.")
    names: tuple[str, ...] = setting(("a", "b"), help="Names of it.")

    def __post_init__(self) -> None:
        validate(self, "inner")


@dataclass(frozen=True, kw_only=True)
class Outer:
    device: str = setting("cpu", choices=("cpu", "cuda"), panel="Inside", help="Where.")
    file: str = setting("", unset="none", metavar="off|FILE", option="--from", help="What.")
    inner: Inner = section(Inner, title="Inside", help="The inner part.")

    def __post_init__(self) -> None:
        validate(self, "")


ENTRIES = {entry.key: entry for entry in entries(Outer, panel="Outside")}


def test_entries_have_their_place_option_and_panel() -> None:
    assert list(ENTRIES) == ["device", "file", "inner.size", "inner.names"]
    found = [(e.section, e.name, e.option, e.panel) for e in ENTRIES.values()]
    assert found == [
        ("", "device", "--device", "Inside"),
        ("", "file", "--from", "Outside"),
        ("inner", "size", "--size", "Inside"),
        ("inner", "names", "--names", "Inside"),
    ]


def test_entries_are_worded() -> None:
    assert [entry.default_text for entry in ENTRIES.values()] == ["cpu", "none", "as large as fits", "a,b"]
    allowed = [entry.allowed for entry in ENTRIES.values()]
    assert allowed == ["cpu, cuda", "off, FILE", "a whole number, at least 1", "a list of names"]
    assert ENTRIES["inner.size"].kind is int


def test_values_are_checked_where_they_are_made() -> None:
    with pytest.raises(ConfigError, match=r"inner\.size is 0, out of range"):
        Inner(size=0)
    with pytest.raises(ConfigError, match="device is 'tpu'"):
        Outer(device="tpu")


def test_a_setting_is_declared_once_and_taken_over_with_another_default() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Other:
        size: int | None = same_setting(Inner, "size", 7, unset="no size")

    (entry,) = entries(Other)
    assert (entry.default, entry.setting.help, entry.setting.low) == (7, "Size of it.", 1)


def test_a_default_that_is_too_long_for_a_table_is_told_otherwise() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Long:
        text: str = setting("word " * 100, shown="that of a file", help="Text.")
        numbers: tuple[float, ...] | None = setting(None, unset="none", help="Numbers.")

    assert [entry.default_text for entry in entries(Long)] == ["that of a file", "none"]
    assert [entry.allowed for entry in entries(Long)] == ["text", "a list of numbers"]
    assert from_table(Long, {"numbers": [1, 0.5]}).numbers == (1.0, 0.5)


def test_a_table_is_read_and_written() -> None:
    made = Outer(file="x", inner=Inner(size=2, names=()))
    assert to_toml(made) == 'device = "cpu"\nfile = "x"\n\n[inner]\nsize = 2\nnames = []\n'
    assert from_table(Outer, {"file": "x", "inner": {"size": 2, "names": []}}) == made
    with pytest.raises(ConfigError, match=r"inner\.sise is not a setting; nearest: inner\.size"):
        from_table(Outer, {"inner": {"sise": 2}})


def test_old_names_are_put_under_the_present_ones() -> None:
    names = {"inner.length": "inner.size", "absent.a": "absent.b"}
    table = {"inner": {"length": 3}, "device": "cuda"}
    rename(table, names)
    assert table == {"inner": {"size": 3}, "device": "cuda"}
    rename(wrong := {"inner": 5}, names)
    assert wrong == {"inner": 5}, "what is no table is for the reader to refuse"
