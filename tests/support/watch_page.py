"""`retake watch` as a user starts it, in a process of its own."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Page:
    process: subprocess.Popen[str]
    url: str

    def get(
        self,
        path: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        url: str | None = None,
    ) -> tuple[HTTPResponse, bytes]:
        """Below the page's address, or at another path of its server."""
        place = urlsplit(self.url)
        assert place.hostname is not None
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
        try:
            connection.request(method, url or f"{place.path}{path}", headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def state(self, since: str = "") -> dict[str, Any]:
        _, text = self.get(f"state?since={since}")
        found: dict[str, Any] = json.loads(text)
        return found


@contextmanager
def watching(run: Path, *options: str) -> Iterator[Page]:
    """Until the block ends, by Ctrl-C."""
    command = [sys.executable, "-c", "from engine.cli import main; main()", "watch", str(run), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("watch: http://127.0.0.1:"), line + process.stderr.read()
        try:
            yield Page(process=process, url=line.removeprefix("watch: ").strip())
        finally:
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=30)
            assert process.returncode == 130, rest
            assert "Traceback" not in rest[1], rest[1]
