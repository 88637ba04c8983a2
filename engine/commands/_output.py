"""What every command has in common: how much it says and where, and its result as JSON for other programs.

Knows no command. Results go to stdout, what went wrong to stderr. With `--json -` stdout is the document's
alone; with -q it stays empty but for that.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.commands._console import make_console
from engine.errors import ConfigError
from engine.runs.log_file import OURS, LineFormatter, is_ours
from kernels.files import STDOUT, whole_file

console = make_console()
errors = make_console(stderr=True)

PANEL = "Output"

Verbose = Annotated[
    int,
    typer.Option(
        "-v",
        "--verbose",
        count=True,
        rich_help_panel=PANEL,
        show_default=False,
        help="Show on stderr what is chosen and what libraries warn of; -vv: every detail.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", rich_help_panel=PANEL, help="Show nothing but what went wrong.")
]


def result_file(where: Path | None) -> Path | None:
    """Of an option: ConfigError for what cannot become a file, told before hours of work and not after."""
    if where is None or where == STDOUT or (where.exists() and not where.is_file() and not where.is_dir()):
        return where  # devices and pipes are written as they are
    if where.is_dir():
        raise ConfigError(f"{where} is a folder", fix=f"give a file, such as {where / 'result.json'}")
    above = next(folder for folder in where.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ConfigError(f"{where} cannot be written: {above} is a file", fix="give a file in a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{where} cannot be written: {above} is not yours to write in", fix="give another")
    return where


def _leave_stdout(where: Path | None) -> Path | None:
    if where == STDOUT:
        console.stderr = True
    return result_file(where)


JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        rich_help_panel=PANEL,
        callback=_leave_stdout,
        help="Write the result there as JSON; - prints it, and all else goes to stderr.",
    ),
]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]


class Commands(typer.Typer):
    """Commands that take -v and -q, wherever they are registered."""

    def command(  # type: ignore[override] # of its arguments those that we use
        self, name: str | None = None, *, help: str | None = None, epilog: str | None = None
    ) -> Callable[[Any], Any]:
        register = super().command(name, help=help, epilog=epilog)

        def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
            register(_speaking(command))
            return command

        return decorate


def _speaking(command: Callable[..., Any]) -> Callable[..., Any]:
    """`command` with the options -v and -q, which it does not see."""

    @functools.wraps(command)
    def _command(**values: Any) -> Any:
        speak(values.pop("verbose"), values.pop("quiet"))
        return command(**values)

    own = [*inspect.signature(command, eval_str=True).parameters.values()]
    own += [
        inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=0, annotation=Verbose),
        inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet),
    ]
    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    _command.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    _command.__annotations__ = {parameter.name: parameter.annotation for parameter in own}
    return _command


class _Terminal(logging.Handler):
    """Log records on stderr: warnings of ours; with -v what is chosen and what libraries warn of."""

    def __init__(self) -> None:
        super().__init__()
        self.verbosity = 0
        self.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))

    def filter(self, record: logging.LogRecord) -> bool:
        louder = -1 if console.quiet else self.verbosity
        return record.levelno >= logging.WARNING - 10 * (louder if is_ours(record) else louder - 1)

    def emit(self, record: logging.LogRecord) -> None:
        errors.print(self.format(record), style="dim", soft_wrap=True)


_terminal = _Terminal()


def speak(verbose: int, quiet: bool) -> None:
    """As the options say that were given so far, of the command and before it."""
    if quiet:
        console.quiet = True
    _terminal.verbosity += verbose
    if console.quiet and _terminal.verbosity > 0:
        raise ConfigError("-v and -q contradict each other", fix="give one of them")
    level = logging.WARNING - 10 * _terminal.verbosity
    for name in OURS:
        logger = logging.getLogger(name)
        logger.setLevel(min(logger.level or level, level))


@contextmanager
def speaking() -> Iterator[None]:
    """Inside, records reach the terminal, and what the options change is as it was afterwards."""
    console.quiet, console.stderr, _terminal.verbosity = False, False, 0
    levels = {name: logging.getLogger(name).level for name in OURS}
    logging.captureWarnings(True)
    logging.getLogger().addHandler(_terminal)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(_terminal)
        logging.captureWarnings(False)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        console.quiet, console.stderr, _terminal.verbosity = False, False, 0


def print_line(text: str, style: str | None = None) -> None:
    """One line as it is, which a terminal wraps and a pipe keeps whole. In red or yellow it says what went
    wrong, and goes to stderr."""
    to = errors if style in ("red", "yellow") else console
    to.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def confirm(question: str, given: bool) -> bool:
    """Asks on the terminal; without one, and without --yes, it is refused."""
    if given:
        return True
    if not sys.stdin.isatty():
        raise ConfigError(f"nobody is there to answer: {question}", fix="add --yes, or call it in a terminal")
    return typer.confirm(question, err=True)


def in_units(num_bytes: int) -> str:
    """ "0.4 MB", "12.0 GB"."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def print_version(wanted: bool) -> None:
    if wanted:
        print_line(f"retake {version()}")
        raise typer.Exit


def version() -> str:
    try:
        return importlib.metadata.version("retake-engine")
    except importlib.metadata.PackageNotFoundError:
        return "unknown: it is not installed"


def write_json(document: Any, where: Path | None) -> None:
    """To the file, or to stdout; not at all for None. What is no number is null, paths are text."""
    if where is None:
        return
    text = json.dumps(_without_nan(document), indent=1, default=str, allow_nan=False) + "\n"
    if where == STDOUT:
        sys.stdout.write(text)
        return
    with whole_file(where) as part:
        part.write_text(text, encoding="utf-8")
    print_line(f"written: {where}")


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
