"""Nested frozen dataclasses from TOML and back: exact keys, each with its place in the message.

Knows no setting by name. Invariant: what is written reads back equal; a key that is unknown is an error.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from engine.errors import ConfigError, nearest
from engine.settings.fields import entries

Table = dict[str, Any]


def read_table(path: Path) -> Table:
    """ConfigError where `path` is no file or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ConfigError(f"{path} is not a file", fix="give the path of a TOML file with settings") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep", fix="correct the file") from None
    except ValueError as error:  # TOML, UTF-8, or a number of more digits than Python reads
        raise ConfigError(f"{path} is not TOML: {error}", fix="correct the file at the place named") from None


def rename(table: Table, names: Mapping[str, str]) -> None:
    """Put what stands under the old name of a setting under the present one, which is in the same section."""
    for old, new in names.items():
        *sections, leaf = old.split(".")
        target: Any = table
        for section in sections:
            target = target.get(section) if isinstance(target, dict) else None
        if not isinstance(target, dict) or leaf not in target:
            continue
        value = target.pop(leaf)
        present = new.rpartition(".")[2]
        if present in target:
            raise ConfigError(f"{old} is the old name of {new}, and both are set", fix=f"remove {old}")
        target[present] = value


def put(table: Table, key: str, value: object) -> None:
    """Set the dotted `key`; ConfigError where something on its way is not a table."""
    *sections, leaf = key.split(".")
    target = table
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(
                f"{section} is {target!r}, not a table", fix=f"write [{section}] above its settings"
            )
    target[leaf] = value


def from_table(cls: type, table: Mapping[str, Any]) -> Any:
    """An instance of `cls`. ConfigError: unknown key, wrong type, value out of range, one that is missing."""
    return _build(cls, table, "", [entry.key for entry in entries(cls)])


def to_toml(config: Any) -> str:
    """TOML of every setting; one that is None is left out, which reads back as None."""
    top: list[str] = []
    tables: list[str] = []
    for entry in fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            lines = [_assignment(inner.name, getattr(value, inner.name)) for inner in fields(value)]
            tables.append("".join([f"\n[{entry.name}]\n", *lines]))
        else:
            top.append(_assignment(entry.name, value))
    return "".join(top + tables)


def _build(cls: type, table: Mapping[str, Any], prefix: str, every_key: list[str]) -> Any:
    hints = get_type_hints(cls)
    known = {entry.name for entry in fields(cls)}
    for key in table:
        if key not in known:
            raise ConfigError(
                f"{prefix}{key} is not a setting{nearest(prefix + key, every_key)}",
                fix="use one of: " + ", ".join(entry.key for entry in entries(cls, prefix)),
            )
    values: dict[str, Any] = {}
    for key, value in table.items():
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{prefix}{key} is {value!r}, not a table", fix=f"write [{key}] above its settings"
                )
            values[key] = _build(hints[key], value, f"{prefix}{key}.", every_key)
        else:
            values[key] = _from_toml(value, hints[key])
    required = {
        e.name: e.metadata["setting"] for e in fields(cls) if e.default is e.default_factory is MISSING
    }
    for key, rule in required.items():
        if key not in values:
            raise ConfigError(
                f"{prefix}{key} is not set",
                fix=f"give {prefix}{key} on the command line or in TOML: {rule.help.removesuffix('.')}",
            )
    return cls(**values)


def _from_toml(value: Any, hint: Any) -> Any:
    """TOML and JSON have no paths and no tuples, and write 5 for 5.0; the section judges the rest."""
    if hint is Path and isinstance(value, str):
        return Path(value)
    lists = [choice for choice in (hint, *get_args(hint)) if get_origin(choice) is tuple]
    if isinstance(value, list) and lists:
        return tuple(_from_toml(item, get_args(lists[0])[0]) for item in value)
    if float in (hint, *get_args(hint)) and type(value) is int:
        return _as_float(value)
    return value


def _as_float(value: int) -> float:
    """Beyond every range where it is too large for one: a whole number may have thousands of digits."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _assignment(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, tuple):
        text = f"[{', '.join(_quoted(item) for item in value)}]"
    elif isinstance(value, (str, Path)):
        text = _quoted(str(value))
    else:
        text = repr(value)
    return f"{key} = {text}\n"


def _quoted(text: str) -> str:
    """A TOML basic string. JSON escapes the same characters, except DEL, which TOML forbids raw."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
