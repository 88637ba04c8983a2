"""The browser's bench: memory is read at rest, and holds no second copy of the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.perf.chromium import CHROMIUM, Browser, rested


@pytest.mark.parametrize(
    ("readings", "found"),
    [
        ((350.0, 360.0, 380.0, 394.0, 394.5, 394.2, 394.1, 0.0), 394.1),
        ((5.0, 5.0, 5.0, 5.0, 0.0), 5.0),
        ((0.0, 9.0) * 6, 9.0),  # never at rest
    ],
)
def test_memory_is_read_when_it_grows_no_more(readings: tuple[float, ...], found: float) -> None:
    assert rested(iter(readings).__next__, num=4, every_s=0.0, at_most=12) == found


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_browser_keeps_no_copy_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><html data-ready='true'><meta charset='utf-8'><p>−</p></html>", encoding="utf-8"
    )
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(page)
        sent = [e for e in browser.events if e["method"] == "Network.requestWillBeSent"]
        assert [e["params"]["request"]["url"] for e in sent] == [page.as_uri()]
        with pytest.raises(AssertionError, match="-32000"):
            browser.call("Network.getResponseBody", {"requestId": sent[0]["params"]["requestId"]})
        assert browser.memory_mb() > 0
    finally:
        browser.close()
