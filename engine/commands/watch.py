"""The command that serves a run as a page while it goes on."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.commands._app import app, print_line
from engine.commands._options import RunFolder
from engine.errors import ConfigError

INSTALL = "pip install 'retake-engine[watch]' (from a clone: pip install '.[watch]')"

Port = Annotated[
    int | None,
    typer.Option(
        "--port", metavar="N", min=1, max=65535, help="Of 127.0.0.1; default: the one of before, or any."
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Open it in the browser.")]


@app.command(epilog="Example: [cyan]retake watch runs/first[/]")
def watch(folder: RunFolder, port: Port = None, open_it: Open = False) -> None:
    """Show a run as a page while it goes on: takes as they finish, critiques, lanes, memory, time left.

    For this machine alone, at an address with a token in it; the page only reads the run folder. From another
    machine: ssh -L PORT:127.0.0.1:PORT. Ctrl-C ends it, and not the run.
    """
    import webbrowser

    from engine.runs.folder import require_run
    from engine.runs.watch_page import page_of

    require_run(folder)
    try:
        from engine.watch.serve import serve
    except ImportError as error:
        if error.name is None or error.name.startswith("engine"):
            raise
        raise ConfigError(f"the page needs {error.name}, which is not installed", fix=INSTALL) from error

    def ready(url: str) -> None:
        print_line(f"watch: {url}")
        if open_it:
            webbrowser.open(url)

    there = page_of(folder)
    if there is not None:
        print_line("a page of this run is open already")
        ready(there)
        return
    serve(folder, port=port, ready=ready)
