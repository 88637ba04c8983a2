"""The report in a real browser: Chromium, driven over its pipe protocol, plays, seeks and prints it."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from report_run import SCENES, make_run
from typer.testing import CliRunner

from engine.cli import app
from engine.report.page import render
from engine.report.write import gather, write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
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
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            os.environ,
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
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
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
        reply = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def until(self, script: str) -> None:
        deadline = time.monotonic() + 20
        while not self.run(script):
            assert time.monotonic() < deadline, f"still false: {script}"
            time.sleep(0.05)

    def open(self, page: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=page.absolute().as_uri())
        self.until("document.readyState === 'complete' && document.documentElement.dataset.ready === 'true'")

    def click(self, selector: str) -> None:
        """A real mouse click in the middle of the element."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            sent = {"text": text} if kind == "keyDown" and text else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **sent
            )

    def picture(self) -> np.ndarray:
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)

    def close(self) -> None:
        os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = Browser(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.fixture
def page(browser: Browser, run: Path) -> Browser:
    browser.open(write_report(run))
    return browser


SCENE = f"#scene-{SCENES[0][0]}"
TIMES = f"[...document.querySelectorAll('{SCENE} video[data-role=take]')].map(v => v.currentTime)"


def test_opens_without_error_and_without_network(page: Browser) -> None:
    page.until("[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
    assert page.run("document.documentElement.dataset.errors || ''") == ""
    assert page.run("document.documentElement.dataset.brokenVideos || ''") == ""
    assert page.run("[...new Set([...document.querySelectorAll('video')].map(v => v.videoWidth))]") == [128]
    assert page.run("document.title") == "Retake: demo-run"
    sent = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert sent and all(url.startswith(("file:", "data:")) for url in sent)
    problems = [e for e in page.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert problems == []


def test_an_error_is_collected(page: Browser) -> None:
    page.run("setTimeout(() => { throw new Error('planted'); }, 0)")
    page.until("(document.documentElement.dataset.errors || '').includes('planted')")


def test_takes_play_together_only_while_visible(page: Browser) -> None:
    page.run("scrollTo(0, 0)")
    page.until(f"[...document.querySelectorAll('{SCENE} video')].every(v => v.paused)")
    page.run(f"document.querySelector('{SCENE}').scrollIntoView({{behavior: 'instant'}})")
    page.until(f"{TIMES}.every(t => t > 0.3)")
    times = page.run(TIMES)
    assert len(times) == 4 and max(times) - min(times) < 0.3


def test_play_button_and_scrub_bar_by_keyboard(page: Browser) -> None:
    page.run(f"document.querySelector('{SCENE} .play').focus()")
    page.press(" ", 32, " ")
    page.until(f"document.querySelector('{SCENE} .play').textContent === 'Play'")
    page.until(f"[...document.querySelectorAll('{SCENE} video')].every(v => v.paused)")
    page.run(f"document.querySelector('{SCENE} .scrub').focus()")
    before = page.run(f"Number(document.querySelector('{SCENE} .scrub').value)")
    for _ in range(3):
        page.press("ArrowRight", 39)
    after = page.run(TIMES)
    assert after == pytest.approx([before + 3 / 8] * 4, abs=0.13)  # frames of 1/8 s


def test_click_on_a_finding_seeks_and_points_to_the_take(page: Browser) -> None:
    page.click(f"{SCENE} [data-of='0'][data-seek='2.6']")
    page.until(f"{TIMES}.every(t => Math.abs(t - 2.6) < 0.01)")
    assert page.run(f"[...document.querySelectorAll('{SCENE} .pointed')].map(c => c.dataset.take)") == ["0"]
    assert page.run(f"document.querySelector('{SCENE} .clock').textContent") == "2.60 s"


def test_table_sorts_and_filters(page: Browser) -> None:
    first = "document.querySelector('#overview tbody tr:not([hidden]) th').textContent"
    for expected in (SCENES[2][0], SCENES[0][0]):  # smallest gain of the scored last, largest first
        page.click("#overview thead th:nth-child(5) button")
        gains = page.run(
            "[...document.querySelectorAll('#overview tbody tr')].map(r => r.cells[4].dataset.value)"
        )
        numbers = [float(gain) for gain in gains if gain]
        assert numbers == sorted(numbers, reverse=expected == SCENES[0][0])
    assert page.run(first) == SCENES[0][0]
    page.run(
        "(() => { const f = document.getElementById('filter'); f.value = 'optics';"
        "f.dispatchEvent(new Event('input')); })()"
    )
    assert page.run("[...document.querySelectorAll('#overview tbody tr:not([hidden]) th')].length") == 1
    assert page.run(first) == SCENES[2][0]


def test_linked_videos_play_from_the_run_folder(browser: Browser, run: Path) -> None:
    linked = run / "linked.html"
    linked.write_text(render(gather(run), max_embedded=0), encoding="utf-8")
    browser.open(linked)
    browser.run(f"document.querySelector('{SCENE}').scrollIntoView({{behavior: 'instant'}})")
    browser.until(f"{TIMES}.every(t => t > 0.1)")
    assert browser.run("document.documentElement.dataset.errors || ''") == ""


def test_the_timeline_and_what_the_run_cost_are_there(page: Browser) -> None:
    """A bar for each take in its lane, told by its title; tables that open."""
    bars = "document.querySelectorAll('#lanes svg rect')"
    assert page.run(f"{bars}.length") > 30
    assert page.run(f"[...{bars}].every(bar => bar.querySelector('title').textContent.includes(' s'))")
    assert page.run(f"[...{bars}].some(bar => bar.getBoundingClientRect().width > 1)")
    page.click("#performance summary")
    page.until("document.querySelector('#performance details').open")
    rows = "[...document.querySelectorAll('#performance details tbody tr')].map(row => row.textContent)"
    assert any("generate" in row and "6.20 s" in row for row in page.run(rows))


def test_narrow_and_wide_pages_do_not_overflow(page: Browser) -> None:
    for width in (360, 800, 1600):
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        assert page.run("document.documentElement.scrollWidth") <= width
    page.call("Emulation.clearDeviceMetricsOverride")


def test_follows_the_colour_scheme(page: Browser) -> None:
    page.run("scrollTo(0, 0)")
    brightness = {}
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        brightness[scheme] = float(np.median(page.picture()))
    page.call("Emulation.setEmulatedMedia", features=[])
    assert brightness["light"] > 200 and brightness["dark"] < 60


def test_print_opens_every_part(page: Browser) -> None:
    assert page.run("document.querySelectorAll('details:not([open])').length") > 0
    assert base64.b64decode(page.call("Page.printToPDF")["data"]).startswith(b"%PDF")
    assert page.run("document.querySelectorAll('details:not([open])').length") == 0


def test_a_take_is_chosen_by_the_command_of_its_control_and_undone(browser: Browser, tmp_path: Path) -> None:
    """By keyboard, at both widths and in both schemes; the command is typed as it is shown."""
    run = make_run(tmp_path)
    name, output = SCENES[0][0], f"{SCENES[0][0]}_scene.mp4"
    browser.open(write_report(run))
    control = f"{SCENE} [data-take='1'] .choose"
    labels = browser.run("[...document.querySelectorAll('.tile .label')].map(l => l.textContent)")
    assert labels[:2] == ["Physics-IQ Verified", "Physics-IQ Original"] and len(set(labels)) == len(labels)
    code = f"document.querySelector('{SCENE} .command code')"
    assert browser.run(f"document.querySelectorAll('{SCENE} .choose').length") == 3  # not of the chosen one
    assert browser.run(f'document.querySelector("{control}").textContent').endswith("attempt-1.mp4")
    for width, scheme in ((1400, "light"), (390, "dark")):
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        scheme_now = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", features=scheme_now)
        browser.run(f"{code}.textContent = ''; document.querySelector(\"{control}\").focus()")
        browser.press("Enter", 13, "\r")
        browser.until(f"document.querySelector('{SCENE} .copied').textContent !== ''")
        typed = browser.run(f"{code}.textContent")
        assert browser.run("getSelection().toString()") == typed
        assert typed.startswith("retake choose ") and typed.endswith(f"demo-run {name} 1")
        assert browser.run("document.documentElement.scrollWidth") <= width
        ends = browser.run(f"(r => [r.left, r.right])({code}.getBoundingClientRect())")
        assert 0 <= ends[0] < ends[1] <= width
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.call("Emulation.setEmulatedMedia", features=[])

    type_command(typed)
    assert (run / "chosen" / output).read_bytes() == (run / f"videos/{name}/attempt-1.mp4").read_bytes()
    browser.open(run / "report.html")
    assert browser.run(f"document.querySelector('{SCENE} .clip.chosen').dataset.take") == "1"
    assert "by you" in browser.run(f"document.querySelector('{SCENE} .clip.chosen').textContent")
    assert "another take was chosen since" in browser.run("document.body.textContent")
    browser.click(f"{SCENE} [data-take='1'] .choose")
    browser.until(f"{code}.textContent.endsWith(' --undo')")
    type_command(browser.run(f"{code}.textContent"))
    browser.open(run / "report.html")
    assert browser.run(f"document.querySelector('{SCENE} .clip.chosen').dataset.take") == "3"
    assert (run / "chosen" / output).read_bytes() == (run / f"videos/{name}/attempt-3.mp4").read_bytes()


def type_command(line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program == "retake"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
