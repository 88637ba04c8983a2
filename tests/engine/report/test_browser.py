"""The report in a real browser: Chromium, driven over its pipe protocol, plays, seeks and prints it."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from report_run import SCENES, make_run
from typer.testing import CliRunner

from bench.perf.chromium import CHROMIUM, Browser
from engine.cli import app
from engine.report.render import render
from engine.report.write import gather, write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def look(browser: Browser, width: int | None = None, scheme: str | None = None) -> None:
    """The width of the page in pixels and the colour scheme, where they are given."""
    if width is not None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.call("Emulation.setDeviceMetricsOverride", size)
    if scheme is not None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", {"features": features})


def look_as_before(browser: Browser) -> None:
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.call("Emulation.setEmulatedMedia", {"features": []})


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
    linked.write_text("".join(render(gather(run), max_embedded=0)), encoding="utf-8")
    browser.open(linked)
    browser.run(f"document.querySelector('{SCENE}').scrollIntoView({{behavior: 'instant'}})")
    browser.until(f"{TIMES}.every(t => t > 0.1)")
    assert browser.run(f"document.querySelector('{SCENE} video').src").startswith("file:")
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
        look(page, width)
        assert page.run("document.documentElement.scrollWidth") <= width
    look_as_before(page)


def test_follows_the_colour_scheme(page: Browser) -> None:
    page.run("scrollTo(0, 0)")
    brightness = {}
    for scheme in ("light", "dark"):
        look(page, scheme=scheme)
        brightness[scheme] = float(np.median(page.picture()))
    look_as_before(page)
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
        look(browser, width, scheme)
        browser.run(f"{code}.textContent = ''; document.querySelector(\"{control}\").focus()")
        browser.press("Enter", 13, "\r")
        browser.until(f"document.querySelector('{SCENE} .copied').textContent !== ''")
        typed = browser.run(f"{code}.textContent")
        assert browser.run("getSelection().toString()") == typed
        assert typed.startswith("retake choose ") and typed.endswith(f"demo-run {name} 1")
        assert browser.run("document.documentElement.scrollWidth") <= width
        ends = browser.run(f"(r => [r.left, r.right])({code}.getBoundingClientRect())")
        assert 0 <= ends[0] < ends[1] <= width
    look_as_before(browser)

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


@pytest.fixture
def packed(browser: Browser, run: Path) -> Browser:
    """The page as a run of thousands of scenarios has it, of six: two rows listed, each scene packed."""
    path = run / "packed.html"
    path.write_text("".join(render(gather(run), max_unpacked=2, num_listed=2)), encoding="utf-8")
    browser.open(path)
    browser.run("scrollTo({top: 0, behavior: 'instant'})")
    return browser


LAST = f"#scene-{SCENES[5][0]}"
ROWS = "[...document.querySelectorAll('#overview tbody th')].map(cell => cell.textContent)"


def type_filter(page: Browser, text: str) -> None:
    page.run(
        f"(() => {{ const f = document.getElementById('filter'); f.value = {text!r};"
        "f.dispatchEvent(new Event('input')); })()"
    )


def test_a_packed_scene_is_there_while_it_is_near_the_screen(packed: Browser) -> None:
    assert packed.run(f"document.querySelector('{LAST} .stage') === null")
    assert packed.run(f"document.querySelector('{LAST} h2').textContent") == SCENES[5][0]
    packed.run(f"document.querySelector('{LAST}').scrollIntoView({{behavior: 'instant'}})")
    packed.until(f"document.querySelectorAll('{LAST} video[data-role=take]').length === 2")
    times = f"[...document.querySelectorAll('{LAST} video[data-role=take]')].map(v => v.currentTime)"
    packed.until(f"{times}.every(t => t > 0.1)")
    packed.run("scrollTo({top: 0, behavior: 'instant'})")
    packed.until(f"document.querySelector('{LAST} .stage') === null")
    assert packed.run("document.documentElement.dataset.errors || ''") == ""


def test_blocks_away_from_the_screen_are_not_laid_out_and_keep_their_height(
    browser: Browser, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.report.render.BLOCK_SCENES", 2)
    path = run / "blocks.html"
    path.write_text("".join(render(gather(run), max_unpacked=2, num_listed=2)), encoding="utf-8")
    browser.open(path)
    is_laid_out = f"document.querySelector('{LAST} h2').checkVisibility({{contentVisibilityAuto: true}})"
    heights = "[...document.querySelectorAll('.block')].map(block => block.getBoundingClientRect().height)"
    browser.run("scrollTo({top: 0, behavior: 'instant'})")
    browser.until(f"!{is_laid_out}")
    assert browser.run(heights) == pytest.approx([2 * (900 + 1.6 * 16)] * 3, abs=0.1)
    browser.run(f"location.hash = '{LAST}'")
    browser.until(f"{is_laid_out} && document.querySelectorAll('.block:last-child > .open').length === 2")
    browser.until("[...document.querySelectorAll('.block:last-child video')].every(v => v.readyState >= 2)")
    opened = browser.run(heights)
    browser.run("scrollTo({top: 0, behavior: 'instant'})")
    browser.until(f"!{is_laid_out} && document.querySelector('{LAST} .stage') === null")
    assert opened[2] > 1900 and browser.run(heights)[2] == pytest.approx(opened[2], abs=1.1)

    fourth = f"document.querySelector('#scene-{SCENES[3][0]}')"
    browser.run(f"location.hash = {fourth}.id")
    browser.until(f"{fourth}.querySelector('.stage') !== null")
    assert 0 < browser.run(f"{fourth}.getBoundingClientRect().top") < 150

    type_filter(browser, SCENES[5][0])  # and not its neighbour in the block
    browser.until(f"{is_laid_out} && document.querySelector('{LAST} .stage') !== null")
    left = browser.run(heights)
    assert left[:2] == [0, 0] and 0 < left[2] < opened[2] - 900
    type_filter(browser, "")
    browser.run("scrollTo({top: 0, behavior: 'instant'})")
    browser.until(f"!{is_laid_out} && document.querySelector('{LAST} .stage') === null")
    scenes = browser.run("[...document.querySelectorAll('.scene')].map(scene => scene.offsetHeight)")
    assert min(scenes) >= 900
    assert browser.run("document.documentElement.dataset.errors || ''") == ""


def test_a_packed_scene_offers_the_command_that_chooses(packed: Browser, run: Path) -> None:
    packed.run(f"document.querySelector('{SCENE}').scrollIntoView({{behavior: 'instant'}})")
    packed.until(f"document.querySelector('{SCENE} .choose') !== null")
    packed.click(f"{SCENE} [data-take='1'] .choose")
    code = f"document.querySelector('{SCENE} .command code').textContent"
    packed.until(f"{code} !== ''")
    assert shlex.split(packed.run(code)) == ["retake", "choose", str(run), SCENES[0][0], "1"]


def test_a_link_in_the_table_leads_to_a_packed_scene(packed: Browser) -> None:
    packed.click("#overview tbody tr:nth-child(2) th a")
    second = f"#scene-{SCENES[1][0]}"
    packed.until(f"document.querySelectorAll('{second} video[data-role=take]').length === 2")
    packed.until(f"Math.abs(document.querySelector('{second}').getBoundingClientRect().top) < 200")


def test_the_filter_finds_rows_that_are_not_listed_and_unpacks_what_it_leaves(packed: Browser) -> None:
    assert packed.run(ROWS) == [SCENES[0][0], SCENES[1][0]]
    type_filter(packed, "optics")
    assert packed.run(ROWS) == [SCENES[2][0]]
    shown = "[...document.querySelectorAll('.scene:not([hidden])')].map(scene => scene.id)"
    assert packed.run(shown) == [f"scene-{SCENES[2][0]}"]
    packed.until(f"document.querySelector('#scene-{SCENES[2][0]} .stage') !== null")
    type_filter(packed, "")
    assert len(packed.run(shown)) == 6


def test_packed_rows_sort_and_more_are_listed(packed: Browser) -> None:
    for _ in range(2):
        packed.click("#overview thead th:nth-child(5) button")  # the gain, largest first
    assert packed.run(ROWS)[0] == SCENES[0][0]
    packed.click("#more")
    packed.click("#more")
    assert len(packed.run(ROWS)) == 6
    assert packed.run("document.getElementById('more').hidden")


def test_the_packed_table_is_one_stop_of_the_tab_key(packed: Browser) -> None:
    assert packed.run("document.querySelectorAll('#overview tbody a[tabindex=\"0\"]').length") == 1
    packed.run("document.querySelector('#overview tbody a').focus()")
    for _ in range(2):
        packed.press("ArrowDown", 40)
    assert packed.run("document.activeElement.textContent") == SCENES[2][0]  # listed as the key came to it
    packed.press("Home", 36)
    assert packed.run("document.activeElement.textContent") == SCENES[0][0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_a_packed_page_fits_the_screen(packed: Browser, width: int, scheme: str) -> None:
    look(packed, width, scheme)
    packed.run(f"document.querySelector('{SCENE}').scrollIntoView({{behavior: 'instant'}})")
    packed.until(f"document.querySelector('{SCENE} .stage') !== null")
    assert packed.run("document.documentElement.scrollWidth") <= width
    brightness = float(np.median(packed.picture()))
    assert brightness > 200 if scheme == "light" else brightness < 60
    look_as_before(packed)


def test_the_filter_hides_scenes_of_a_small_page_too(page: Browser) -> None:
    type_filter(page, "optics")
    shown = "[...document.querySelectorAll('.scene:not([hidden])')].map(scene => scene.id)"
    assert page.run(shown) == [f"scene-{SCENES[2][0]}"]
