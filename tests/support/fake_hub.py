"""A hub on this machine: an HTTP server that has one repository, as huggingface_hub asks for it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_of(repository: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths that were asked for so far."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            place = self.path.partition("?")[0]
            if place.startswith(f"/api/models/{repository}/tree/"):
                tree = [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": COMMIT}
                    for name, path in files.items()
                ]
                self.reply(json.dumps(tree).encode())
            elif place.startswith(f"/api/models/{repository}"):
                about = {"id": repository, "sha": COMMIT, "private": False, "tags": [], "downloads": 0}
                self.reply(json.dumps(about | {"siblings": [{"rfilename": name} for name in files]}).encode())
            elif (name := place.removeprefix(f"/{repository}/resolve/{COMMIT}/")) in files:
                self.reply(files[name].read_bytes())
            else:
                self.send_error(404)

        do_HEAD = do_GET  # as http.server names them

        def reply(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
