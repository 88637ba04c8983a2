"""A headless Chromium, driven over its pipe: messages in JSON that end in a zero byte. Knows no page.

Invariant: it reaches no network; whoever closes it leaves no process behind.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.settings.environment import inherited

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,900",
    "--no-startup-window",  # its tab would be a second one, in a process of its own
    "--remote-debugging-pipe",
]
TIMEOUT_S = 60.0


class Browser:
    """Chromium's DevTools protocol: JSON messages that end in a zero byte, on descriptors 3 and 4."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        # Numbers above 4 first, so that the copies onto 3 and 4 in the child cannot close one another.
        low = (*os.pipe(), *os.pipe())
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
        for end in low:
            os.close(end)
        to_child, self._write, self._read, from_child = ends
        self._pid = os.posix_spawn(
            CHROMIUM,
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
            inherited(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, to_child, 3),
                (os.POSIX_SPAWN_DUP2, from_child, 4),
            ],
        )
        os.close(to_child)
        os.close(from_child)
        self._buffer = b""
        self._number = 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        # Nothing here asks for a response's body, and Chromium would keep them in memory that we measure.
        self.call("Network.enable", {"maxTotalBufferSize": 0, "maxResourceBufferSize": 0})

    def call(self, method: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The result of a command of the protocol; AssertionError with what Chromium says against it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments or {}}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            reply = self._next(deadline)
            if reply.get("id") == self._number:
                assert "error" not in reply, reply["error"]
                return dict(reply["result"])
            self.events.append(reply)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._read, 1 << 20) if ready else b""
            if not chunk:
                raise TimeoutError(f"chromium did not answer within {TIMEOUT_S} s")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))

    def run(self, script: str) -> Any:
        """The value of an expression; promises are awaited, exceptions raised here."""
        reply = self.call(
            "Runtime.evaluate", {"expression": script, "awaitPromise": True, "returnByValue": True}
        )
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def until(self, script: str) -> None:
        deadline = time.monotonic() + 20
        while not self.run(script):
            assert time.monotonic() < deadline, f"still false: {script}"
            time.sleep(0.05)

    def open(self, page: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", {"url": page.absolute().as_uri()})
        self.until("document.readyState === 'complete' && document.documentElement.dataset.ready === 'true'")

    def click(self, selector: str) -> None:
        """A real mouse click in the middle of the element, once it rests: what is put in above moves it."""
        x, y = self.run(
            f"(async () => {{ const e = document.querySelector({json.dumps(selector)}); let before = [];"
            "for (let frame = 0; frame < 100; frame++) {"
            "e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "await new Promise(requestAnimationFrame);"
            "const r = e.getBoundingClientRect(), now = [r.x + r.width / 2, r.y + r.height / 2];"
            "if (now[0] === before[0] && now[1] === before[1]) return now;"
            "before = now; }"
            "return before; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            )

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            sent = {"text": text} if kind == "keyDown" and text else {}
            pressed = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, **sent}
            self.call("Input.dispatchKeyEvent", pressed)

    def picture(self) -> NDArray[np.uint8]:
        png = base64.b64decode(self.call("Page.captureScreenshot", {"format": "png"})["data"])
        return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), np.uint8)

    def close(self) -> None:
        os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)
        os.close(self._write)
        os.close(self._read)

    def memory_mb(self) -> float:
        """Proportional set size of the browser and of all its processes, in MB of 10^6 bytes."""
        kilobytes = 0
        for pid in [self._pid, *_descendants(self._pid)]:
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
                kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return kilobytes * 1024 / 1e6

    def rested_memory_mb(self) -> float:
        """As `memory_mb`, at rest: for seconds after its start Chromium loads an interface of its own."""
        return rested(self.memory_mb)


def rested(
    read: Callable[[], float], *, num: int = 8, within: float = 1.0, every_s: float = 0.5, at_most: int = 40
) -> float:
    """The last reading, when `num` in a row lie `within` of one another, or after `at_most`."""
    readings = [read()]
    while len(readings) < at_most and (
        len(readings) < num or max(readings[-num:]) - min(readings[-num:]) > within
    ):
        time.sleep(every_s)
        readings.append(read())
    return readings[-1]


def _descendants(pid: int) -> list[int]:
    """The processes that a process started, and that these started."""
    children: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                children += [int(word) for word in (task / "children").read_text(encoding="ascii").split()]
    return [one for child in children for one in (child, *_descendants(child))]
