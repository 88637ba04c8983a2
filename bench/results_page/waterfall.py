"""A waterfall as SVG text: a bar per optimization, what it brought as the hatched end, the hardware's limits.

Knows no measurement and uses no fonts or files of its own, so equal bars give equal bytes. The picture has
its own background and follows the reader's colour scheme, so that it can be read on any page.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from bench.results_page.markdown import ms, times

WIDTH_PX, LABEL_PX, VALUE_PX, MARGIN_PX = 940, 330, 172, 16
ROW_PX, BAR_PX, TOP_PX, AXIS_PX, LIMIT_PX = 52, 24, 50, 34, 16
WRAP_AT = 54
STYLE = """
.back{fill:#ffffff;stroke:#d0d7de}.ink{fill:#1f2328}.dim{fill:#59636e}.stock{fill:#8c959f}.ours{fill:#0969da}
.saved{fill:url(#hatch);stroke:#1a7f37}.lost{fill:#cf222e}.gain{fill:#1a7f37}.loss{fill:#cf222e}
.grid{stroke:#d8dee4}.limit{stroke:#9a6700;stroke-dasharray:5 4}.roof{fill:#9a6700}.line{stroke:#1a7f37}
text{font-family:-apple-system,"Segoe UI","Noto Sans",Helvetica,Arial,"DejaVu Sans",sans-serif;font-size:13px}
.head{font-size:15px;font-weight:600}.bold{font-weight:600}.note{font-size:11px}
.value{paint-order:stroke;stroke:#ffffff;stroke-width:4px;stroke-linejoin:round}
@media (prefers-color-scheme:dark){.back{fill:#0d1117;stroke:#3d444d}.ink{fill:#f0f6fc}.dim{fill:#9198a1}
.stock{fill:#656c76}.ours{fill:#388bfd}.saved{stroke:#3fb950}.lost{fill:#f85149}.gain{fill:#3fb950}
.loss{fill:#f85149}.value{stroke:#0d1117}.grid{stroke:#2a313c}.limit{stroke:#d29922}.roof{fill:#d29922}.line{stroke:#3fb950}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """`value` with this and every earlier optimization; `stock`: nothing of ours in it."""

    name: str
    adds: str
    value: float
    stock: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What a bar's length is; `rising`: more of it is better; `ratios`: a bar is so many times another."""

    unit: str
    rising: bool = False
    ratios: bool = True

    def gains(self, before: float, now: float) -> bool:
        return now > before if self.rising else now < before

    def times(self, before: float, now: float) -> float:
        """Above 1 is better."""
        return now / before if self.rising else before / now

    def told(self, value: float) -> str:
        return f"{ms(value)} {self.unit}"


MILLISECONDS = Scale(unit="ms")


def waterfall(
    title: str, bars: Sequence[Bar], limits: Mapping[str, float], scale: Scale = MILLISECONDS
) -> str:
    """One row a bar, from the slowest beginning to the end; a dashed line for each limit, by name."""
    assert bars, "a waterfall needs a bar"
    longest = max([bar.value for bar in bars] + list(limits.values()))
    step = _tick_step(longest)
    px = (WIDTH_PX - LABEL_PX - VALUE_PX - 2 * MARGIN_PX) / longest
    left, top = MARGIN_PX + LABEL_PX, TOP_PX + LIMIT_PX * len(limits)
    bottom = top + ROW_PX * len(bars)
    parts = [_text(MARGIN_PX, 30, title, "ink head")]
    for index in range(int(longest / step) + 1):
        x = left + index * step * px
        parts += [
            _line(x, top, bottom, "grid"),
            _text(x, bottom + 18, f"{index * step:g}", "dim note", "middle"),
        ]
    parts.append(_text(left + longest * px + 14, bottom + 18, scale.unit, "dim note"))
    for place, (name, value) in enumerate(sorted(limits.items(), key=lambda limit: limit[1])):
        x, y = left + value * px, TOP_PX + LIMIT_PX * place + 8
        parts += [
            _line(x, y + 4, bottom, "limit"),
            _text(x + 4, y, f"{name} {scale.told(value)}", "roof note"),
        ]
    before = None
    for place, bar in enumerate(bars):
        parts += _row(bar, before, (left, top + ROW_PX * place), px, scale)
        before = bar
    height = bottom + AXIS_PX
    told = "; ".join(f"{bar.name} {scale.told(bar.value)}" for bar in bars)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {height}" width="{WIDTH_PX}" '
        f'height="{height}" role="img">\n<title>{escape(title)}</title>\n<desc>{escape(told)}</desc>\n'
        f"<style>{STYLE}</style>\n"
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><line class="line" y2="6" stroke-width="3" opacity="0.45"/></pattern>'
        f'</defs>\n<rect class="back" x="0.5" y="0.5" width="{WIDTH_PX - 1}" height="{height - 1}" rx="6"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _row(bar: Bar, before: Bar | None, corner: tuple[float, float], px: float, scale: Scale) -> list[str]:
    left, top = corner
    y = top + (ROW_PX - BAR_PX) / 2
    lines = textwrap.wrap(bar.adds, WRAP_AT)[:2]
    first = top + ROW_PX / 2 + 4 - 7 * len(lines)
    parts = [_text(MARGIN_PX, first, bar.name, "ink bold")]
    parts += [_text(MARGIN_PX, first + 14 * (i + 1), line, "dim note") for i, line in enumerate(lines)]
    css = "stock" if bar.stock else "ours"
    if before is None or before.value == bar.value:
        parts.append(_rect(left, y, bar.value * px, css))
        end = bar.value * px
    else:
        gains = scale.gains(before.value, bar.value)
        start, end = sorted((bar.value * px, before.value * px))
        solid = start if gains and scale.rising else bar.value * px
        parts.append(_rect(left, y, solid, css))
        parts.append(_rect(left + start, y, end - start, "saved" if gains else "lost"))
    parts.append(_text(left + end + 8, y + BAR_PX / 2 - 1, scale.told(bar.value), "ink bold value"))
    if before is not None:
        change = bar.value - before.value
        sign = "−" if change < 0 else "+"
        css = "gain" if scale.gains(before.value, bar.value) else "loss"
        words = f"{sign}{scale.told(abs(change))}"
        if scale.ratios:
            words += f", {times(scale.times(before.value, bar.value))}"
        parts.append(_text(left + end + 8, y + BAR_PX / 2 + 13, words, f"{css} note value"))
    return parts


def _tick_step(longest: float) -> float:
    """A round step that gives four to eight ticks."""
    magnitude = 10.0 ** math.floor(math.log10(longest / 8))
    return next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude * 8 >= longest)


def _text(x: float, y: float, text: str, css: str, anchor: str = "start") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x: float, top: float, bottom: float, css: str) -> str:
    return f'<line class="{css}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'


def _rect(x: float, y: float, width: float, css: str) -> str:
    return f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR_PX}"/>'
