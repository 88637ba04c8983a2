"""The pinned run of `retake demo`: its scenes as a picture and as a table.

Knows no run folder. Equal measurements give equal bytes: frames are those of the file, text is laid out here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import mean
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from bench.results_page.speed_sections import PLOTS
from bench.results_page.waterfall import STYLE
from engine.words import counted

PLOT = "demo-run.svg"
ALT = "Scenes of retake demo: what happened, and the take that was chosen"
COLUMNS = 3
FRAME_PX, GAP_PX, MARGIN_PX, CELL_GAP_PX = 70, 2, 16, 18
TEXT_PX, HEADS_PX, FOOT_PX = 40, 18, 26


def demo_run(file: ResultFile) -> md.Section:
    scenes = file.document["scenes"]
    rows = [
        [f"`{one['scene']}`", *(f"{one[key]:.1f}" for key in ("first", "chosen")), str(one["num_takes"])]
        for one in scenes
    ]
    return md.Section(
        title="What does a run of the loop look like?",
        headline=f"the {counted(len(scenes), 'scene')} of `retake demo`, {told(scenes)}",
        body=md.paragraphs(
            f"In the mean over these {counted(len(scenes), 'scene')}: {told(scenes)}. So few say little of "
            "the loop.",
            f"![{ALT}]({PLOTS}/{PLOT})",
            md.table(["scene", "Verified, first take", "chosen take", "takes"], rows),
        ),
        plots={PLOT: picture(scenes, file.document["seconds"])},
    )


def told(scenes: Sequence[Mapping[str, Any]]) -> str:
    """Both means, in words."""
    first, chosen = (mean(one[key] for one in scenes) for key in ("first", "chosen"))
    return f"first take {first:.1f}, chosen take {chosen:.1f} Verified"


def picture(scenes: Sequence[Mapping[str, Any]], seconds: Sequence[float]) -> str:
    """SVG: a cell a scene, above what the simulation did, below the chosen take, with both scores."""
    across = 1 + len(seconds)
    cell_px = across * (FRAME_PX + GAP_PX) - GAP_PX
    high_px = TEXT_PX + HEADS_PX + 2 * (FRAME_PX + GAP_PX)
    rows = -(-len(scenes) // COLUMNS)
    width = 2 * MARGIN_PX + COLUMNS * (cell_px + CELL_GAP_PX) - CELL_GAP_PX
    height = MARGIN_PX + rows * (high_px + CELL_GAP_PX) - CELL_GAP_PX + FOOT_PX + MARGIN_PX
    parts = []
    for place, scene in enumerate(scenes):
        row, column = divmod(place, COLUMNS)
        x = MARGIN_PX + column * (cell_px + CELL_GAP_PX)
        parts += _cell(scene, seconds, x, MARGIN_PX + row * (high_px + CELL_GAP_PX))
    foot = "Above what the simulation did, which no model saw; below the take that was chosen."
    parts.append(_text(MARGIN_PX, height - MARGIN_PX, foot, "dim note"))
    desc = "; ".join(f"{one['scene']}: {_scores(one)}" for one in scenes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">\n<title>{escape(ALT)}</title>\n<desc>{escape(desc)}</desc>\n'
        f"<style>{STYLE}</style>\n"
        f'<rect class="back" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _cell(scene: Mapping[str, Any], seconds: Sequence[float], x: int, y: int) -> list[str]:
    parts = [_text(x, y + 14, scene["scene"], "ink bold"), _text(x, y + 31, _scores(scene), "dim note")]
    y += TEXT_PX
    for index, head in enumerate(["prefix ends", *(f"{value:g} s" for value in seconds)]):
        parts.append(_text(x + index * (FRAME_PX + GAP_PX), y + 12, head, "dim note"))
    y += HEADS_PX
    for frames in (scene["real"], scene["made"]):
        for index, frame in enumerate([scene["prefix"], *frames]):
            parts.append(
                f'<image x="{x + index * (FRAME_PX + GAP_PX)}" y="{y}" width="{FRAME_PX}" '
                f'height="{FRAME_PX}" href="data:image/jpeg;base64,{frame}"/>'
            )
        y += FRAME_PX + GAP_PX
    return parts


def _scores(scene: Mapping[str, Any]) -> str:
    return f"first take {scene['first']:.1f}, chosen (take {scene['take']}) {scene['chosen']:.1f}"


def _text(x: float, y: float, text: str, css: str) -> str:
    return f'<text class="{css}" x="{x:g}" y="{y:g}">{escape(text)}</text>'
