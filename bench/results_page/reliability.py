"""A reliability diagram as SVG text: what the critic stated, against the share that was acceptable.

Knows no measurement; equal figures give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from bench.results_page.markdown import slug
from bench.results_page.waterfall import STYLE

SIDE_PX, LEFT_PX, TOP_PX, BOTTOM_PX, RIGHT_PX = 320, 70, 56, 56, 150
TICKS = (0, 25, 50, 75, 100)
RADIUS_PX = (3.0, 12.0)
"""Of the point of one take, and of one that holds all of them: areas go with counts."""
STATED = "score that the critic stated"
TITLE = "How far the critic's score can be believed"


def reliability_plot(name: str, scored: Mapping[str, Any], told: str = STATED) -> dict[str, str]:
    """By file name; nothing where no score was compared. `told`: what the lower axis is."""
    bins = scored.get("bins", [])
    if not bins:
        return {}
    parts = [
        _text(LEFT_PX - 54, 28, TITLE, "ink head"),
        _line(_x(0), _y(0), _x(100), _y(100), "limit"),
        _text(_x(100) + 8, _y(100) + 4, "calibrated", "roof note"),
    ]
    for tick in TICKS:
        parts += [
            _line(_x(tick), _y(0), _x(tick), _y(100), "grid"),
            _line(_x(0), _y(tick), _x(100), _y(tick), "grid"),
            _text(_x(tick), _y(0) + 18, f"{tick}", "dim note", "middle"),
            _text(_x(0) - 8, _y(tick) + 4, f"{tick}", "dim note", "end"),
        ]
    parts += [
        _text(_x(50), _y(0) + 40, told, "dim note", "middle"),
        _text(LEFT_PX - 54, TOP_PX - 10, "acceptable takes, percent", "dim note"),
    ]
    total = sum(one["num"] for one in bins)
    for one in bins:
        x, (low, high) = _x(one["stated"]), one["ci95"]
        parts.append(_line(x, _y(low), x, _y(high), "line"))
        small, large = RADIUS_PX
        radius = small + (large - small) * (one["num"] / total) ** 0.5
        parts.append(f'<circle class="ours" cx="{x:.1f}" cy="{_y(one["acceptable"]):.1f}" r="{radius:.1f}"/>')
    described = "; ".join(f"stated {b['stated']:.0f}: {b['acceptable']:.0f} % of {b['num']}" for b in bins)
    width, height = LEFT_PX + SIDE_PX + RIGHT_PX, TOP_PX + SIDE_PX + BOTTOM_PX
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">\n<title>{escape(TITLE)}</title>\n<desc>{escape(described)}</desc>\n'
        f"<style>{STYLE}</style>\n"
        f'<rect class="back" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
    return {f"reliability-{slug(name)}.svg": picture}


def _x(value: float) -> float:
    return LEFT_PX + SIDE_PX * value / 100


def _y(value: float) -> float:
    return TOP_PX + SIDE_PX * (1 - value / 100)


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return (
        f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        'stroke-width="1.5" fill="none"/>'
    )


def _text(x: float, y: float, text: str, css: str, anchor: str = "start") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
