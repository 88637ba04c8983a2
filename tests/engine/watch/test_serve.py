"""The page over HTTP: for this machine and whoever has its address, and only to be read."""

from __future__ import annotations

import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fake_run import SCENARIOS, Run
from typer.testing import CliRunner
from watch_page import Page, watching

from engine import cli
from engine.errors import ConfigError
from engine.runs.folder import take_lock
from engine.runs.store import RunStore
from engine.runs.watch_page import WATCH, Place, claimed, page_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "run"
    with RunStore.create(folder, SCENARIOS[:3]) as store:
        Run(store).go(limit=2)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Page]:
    with watching(folder) as found:
        yield found


def test_it_is_at_the_loopback_interface_behind_a_token(page: Page) -> None:
    place = urlsplit(page.url)
    assert place.hostname == "127.0.0.1" and len(place.path) > 40
    answer, text = page.get()
    assert answer.status == 200 and b"<title>Retake: run</title>" in text
    for path in ("/", "/state", f"{place.path[:-2]}/state", f"{place.path[:-1]}x/", place.path[:-1], "//"):
        assert page.get(url=path)[0].status == 404, path
    with socket.socket() as other, pytest.raises(OSError):
        other.connect((_own_address(), place.port))


def _own_address() -> str:
    """Of another interface of this machine, as far as the system has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return "127.0.0.2"
        return str(probe.getsockname()[0])


def test_a_name_that_leads_here_from_elsewhere_is_not_answered(page: Page) -> None:
    assert page.get(headers={"Host": "evil.example:80"})[0].status == 421
    assert page.get(headers={"Host": f"localhost:{urlsplit(page.url).port}"})[0].status == 200


def test_nothing_can_be_written(page: Page) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert page.get("state", method=method)[0].status == 405
    assert page.get("state", method="HEAD")[0].status == 200


def test_headers_let_its_own_script_run_alone_and_tell_nobody_the_address(page: Page) -> None:
    answer, _ = page.get()
    policy = answer.headers["content-security-policy"]
    assert (
        "default-src 'none'" in policy and "script-src 'sha256-" in policy and "'unsafe-eval'" not in policy
    )
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert page.get("state")[0].headers["x-content-type-options"] == "nosniff"


def test_a_page_that_asks_again_is_told_that_nothing_is_new(page: Page) -> None:
    answer, _ = page.get("state")
    rev = page.state()["rev"]
    assert answer.headers["etag"] == f'"{rev}"'
    again, text = page.get(f"state?since={rev}", headers={"If-None-Match": f'"{rev}"'})
    assert (again.status, text) == (304, b"")


def test_takes_are_served_in_ranges(page: Page, folder: Path) -> None:
    with RunStore.open(folder, read_only=True) as store:
        path = store.attempts(SCENARIOS[0].id)[0].video_path
    whole = (folder / path).read_bytes()
    answer, text = page.get(path.as_posix(), headers={"Range": "bytes=3-9"})
    assert (answer.status, text) == (206, whole[3:10])
    assert answer.headers["content-range"] == f"bytes 3-9/{len(whole)}"
    assert page.get(path.as_posix())[1] == whole
    for other in ("run.sqlite", "watch.json", "videos/../run.sqlite", "videos/%2e%2e/run.sqlite", "prefix/0"):
        assert page.get(other)[0].status == 404, other


def test_there_is_one_of_a_run_and_others_find_it(page: Page, folder: Path) -> None:
    assert page_of(folder) == page.url
    assert stat.S_IMODE((folder / WATCH).stat().st_mode) == 0o600
    second = CliRunner().invoke(cli.app, ["watch", str(folder)])
    assert second.exit_code == 0 and f"open already\nwatch: {page.url}" in second.output
    with pytest.raises(ConfigError, match="has a page already"), claimed(folder):
        pass
    for goes_on in (True, False):
        with take_lock(folder) if goes_on else nullcontext():
            report = CliRunner().invoke(cli.app, ["report", str(folder)])
        assert report.exit_code == 0 and page.url in report.output, report.output
        assert (page.url in (folder / "report.html").read_text()) is goes_on, "a finished run needs no page"


def test_the_place_of_a_page_outlives_it_and_another_users_is_not_taken(tmp_path: Path) -> None:
    place = Place(port=4711, token="a" * 48)
    with claimed(tmp_path) as first:
        assert first.before() is None
        first.note(place)
        assert page_of(tmp_path) == place.url
    assert page_of(tmp_path) is None, "nobody is there"
    with claimed(tmp_path) as second:
        assert second.before() == place
    for odd in (
        "",
        "{",
        "[]",
        '{"port": 0, "token": "x"}',
        '{"port": 80, "token": "../../../../../etc/pass"}',
    ):
        (tmp_path / WATCH).write_text(odd)
        with claimed(tmp_path) as third:
            assert third.before() is None and page_of(tmp_path) is None


def test_what_is_no_run_and_a_port_in_use_are_refused(folder: Path, tmp_path: Path) -> None:
    assert "holds no run.sqlite" in CliRunner().invoke(cli.app, ["watch", str(tmp_path)]).output
    other = tmp_path / "run"
    RunStore.create(other, SCENARIOS[:1]).close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = CliRunner().invoke(cli.app, ["watch", str(other), "--port", port])
    assert refused.exit_code == 2 and f"port {port} cannot be used" in refused.output


def test_a_missing_package_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "engine.watch.serve", raising=False)
    refused = CliRunner().invoke(cli.app, ["watch", str(folder)])
    assert refused.exit_code == 2 and "uvicorn" in refused.output and "[watch]" in refused.output
