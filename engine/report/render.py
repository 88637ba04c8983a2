"""The page as HTML text, part by part, so that a run of thousands of scenarios is never in memory at once.

Everything a VLM wrote reaches the page through autoescaping, never as markup. A page of many scenarios holds
each as a compressed text, which its script unpacks when the reader comes near it: a browser keeps some five
hundred nodes for each that is shown.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from engine.report.page import Row, build_charts, build_rows, build_scene, embedded_of, summarize
from engine.report.performance import performance
from engine.report.run_data import ReportData, bare
from engine.report.scores import score_plots
from engine.report.templates import page_script, part_of_page, source_hash, templates

MAX_EMBEDDED = 40
"""Scenarios whose videos are put into the page; with more it would be too large to open comfortably."""

MAX_UNPACKED = 100
"""Scenarios of a page that holds them as HTML: it needs no script to be read, and prints whole."""

NUM_LISTED = 100
"""Rows of the table that such a page shows at first; its script has the others."""

BLOCK_SCENES, BLOCK_CHARACTERS = 32, 2 << 20
"""Of a block, at most; it is unpacked as a whole. A scene with videos in it may be larger alone."""

_SPACES = re.compile(r"\s*\n\s*")

OPEN_BELOW = 8
"""Up to so many scenarios, all takes are unfolded; else the chosen ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """One scenario and all of its HTML but the element around it."""

    row: Row
    html: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Scenarios of a packed page, one after the other; `packed`: list of their HTML as JSON, zlib and base64.

    Scenes are much alike, and together take a quarter of the bytes. The browser lays out the blocks near the
    screen only: had it to judge of each scene, each would cost it some 4 kB.
    """

    rows: tuple[Row, ...]
    packed: str


def render(
    data: ReportData,
    *,
    max_embedded: int = MAX_EMBEDDED,
    max_unpacked: int = MAX_UNPACKED,
    num_listed: int = NUM_LISTED,
) -> Iterator[str]:
    """Parts of the page. The script runs by its hash only, so text can never become a program."""
    environment = templates("report")
    script, style = page_script("script.js"), part_of_page("style.css")
    few = bare(data)
    rows = build_rows(few)
    is_packed = len(rows) > max_unpacked
    articles = _articles(environment, data, rows, embedded_of(rows, max_embedded), is_packed)
    yield from environment.get_template("template.html.j2").generate(
        data=few,
        summary=summarize(few),
        performance=performance(data.tally, data.totals, summarize(few).gain, data.manifest, data.unfinished),
        rows=rows,
        articles=() if is_packed else articles,
        blocks=_blocks(articles) if is_packed else (),
        is_packed=is_packed,
        num_listed=num_listed,
        packed_rows=_packed_rows(environment, rows) if is_packed else None,
        charts=build_charts(few),
        score_plots={} if data.scores is None else score_plots(data.scores.groups),
        max_embedded=max_embedded,
        timeline=None if data.timeline is None else Markup(data.timeline),  # nosec B704 # it escapes its texts
        manifest=json.dumps(data.manifest, indent=2, ensure_ascii=False) if data.manifest else None,
        script=Markup(script),  # nosec B704 # a file of this package
        style=Markup(style),  # nosec B704 # the same
        script_hash=source_hash(script),
    )


def _articles(
    environment: Environment, data: ReportData, rows: Sequence[Row], embedded: frozenset[str], packed: bool
) -> Iterator[Article]:
    template = environment.get_template("scene.html.j2")
    unfold = len(rows) <= OPEN_BELOW
    for row, record in zip(rows, data.records, strict=True):
        scene = build_scene(data, record, row.scenario.id in embedded)
        html = template.render(scene=scene, row=row, unfold=unfold, packed=packed, live=False)
        yield Article(row=row, html=Markup(html))  # nosec B704 # the template escapes its texts


def _blocks(articles: Iterator[Article]) -> Iterator[Block]:
    block: list[Article] = []
    size = 0
    for article in articles:
        if block and (len(block) == BLOCK_SCENES or size + len(article.html) > BLOCK_CHARACTERS):
            yield _block(block)
            block, size = [], 0
        block.append(article)
        size += len(article.html)
    if block:
        yield _block(block)


def _block(articles: Sequence[Article]) -> Block:
    packed = _pack(json.dumps([article.html for article in articles]))
    return Block(rows=tuple(article.row for article in articles), packed=packed)


def _packed_rows(environment: Environment, rows: Sequence[Row]) -> str:
    """What the script needs to sort, filter and show the rows, as JSON: the values by column, and HTML.

    In ASCII and without the template's spaces: a browser keeps text with other characters in twice the bytes.
    """
    table_row: Any = environment.get_template("macros.html.j2").module
    entries = [
        {
            "values": [
                *(row.scenario.id, row.scenario.category, row.first, row.final, row.gain, row.num_takes),
                *(row.chosen, row.stopped, row.seconds),
            ],
            "anchor": row.anchor,
            "html": _ascii(str(table_row.table_row(row))),
        }
        for row in rows
    ]
    return _pack(json.dumps(entries))


def _ascii(html: str) -> str:
    return _SPACES.sub("", html.strip()).encode("ascii", "xmlcharrefreplace").decode()


def _pack(html: str) -> str:
    return base64.b64encode(zlib.compress(html.encode(), 6)).decode("ascii")
