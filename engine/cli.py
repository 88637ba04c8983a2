"""The command line: every file of a house's `commands` registers its commands, this one starts them.

Parse, call, print: each command is a few lines over a function that works without it. Only commands that run
a model import torch.
"""

from __future__ import annotations

from engine.commands._interrupts import stop_at_once, stopping_at_once

HOUSES = ("engine.commands", "export.commands", "bench.commands")
"""Found by name: the engine imports neither of the houses above it."""

with stopping_at_once():
    from engine import plugins
    from engine.commands._app import app as app

    for _house in HOUSES:
        for _name in plugins.names(_house):
            plugins.load(_house, _name)


def main() -> None:
    """The entry point `retake`."""
    stop_at_once()
    app()


if __name__ == "__main__":
    main()
