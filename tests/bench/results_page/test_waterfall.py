"""The waterfall is well-formed SVG whose bars are as long as their times."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from bench.results_page.waterfall import WIDTH_PX, Bar, Scale, waterfall

SVG = "{http://www.w3.org/2000/svg}"
BARS = [
    Bar(name="eager <x>", adds="the library & nothing else", value=800.0, stock=True),
    Bar(name="ours", adds="words " * 30, value=400.0, stock=False),
    Bar(name="graph", adds="", value=420.0, stock=False),
]


def rects(svg: str, css: str) -> list[ET.Element]:
    return [node for node in ET.fromstring(svg).iter(f"{SVG}rect") if node.get("class") == css]


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ET.fromstring(svg).iter(f"{SVG}text")]


def test_bars_are_in_proportion() -> None:
    svg = waterfall("title", BARS, {})
    [stock], ours = rects(svg, "stock"), rects(svg, "ours")
    width = float(stock.get("width"))
    assert [float(bar.get("width")) / width for bar in ours] == pytest.approx([0.5, 0.525], abs=1e-3)
    [saved], [lost] = rects(svg, "saved"), rects(svg, "lost")
    assert float(saved.get("width")) == pytest.approx(width / 2, abs=0.2)
    assert float(saved.get("x")) == pytest.approx(float(stock.get("x")) + width / 2, abs=0.2)
    assert float(lost.get("width")) == pytest.approx(width * 20 / 800, abs=0.2)


def test_every_bar_tells_its_time_and_its_gain() -> None:
    found = texts(waterfall("title", BARS, {}))
    assert {"eager <x>", "800 ms", "400 ms", "−400 ms, 2.00×", "420 ms", "+20.0 ms, 0.95×"} <= set(found)
    assert max(map(len, found)) <= 60  # what a bar adds is wrapped


def test_a_scale_of_points_has_no_ratios() -> None:
    found = texts(waterfall("title", BARS[1:], {}, Scale(unit="points", rising=True, ratios=False)))
    assert {"400 points", "+20.0 points"} <= set(found) and not any("×" in text for text in found)


def test_where_more_is_better_the_gain_is_the_end_of_the_bar() -> None:
    bars = [
        Bar(name="script", adds="", value=25.0, stock=True),
        Bar(name="ours", adds="", value=100.0, stock=False),
        Bar(name="worse", adds="", value=80.0, stock=False),
    ]
    svg = waterfall("title", bars, {}, Scale(unit="an hour", rising=True))
    [stock], ours, [saved], [lost] = (rects(svg, css) for css in ("stock", "ours", "saved", "lost"))
    width, left = float(stock.get("width")), float(stock.get("x"))
    assert [float(bar.get("width")) / width for bar in ours] == pytest.approx([1.0, 3.2], abs=1e-2)
    assert (float(saved.get("x")) - left) / width == pytest.approx(1.0, abs=1e-2)
    assert float(saved.get("width")) / width == pytest.approx(3.0, abs=1e-2)
    assert (float(lost.get("x")) - left) / width == pytest.approx(3.2, abs=1e-2)
    found = texts(svg)
    assert {"25.0 an hour", "+75.0 an hour, 4.00×", "−20.0 an hour, 0.80×"} <= set(found)
    css = {n.text: n.get("class") for n in ET.fromstring(svg).iter(f"{SVG}text")}
    assert css["+75.0 an hour, 4.00×"] == "gain note value" and "loss" in css["−20.0 an hour, 0.80×"]


def test_limits_are_lines_with_their_number() -> None:
    svg = waterfall("title", BARS, {"fp8 roofline": 200.0, "bf16 roofline": 300.0})
    assert {"fp8 roofline 200 ms", "bf16 roofline 300 ms"} <= set(texts(svg))
    lines = [node for node in ET.fromstring(svg).iter(f"{SVG}line") if node.get("class") == "limit"]
    bar = rects(svg, "stock")[0]
    left, width = float(bar.get("x")), float(bar.get("width"))
    assert [float(line.get("x1")) for line in lines] == pytest.approx(
        [left + width / 4, left + width * 3 / 8], abs=0.2
    )


def test_both_colour_schemes_and_a_background_of_its_own() -> None:
    svg = waterfall("title", BARS[:1], {})
    assert "prefers-color-scheme:dark" in svg
    [back] = rects(svg, "back")
    assert float(back.get("width")) == WIDTH_PX - 1


def test_equal_input_gives_equal_bytes_and_nothing_leaves_the_picture() -> None:
    limits = {"far": 1600.0}
    svg = waterfall("title", BARS, limits)
    assert svg == waterfall("title", BARS, limits)
    for node in ET.fromstring(svg).iter(f"{SVG}rect"):
        assert float(node.get("x")) + float(node.get("width")) <= WIDTH_PX


@pytest.mark.parametrize("median_ms", [0.003, 0.9, 41.7, 12345.0])
def test_any_scale_has_four_to_nine_ticks(median_ms: float) -> None:
    svg = waterfall("title", [Bar(name="a", adds="", value=median_ms, stock=False)], {})
    lines = [node for node in ET.fromstring(svg).iter(f"{SVG}line") if node.get("class") == "grid"]
    assert 4 <= len(lines) <= 9


def test_no_bars_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="needs a bar"):
        waterfall("title", [], {})
