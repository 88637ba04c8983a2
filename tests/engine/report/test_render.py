"""The page in parts: what a page of many scenarios packs is what a page of few shows, and text stays text."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from report_run import HOSTILE, SCENES, make_run

from engine.report.render import render
from engine.report.write import StoredRecords, gather, write_report
from engine.runs.store import RunStore


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("scored"))


def unpacked(text: str) -> str:
    return zlib.decompress(base64.b64decode(text)).decode()


def packed_of(page: str) -> Sequence[str]:
    blocks = re.findall(r'<div class="block" [^>]*data-packed="([^"]*)"', page)
    return [scene for block in blocks for scene in json.loads(unpacked(block))]


def test_what_is_packed_is_what_a_small_page_shows(run: Path) -> None:
    data = gather(run)
    small = "".join(render(data))
    scenes = packed_of("".join(render(data, max_unpacked=2)))
    assert len(scenes) == len(SCENES)
    for scene in scenes:
        stage = scene[scene.index('<div class="stage">') :].strip().replace("<details open>", "<details>")
        assert stage in small.replace("<details open>", "<details>")
    assert packed_of(small) == []


def test_a_block_is_bounded_and_holds_its_scenes_in_order(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.report.render.BLOCK_SCENES", 4)
    page = "".join(render(gather(run), max_unpacked=2))
    blocks = re.findall(r'<div class="block" style="--scenes: (\d+)" data-packed="([^"]*)">(.*?)</div>', page)
    assert [int(number) for number, _, _ in blocks] == [4, 2]
    names = [name for name, _, _ in SCENES]
    for expected, (_, packed, articles) in zip((names[:4], names[4:]), blocks, strict=True):
        assert re.findall(r"<h2[^>]*>([^<]*)</h2>", articles) == expected
        titles = [re.findall(r"<h2[^>]*>([^<]*)</h2>", html)[0] for html in json.loads(unpacked(packed))]
        assert titles == expected
    monkeypatch.setattr("engine.report.render.BLOCK_CHARACTERS", 1)
    assert "".join(render(gather(run), max_unpacked=2)).count(" data-packed=") == 1 + len(SCENES)


def test_what_is_packed_is_text_too(run: Path) -> None:
    page = "".join(render(gather(run), max_unpacked=2))
    scenes = "".join(packed_of(page))
    assert HOSTILE not in page and HOSTILE not in scenes and "&lt;script&gt;" in scenes


def test_the_packed_rows_are_all_and_the_first_are_listed(run: Path) -> None:
    page = "".join(render(gather(run), max_unpacked=2, num_listed=2))
    rows = json.loads(unpacked(re.findall(r'<tbody data-packed="([^"]*)"', page)[0]))
    assert [row["values"][0] for row in rows] == [name for name, _, _ in SCENES]
    assert rows[0]["html"].startswith("<tr>") and rows[0]["values"][4] == pytest.approx(74.9 - 31.2)
    assert page[: page.index("</tbody>")].count("<tr>") == 3  # the heads, and two rows


def test_a_report_is_written_of_records_that_are_read_one_at_a_time(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: RunStore) -> None:
        raise AssertionError("all outcomes at once")

    monkeypatch.setattr(RunStore, "outcomes", refuse)
    text = write_report(run).read_text(encoding="utf-8")
    assert text == "".join(render(gather(run)))
    with RunStore.open(run, read_only=True) as store:
        records = StoredRecords(store)
        assert [record.scenario.id for record in records[1:3]] == [SCENES[1][0], SCENES[2][0]]
        assert len(records) == 6 and records[5].outcome is None
