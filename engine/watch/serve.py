"""The server of the page: on the loopback interface alone, in its old place where that is free."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import uvicorn

from engine.errors import ConfigError
from engine.runs.watch_page import Place, claimed
from engine.watch.app import make_app
from engine.watch.view import RunView

LOOPBACK = "127.0.0.1"


def serve(run: Path, *, port: int | None = None, ready: Callable[[str], None]) -> None:
    """Until interrupted. `ready` is told the address.

    A page that was open when this ended finds it again: port and token are those of before, where the port is
    free. ConfigError: the port that was asked for is taken, or the run has a page already.
    """
    with claimed(run) as file:
        before = file.before()
        token = secrets.token_hex(24) if before is None else before.token
        view = RunView(run)
        with closing(_listening(port, before)) as listening, ThreadPoolExecutor(1) as reader:
            place = Place(port=listening.getsockname()[1], token=token)
            file.note(place)
            config = uvicorn.Config(
                make_app(view, token, reader),
                log_level="warning",
                access_log=False,  # addresses hold the token
                server_header=False,
                lifespan="off",
                ws="none",
                loop="asyncio",
                http="h11",
                timeout_graceful_shutdown=1,
            )
            ready(place.url)
            try:
                uvicorn.Server(config).run(sockets=[listening])
            finally:
                reader.submit(view.close).result()


def _listening(port: int | None, before: Place | None) -> socket.socket:
    if port is not None:
        try:
            return socket.create_server((LOOPBACK, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used: {error.strerror}", fix="give another --port, or none"
            ) from error
    if before is not None:
        try:
            return socket.create_server((LOOPBACK, before.port))
        except OSError:
            pass  # another program's now
    return socket.create_server((LOOPBACK, 0))
