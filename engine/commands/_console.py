"""Where text reaches the terminal: names and errors are shown as text, whatever they hold.

A file or a store may come from elsewhere, and its names may hold escape codes, markup or text that runs
backwards. Invariant: of what is printed, only our own styles and cursor moves are obeyed.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.style import StyleType
from rich.text import Text

from kernels.files import printable


class PlainConsole(Console):
    """A console that reads no markup in strings and shows no control character; styles are given as such."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def status(
        self,
        status: RenderableType,
        *,
        spinner: str = "dots",
        spinner_style: StyleType = "status.spinner",
        speed: float = 1.0,
        refresh_per_second: float = 12.5,
    ) -> Status:
        return _PlainStatus(
            _plain(status),
            console=self,
            spinner=spinner,
            spinner_style=spinner_style,
            speed=speed,
            refresh_per_second=refresh_per_second,
        )


class _PlainStatus(Status):
    def update(
        self,
        status: RenderableType | None = None,
        *,
        spinner: str | None = None,
        spinner_style: StyleType | None = None,
        speed: float | None = None,
    ) -> None:
        status = None if status is None else _plain(status)
        super().update(status, spinner=spinner, spinner_style=spinner_style, speed=speed)


def _plain(status: RenderableType) -> RenderableType:
    return Text(status) if isinstance(status, str) else status


def make_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """For stdout, or for stderr; `width` in columns where it is not the terminal's."""
    return PlainConsole(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)
