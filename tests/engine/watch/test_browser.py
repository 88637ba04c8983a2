"""The page in a real browser while a run goes on: it follows, plays, comes back, and fits every screen."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_run import SCENES, make_attempt, make_plan, make_scenarios
from watch_page import Page, watching

from bench.perf.chromium import CHROMIUM, Browser
from engine.runs.live import Live
from engine.runs.manifest import write_manifest
from engine.runs.requests import Requests, ask
from engine.runs.store import RunStore
from engine.runs.trace import HostRecorder
from engine.runs.trace_file import kept_trace
from engine.types import Outcome, PlanReply, Scenario, Wish
from kernels.files import file_digest

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

GIB = 1 << 30
PLAN = {"parts": {"generator": {"held": {"weights": 10 * GIB}, "working": {}}}, "peak_bytes": 19 * GIB}


class Going:
    """A run of two scenarios that goes on, step by step as a test wants it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "live-run"
        self.folder.mkdir()
        self.scenarios = make_scenarios(folder, SCENES[:2])
        self.store = RunStore.create(self.folder, self.scenarios)
        prefixes = {one.id: file_digest(one.prefix.path) for one in self.scenarios}
        write_manifest(self.folder / "manifest.json", {"prefixes": prefixes, "memory": PLAN})
        self.control = Requests(self.folder, self.store.requests, [one.id for one in self.scenarios])
        self.recorder = HostRecorder()
        self.seconds = 0.0
        memory = {"allocated": 15 * GIB, "peak_allocated": 18 * GIB}
        self.live = Live(self.folder, _NoDisplay(), worked_s=lambda: self.seconds, memory=lambda: memory)

    def takes(self, scenario: Scenario, index: int, score: float | None) -> None:
        """One more take, with its steps in the trace."""
        with self.recorder.span("generate", scenario.id, index, "generate"):
            attempt = make_attempt(self.folder, scenario, index, score, hue=60 * index)
        self.store.attempt(scenario.id, attempt)
        self.seconds += 40.0
        self.steps(scenario)

    def steps(self, scenario: Scenario) -> None:
        self.live.update("generate", scenario.id, 9, 16)
        self.live._write()


class _NoDisplay:
    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None:
        pass


