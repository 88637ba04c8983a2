"""What a setting is: a field with its default, what is allowed, its option and its help; and the check of it.

Knows no setting by name. Command line, TOML reader and documentation are made from what stands here beside a
field, so that it is written once.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from engine.errors import ConfigError, nearest

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What stands beside the field of a setting; `low` and `high` are inclusive."""

    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    unset: str = ""  # what None, an empty text or list stands for
    shown: str = ""  # in place of a default that is too long for a table
    option: str = ""  # where it is not named after the field
    metavar: str = ""
    panel: str = ""  # of --help, where it is not that of the section
    positional: bool = False  # an argument of the command line, not an option

    @property
    def bounds(self) -> str:
        """ "at least 1", "from 0.0 to 1.0", or nothing."""
        if self.high is not None:
            return f"from {self.low} to {self.high}"
        return "" if self.low is None else f"at least {self.low}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What stands beside the field of a section."""

    title: str
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A setting in its place: "generator.steps" has the section "generator" and an option --steps."""

    key: str
    hint: Any
    default: Any  # MISSING where one must be given
    setting: Setting
    panel: str

    @property
    def section(self) -> str:
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]

    @property
    def option(self) -> str:
        return self.setting.option or f"--{self.name.replace('_', '-')}"

    @property
    def kind(self) -> Any:
        """The type of a value that is given: without None."""
        choices = get_args(self.hint) if get_origin(self.hint) is types.UnionType else (self.hint,)
        return next(choice for choice in choices if choice is not types.NoneType)

    @property
    def default_text(self) -> str:
        """The default as one would type it; for None, an empty text or list what they stand for."""
        if self.default is MISSING or self.default in (None, "", ()):
            return self.setting.unset
        if self.setting.shown:
            return self.setting.shown
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return ",".join(self.default) if isinstance(self.default, tuple) else str(self.default)

    @property
    def allowed(self) -> str:
        """ "exact, fast, fastest", "a whole number, from 1 to 64", "a list of names", "NAME_OR_DIR"."""
        if self.setting.choices:
            return ", ".join(self.setting.choices)
        named = self.setting.metavar.replace("|", ", ")
        return named or ", ".join(filter(None, (spell(self.kind), self.setting.bounds)))


def setting(
    default: Any,
    *,
    help: str,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    unset: str = "",
    shown: str = "",
    option: str = "",
    metavar: str = "",
    panel: str = "",
) -> Any:
    """A field with its one default and all that is said of it, see `Setting`."""
    rule = Setting(
        help=help,
        choices=choices,
        low=low,
        high=high,
        unset=unset,
        shown=shown,
        option=option,
        metavar=metavar,
        panel=panel,
    )
    return field(default=default, metadata={"setting": rule})


def same_setting(cls: type, name: str, default: Any, *, unset: str) -> Any:
    """The setting that `cls` declares as `name`, with another default."""
    declared = next(entry.metadata["setting"] for entry in fields(cls) if entry.name == name)
    return field(default=default, metadata={"setting": dataclasses.replace(declared, unset=unset)})


def section(cls: type, *, title: str, help: str) -> Any:
    """A field that holds the settings of `cls`."""
    return field(default_factory=cls, metadata={"section": Section(title=title, help=help)})


def entries(cls: type, prefix: str = "", panel: str = "") -> Iterator[Entry]:
    """Every setting of `cls` and of its sections, in their order."""
    hints = get_type_hints(cls)
    for entry in fields(cls):
        if "section" in entry.metadata:
            title = entry.metadata["section"].title
            yield from entries(hints[entry.name], f"{prefix}{entry.name}.", title)
        else:
            rule = entry.metadata["setting"]
            yield Entry(
                key=prefix + entry.name,
                hint=hints[entry.name],
                default=entry.default,
                setting=rule,
                panel=rule.panel or panel,
            )


def validate(values: Any, name: str) -> None:
    """ConfigError unless each value of the section `name` ("": the outermost) is of its type and allowed."""
    hints = get_type_hints(type(values))
    for entry in fields(values):
        key = f"{name}.{entry.name}" if name else entry.name
        value = getattr(values, entry.name)
        if not _has_type(value, hints[entry.name]):
            kind = spell(hints[entry.name])
            raise ConfigError(f"{key} is {value!r}, which is not {kind}", fix=f"give {key} as {kind}")
        if not _is_utf8(value):
            raise ConfigError(
                f"{key} is {value!r}, which is not UTF-8 and cannot be kept in a file of settings",
                fix=f"give {key} in UTF-8; rename the file or folder that it names",
            )
        rule = entry.metadata.get("setting")
        if value is not None and rule is not None:
            _check_rule(key, value, rule)


def _is_utf8(value: Any) -> bool:
    """Bytes of a path that are no UTF-8 become surrogates, which no text file holds."""
    texts = value if isinstance(value, tuple) else (value,)
    try:
        "".join(str(text) for text in texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_rule(key: str, value: Any, rule: Setting) -> None:
    if rule.choices and value not in rule.choices:
        raise ConfigError(
            f"{key} is {value!r}{nearest(value, rule.choices)}",
            fix=f"use one of: {', '.join(rule.choices)}",
        )
    low, high = rule.low, rule.high
    # `not (low <= value)` rather than `value < low`: NaN must be refused too.
    if (low is not None and not low <= value) or (high is not None and not value <= high):
        raise ConfigError(f"{key} is {value!r}, out of range", fix=f"give a value {rule.bounds}")


def spell(hint: Any) -> str:
    """What a user calls a type."""
    if get_origin(hint) is types.UnionType:
        return " or ".join(spell(choice) for choice in get_args(hint) if choice is not types.NoneType)
    if get_origin(hint) is tuple:
        return "a list of numbers" if get_args(hint)[0] is float else "a list of names"
    return "a table" if dataclasses.is_dataclass(hint) else KINDS[hint]


def _has_type(value: Any, hint: Any) -> bool:
    if get_origin(hint) is types.UnionType:
        return any(_has_type(value, choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, get_args(hint)[0]) for item in value)
    if hint in (int, float) and isinstance(value, bool):  # isinstance(True, int) holds
        return False
    return isinstance(value, hint)
