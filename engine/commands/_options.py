"""Options that several commands share; those of the settings are made from what stands beside each field.

Knows no command and no setting by name. Whether a value is allowed is for the settings to say.
"""

from __future__ import annotations

import functools
import inspect
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer
from rich.markup import escape

from engine.errors import ConfigError, nearest
from engine.settings.config import RunConfig
from engine.settings.fields import Entry, entries

Command = Callable[..., None]
OUTERMOST = "Run"
"""Panel of the settings that stand in no section."""

RunFolder = Annotated[Path, typer.Argument(help="A run folder, as given to --out.", show_default=False)]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML with the same settings, see docs/settings.md; options win over it."),
]

Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        autocompletion=lambda incomplete: [
            f"{entry.key}=" for entry in run_settings() if entry.key.startswith(incomplete)
        ],
        help="A setting by its key in TOML, such as loop.loops=2; repeatable. It wins over --config.",
    ),
]


def with_settings(*, without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Give a command an option for every setting but `without`, and --set for each by its key.

    The command takes those that were given as its first argument, a mapping by dotted key, and declares the
    rest of its own options itself.
    """
    chosen = [entry for entry in run_settings() if entry.key not in without]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def _command(**values: Any) -> None:
            read = {entry.key: _value(entry, values.pop(_parameter_name(entry))) for entry in chosen}
            given = {key: value for key, value in read.items() if value is not None}
            command(given | _assigned(values.pop("assignments") or (), chosen, given), **values)

        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        assignments = inspect.Parameter(
            "assignments", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Assignments
        )
        parameters = [*map(_parameter, chosen), *own, assignments]
        keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        _command.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        _command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return _command

    return decorate


def run_settings() -> list[Entry]:
    """Every setting of a run, panel after panel as --help shows them."""
    found = list(entries(RunConfig, panel=OUTERMOST))
    panels = [entry.panel for entry in found if not entry.setting.panel]
    return sorted(found, key=lambda entry: panels.index(entry.panel))


def names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def numbers(text: str) -> list[int]:
    for part in names(text):
        if not part.isdecimal():
            raise ConfigError(f"{part!r} is not the number of a take", fix="give numbers such as 0,1,2")
    return [int(part) for part in names(text)]


def new_folder(name: str) -> Path:
    """A name of its own also for runs that start in the same second."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _parameter_name(entry: Entry) -> str:
    return entry.key.replace(".", "_")


def _parameter(entry: Entry) -> inspect.Parameter:
    """A parameter as typer reads it; the default None tells what was not given."""
    rule, kind = entry.setting, entry.kind
    is_list = get_origin(kind) is tuple
    metavar = rule.metavar or "|".join(rule.choices) or ("NAME,..." if is_list else None)
    if rule.positional:
        info = typer.Argument(help=escape(rule.help), metavar=metavar, show_default=False)
    else:
        # what is on by default can be switched off, what is off can be switched on
        flag = f"{entry.option}/--no-{entry.option[2:]}" if entry.default is True else entry.option
        info = typer.Option(
            flag,
            help=_help(entry),
            metavar=metavar,
            rich_help_panel=entry.panel,
            autocompletion=_completing(rule.choices) if rule.choices else None,
        )
    return inspect.Parameter(
        _parameter_name(entry),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[(str if is_list else kind) | None, info],
    )


def _completing(values: Collection[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def _help(entry: Entry) -> str:
    default = f"default: {entry.default_text}" if entry.default_text else ""
    facts = "; ".join(fact for fact in (default, entry.setting.bounds) if fact)
    return escape(entry.setting.help) + (f" [dim]{escape(f'[{facts}]')}[/dim]" if facts else "")


def _value(entry: Entry, given: Any) -> Any:
    """What TOML would have of it: lists for comma-separated names, text for paths."""
    if given is not None and get_origin(entry.kind) is tuple:
        return names(given)
    return str(given) if isinstance(given, Path) else given


def _assigned(
    assignments: Sequence[str], chosen: Sequence[Entry], options: Collection[str]
) -> dict[str, object]:
    """The settings that --set names, of which the last one counts; ConfigError for what cannot be meant."""
    by_key = {entry.key: entry for entry in chosen}
    found: dict[str, object] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise ConfigError(f"--set {text!r} sets nothing", fix="give KEY=VALUE, such as loop.loops=2")
        if key not in by_key:
            raise ConfigError(
                f"--set {key!r} is not a setting{nearest(key, by_key)}",
                fix=f"use one of: {', '.join(by_key)}",
            )
        entry = by_key[key]
        if key in options:
            raise ConfigError(
                f"{key} is given twice, by {entry.name.upper() if entry.setting.positional else entry.option}"
                f" and by --set",
                fix="leave one of them out",
            )
        found[key] = _parsed(entry, value.strip())
    return found


def _parsed(entry: Entry, text: str) -> object:
    """What TOML would have of it. What is not of the setting's type stays text, which the section refuses."""
    if get_origin(entry.kind) is tuple:
        return names(text)
    if entry.kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return entry.kind(text) if entry.kind in (int, float) else text
    except ValueError:
        return text