@pytest.fixture(scope="module")
def going(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Going]:
    run = Going(tmp_path_factory.mktemp("going"))
    with run.store, kept_trace(run.folder, run.recorder) as note:
        one = run.scenarios[0]
        run.store.plan(one.id, PlanReply(plan=make_plan(), raw="{}", num_tokens=160, seconds=0.9))
        run.takes(one, 0, 38)
        note()
        yield run


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = Browser(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


def visit(browser: Browser, page: Page) -> None:
    browser.events.clear()
    browser.call("Page.navigate", {"url": page.url})
    browser.until("document.readyState === 'complete' && document.documentElement.dataset.ready === 'true'")
    browser.run("page.period = 100")


def text(browser: Browser, selector: str) -> str:
    return str(browser.run(f"document.querySelector({selector!r}).textContent"))


def look(browser: Browser, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", {"features": features})


TAKES = "[...document.querySelectorAll('#scenes video[data-role=take]')]"


def test_the_page_follows_a_run_to_its_end_and_comes_back_with_its_server(
    browser: Browser, going: Going
) -> None:
    first, second = going.scenarios
    with watching(going.folder) as page:
        visit(browser, page)
        assert text(browser, "#scenes h2") == first.id
        assert "running" in text(browser, "[data-part=status]") and "9/16" in text(browser, "[data-part=now]")
        assert "15.00" in text(browser, "#memory") and "19.00" in text(browser, "#memory")
        assert browser.run("document.querySelectorAll('#lanes svg rect').length") == 1

        browser.run("document.getElementById('viewer').scrollIntoView({behavior: 'instant'})")
        browser.until(f"{TAKES}.length === 1 && {TAKES}[0].currentTime > 0.3")
        browser.until("document.querySelector('#scenes video[data-role=prefix]').readyState >= 1")
        assert browser.run("document.documentElement.dataset.brokenVideos || ''") == ""
        browser.run(f"{TAKES}[0].currentTime = 4.2")
        browser.until(f"{TAKES}[0].currentTime >= 4.2")

        going.takes(first, 1, 64)  # the page shows it without being loaded again
        browser.until(f"{TAKES}.length === 2")
        assert browser.run("document.querySelectorAll('#scenes ins').length") > 0, "the prompts' difference"
        assert browser.run("document.querySelectorAll('.latest li').length") == 2

        going.takes(second, 0, 20)
        browser.until(f"document.querySelector('#scenes h2').textContent === {second.id!r}")
        browser.press("k", 75, "k")
        browser.until(f"document.querySelector('#scenes h2').textContent === {first.id!r}")
        assert browser.run("document.getElementById('follow').getAttribute('aria-pressed')") == "false"

        ask(going.folder, Wish.PAUSE)
        going.control._next_s = 0.0
        assert going.control.look().is_paused
        browser.until("document.querySelector('[data-state]').dataset.state === 'paused'")
        browser.click("[data-part=status] .choose")
        typed = text(browser, ".asks .command code")
        assert shlex.split(typed) == ["retake", "unpause", str(going.folder.resolve())]

    browser.until("document.getElementById('link').classList.contains('off')")
    made, why = going.store.attempts(second.id), "Broken: no\n  fix: mend"
    going.store.outcome(Outcome(scenario_id=second.id, attempts=made, failure=why))
    with watching(going.folder) as again:
        assert again.url == page.url
        browser.until("document.getElementById('link').classList.contains('on')")
        browser.until("document.getElementById('failures').textContent.includes('fix: mend')")
        assert text(browser, "#scenes h2") == first.id
        assert browser.run("document.documentElement.dataset.errors || ''") == ""
        browser.until(f"{TAKES}.length === 2 && {TAKES}.every(take => take.readyState >= 1)")
        requests = [e for e in browser.events if e["method"] == "Network.requestWillBeSent"]
        sent = [event["params"]["request"]["url"] for event in requests]
        assert sent and all(url.startswith(("http://127.0.0.1:", "data:")) for url in sent)

        browser.press("?", 191, "?")
        assert browser.run("document.getElementById('keys').open")
        browser.press("Escape", 27)
        browser.press("/", 191, "/")
        assert browser.run("document.activeElement.id") == "filter"
        for letter in "fluid":
            browser.press(letter, ord(letter.upper()), letter)
        browser.until("document.querySelectorAll('#overview tbody tr').length === 1")
        browser.run("document.querySelector('#overview tbody a').focus()")
        browser.press("Enter", 13, "\r")
        browser.until(f"document.querySelector('#scenes h2').textContent === {second.id!r}")
        fits_every_screen(browser)


def fits_every_screen(browser: Browser) -> None:
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "dark"), (390, "light")):
        look(browser, width, scheme)
        assert browser.run("document.documentElement.scrollWidth") <= width
        browser.run("scrollTo({top: 0, behavior: 'instant'})")
        brightness = float(np.median(browser.picture()))
        assert brightness > 200 if scheme == "light" else brightness < 60
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.call("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.slow
def test_names_that_a_url_would_read_otherwise_play(browser: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "run #1"
    (scenario,) = make_scenarios(tmp_path, SCENES[:1])
    odd = replace(scenario, id="50 % of #1?", output_name="odd.mp4")
    with RunStore.create(folder, [odd]) as store:
        store.attempt(odd.id, make_attempt(folder, odd, 0, 50, hue=10))
    with watching(folder) as page:
        visit(browser, page)
        browser.run("document.getElementById('viewer').scrollIntoView({behavior: 'instant'})")
        browser.until(f"{TAKES}.length === 1 && {TAKES}[0].readyState >= 2")
        browser.until("document.querySelector('.latest video').readyState >= 1")
        assert browser.run("document.documentElement.dataset.brokenVideos || ''") == ""
