"""Options that several commands share; those of the settings are made from what stands beside each field.

Knows no command and no setting by name. Whether a value is allowed is for the settings to say.
"""

from __future__ import annotations

import functools
import inspect
import secrets
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer
from rich.markup import escape

from engine.errors import ConfigError
from engine.settings.config import RunConfig
from engine.settings.fields import Entry, entries

Command = Callable[..., None]

RunFolder = Annotated[Path, typer.Argument(help="A run folder, as given to --out.", show_default=False)]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML with the same settings, see docs/settings.md; options win over it."),
]

OUTERMOST = "Run"
"""Panel of the settings that stand in no section."""


def with_settings(*, without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Give a command an option for every setting but `without`.

    The command takes those that were given as its first argument, a mapping by dotted key, and declares the
    rest of its own options itself.
    """
    chosen = [entry for entry in run_settings() if entry.key not in without]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def _command(**values: Any) -> None:
            read = {entry.key: _value(entry, values.pop(_parameter_name(entry))) for entry in chosen}
            command({key: value for key, value in read.items() if value is not None}, **values)

        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [*map(_parameter, chosen), *own]
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
        info = typer.Option(flag, help=_help(entry), metavar=metavar, rich_help_panel=entry.panel)
    return inspect.Parameter(
        _parameter_name(entry),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[(str if is_list else kind) | None, info],
    )


def _help(entry: Entry) -> str:
    default = f"default: {entry.default_text}" if entry.default_text else ""
    facts = "; ".join(fact for fact in (default, entry.setting.bounds) if fact)
    return escape(entry.setting.help) + (f" [dim]{escape(f'[{facts}]')}[/dim]" if facts else "")


def _value(entry: Entry, given: Any) -> Any:
    """What TOML would have of it: lists for comma-separated names, text for paths."""
    if given is not None and get_origin(entry.kind) is tuple:
        return names(given)
    return str(given) if isinstance(given, Path) else given
