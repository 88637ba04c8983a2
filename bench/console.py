"""Where the benchmarks print their tables: a terminal as wide as it is, anything else as wide as a page."""

from __future__ import annotations

import sys

from rich.console import Console

from engine.commands._console import make_console

PAGE_WIDTH = 160  # columns of text that is no terminal's
FAILED, USER_ERROR = 1, 2
"""Exit statuses, as docs/environment.md has them."""


def page_console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return make_console(stderr=stderr, width=None if stream.isatty() else PAGE_WIDTH)


def user_error(error: Exception) -> int:
    """Tells it on stderr; the exit status of the program that it ends before anything is begun."""
    make_console(stderr=True).print(f"error: {error}", soft_wrap=True)
    return USER_ERROR
