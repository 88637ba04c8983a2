"""The page over HTTP, for one reader on this machine: its address holds a token, and all that it can do is
read. Knows no run: it asks the view.

Every answer names the change that it is of, so that a page that asks again is told "nothing new" in a line.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.watch.view import RunView

T = TypeVar("T")

HOSTS = frozenset({"127.0.0.1", "localhost"})
"""Names of this machine for itself: a page of another name that leads here, by its DNS, is not answered."""

HEADERS = {
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
}


def make_app(view: RunView, token: str, reader: Executor) -> ASGIApp:
    """`reader`: a thread that alone calls `view`, so that the server never waits for a disk."""

    async def read(function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(reader, function, *arguments)

    shell, script_hash = view.parts.shell(view.run.name)
    policy = (
        f"default-src 'none'; script-src 'sha256-{script_hash}'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    async def page(request: Request) -> Response:
        return HTMLResponse(shell, headers={"content-security-policy": policy})

    async def state(request: Request) -> Response:
        found = await read(view.changes, request.query_params.get("since", ""))
        tag = f'"{found["rev"]}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        return JSONResponse(found, headers={"etag": tag})

    async def scene(request: Request) -> Response:
        found = await read(view.scene, request.path_params["place"])
        return _missing() if found is None else HTMLResponse(found)

    async def video(request: Request) -> Response:
        return _file(await read(view.video, request.path_params["path"]))

    async def prefix(request: Request) -> Response:
        return _file(await read(view.prefix, request.path_params["place"]))

    routes = [
        Route("/", page),
        Route("/state", state),
        Route("/scene/{place:int}", scene),
        Route("/prefix/{place:int}", prefix),
        Route("/{path:path}", video),
    ]
    return Guard(Starlette(routes=routes), token)


def _file(path: Path | None) -> Response:
    """With ranges, without which a browser cannot seek in a clip."""
    if path is None or not path.is_file():
        return _missing()
    return FileResponse(path, media_type="video/mp4")


def _missing() -> Response:
    return PlainTextResponse("not here", status_code=404)


class Guard:
    """Lets through what names this machine and the token, and only reads."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, with_headers)
            return
        _, _, rest = scope["path"][1:].partition("/")
        await self._app({**scope, "path": f"/{rest}", "root_path": ""}, receive, with_headers)

    def _refused(self, scope: Scope) -> Response | None:
        if urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname not in HOSTS:
            return PlainTextResponse("this page is for its own machine", status_code=421)
        given, slash, _ = scope["path"][1:].partition("/")
        if not slash or not secrets.compare_digest(given.encode(), self._token.encode()):
            return _missing()
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("this page only reads", status_code=405, headers={"allow": "GET, HEAD"})
        return None
