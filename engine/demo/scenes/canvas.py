"""Anti-aliased drawing for the simulated scenes: all is drawn at three times the size and averaged down.

World coordinates are in [0, 1], x to the right, y down; colours are RGB. Knows no physics. The invariant: a
canvas that is drawn twice from equal arguments is equal, so scenes are reproducible bit by bit.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

SUPERSAMPLE: Final = 3
_SHIFT: Final = 4  # fractional bits of OpenCV's fixed-point coordinates

Color = tuple[int, int, int]
Point = tuple[float, float]
Image = NDArray[np.uint8]

# Corners (top left, top right, bottom right, bottom left) to which each view maps the unit square: the side
# cameras stand a little to the side, so the far edge of the picture shrinks. Values above 1 leave no border.
_VIEW_CORNERS: Final[dict[str, tuple[Point, Point, Point, Point]]] = {
    "left": ((-0.10, -0.08), (1.02, 0.03), (1.02, 0.97), (-0.10, 1.08)),
    "right": ((-0.02, 0.03), (1.10, -0.08), (1.10, 1.08), (-0.02, 0.97)),
}
VIEWS: Final = ("left", "center", "right")


class Canvas:
    """A square RGB picture of `size_px`, held at SUPERSAMPLE times that size until `finish`."""

    def __init__(self, size_px: int) -> None:
        self.size_px = size_px
        self.side = size_px * SUPERSAMPLE
        self.image: Image = np.zeros((self.side, self.side, 3), np.uint8)

    def copy(self) -> Canvas:
        other = Canvas.__new__(Canvas)
        other.size_px, other.side, other.image = self.size_px, self.side, self.image.copy()
        return other

    def finish(self, view: str) -> Image:
        """The picture as `view` sees it: uint8 RGB [size_px, size_px, 3]."""
        image = self.image
        if view != "center":
            square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float32) * self.side
            corners = np.array(_VIEW_CORNERS[view], np.float32) * self.side
            matrix = cv2.getPerspectiveTransform(square, corners)
            image = cv2.warpPerspective(
                image, matrix, (self.side, self.side), borderMode=cv2.BORDER_REPLICATE
            )
        return np.asarray(
            cv2.resize(image, (self.size_px, self.size_px), interpolation=cv2.INTER_AREA), np.uint8
        )

    def gradient(self, top: Color, bottom: Color, y0: float = 0.0, y1: float = 1.0) -> None:
        """A vertical gradient over the rows from y0 to y1."""
        first, last = round(y0 * self.side), round(y1 * self.side)
        ramp = np.linspace(0.0, 1.0, max(last - first, 1))[:, None]
        rows = (1 - ramp) * np.array(top) + ramp * np.array(bottom)
        self.image[first:last] = rows[:, None].round().astype(np.uint8)

    def disc(self, x: float, y: float, radius: float, color: Color, alpha: float = 1.0) -> None:
        self.ellipse(x, y, radius, radius, color, alpha=alpha)

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        color: Color,
        *,
        angle_deg: float = 0.0,
        alpha: float = 1.0,
    ) -> None:
        points = np.asarray(cv2.ellipse2Poly((0, 0), (1000, 1000), 0, 0, 360, 6), np.float64) / 1000.0
        turn = np.deg2rad(angle_deg)
        px, py = points[:, 0] * rx, points[:, 1] * ry
        xs, ys = x + px * np.cos(turn) - py * np.sin(turn), y + px * np.sin(turn) + py * np.cos(turn)
        self.polygon(list(zip(xs, ys, strict=True)), color, alpha=alpha)

    def ball(self, x: float, y: float, radius: float, color: Color, spin_rad: float | None = None) -> None:
        """A shaded ball; `spin_rad` adds a painted stripe so that rolling can be seen."""
        self.disc(x, y, radius, shade(color, 0.72))
        self.disc(x - 0.06 * radius, y - 0.08 * radius, 0.88 * radius, color)
        if spin_rad is not None:
            dx, dy = np.cos(spin_rad) * radius * 0.8, np.sin(spin_rad) * radius * 0.8
            self.line(x - dx, y - dy, x + dx, y + dy, radius * 0.28, shade(color, 0.6))
        self.disc(x - 0.35 * radius, y - 0.38 * radius, 0.26 * radius, shade(color, 1.5))

    def polygon(self, points: list[Point], color: Color, *, alpha: float = 1.0) -> None:
        """A filled polygon; alpha below 1 blends it over what is there (shadows, glass, glow)."""
        scaled = np.array(points, np.float64) * self.side
        fixed = (scaled * (1 << _SHIFT)).round().astype(np.int32)
        if alpha >= 1.0:
            cv2.fillPoly(self.image, [fixed], color, cv2.LINE_AA, _SHIFT)
            return
        low = np.clip(np.floor(scaled.min(axis=0)).astype(int) - 1, 0, self.side)
        high = np.clip(np.ceil(scaled.max(axis=0)).astype(int) + 2, 0, self.side)
        if (high <= low).any():
            return
        region = self.image[low[1] : high[1], low[0] : high[0]]
        layer = region.copy()
        offset = (-low * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(layer, [fixed + offset], color, cv2.LINE_AA, _SHIFT)
        cv2.addWeighted(layer, alpha, region, 1.0 - alpha, 0.0, dst=layer)
        self.image[low[1] : high[1], low[0] : high[0]] = layer

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        color: Color,
        *,
        angle_rad: float = 0.0,
        alpha: float = 1.0,
    ) -> None:
        """A rectangle centred at (x, y), turned clockwise on screen by `angle_rad`."""
        cos, sin = np.cos(angle_rad), np.sin(angle_rad)
        half = (
            (-width / 2, -height / 2),
            (width / 2, -height / 2),
            (width / 2, height / 2),
            (-width / 2, height / 2),
        )
        self.polygon([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in half], color, alpha=alpha)

    def line(
        self, x0: float, y0: float, x1: float, y1: float, width: float, color: Color, alpha: float = 1.0
    ) -> None:
        length = float(np.hypot(x1 - x0, y1 - y0))
        angle = float(np.arctan2(y1 - y0, x1 - x0))
        self.box(
            (x0 + x1) / 2, (y0 + y1) / 2, length + width * 0.2, width, color, angle_rad=angle, alpha=alpha
        )

    def shadow(self, x: float, y: float, width: float, alpha: float = 0.22) -> None:
        """A soft contact shadow: three nested translucent ellipses."""
        for scale in (1.0, 0.75, 0.5):
            self.ellipse(x, y, width * scale / 2, width * scale * 0.11, (20, 20, 30), alpha=alpha / 2)

    def letter(self, x: float, y: float, height: float, text: str, color: Color) -> None:
        """One bold capital centred at (x, y)."""
        scale = height * self.side / 22.0
        thickness = max(1, round(scale * 2.6))
        (width_px, height_px), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        origin = (round(x * self.side - width_px / 2), round(y * self.side + height_px / 2))
        cv2.putText(self.image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thickness, cv2.LINE_AA)


def shade(color: Color, factor: float) -> Color:
    """`color` made darker (factor under 1) or mixed towards white (factor over 1)."""
    if factor <= 1.0:
        red, green, blue = (round(channel * factor) for channel in color)
    else:
        red, green, blue = (round(channel + (255 - channel) * min(factor - 1.0, 1.0)) for channel in color)
    return red, green, blue


COLORS: Final[dict[str, Color]] = {
    "red": (208, 52, 44),
    "blue": (44, 92, 200),
    "green": (46, 150, 70),
    "yellow": (232, 190, 40),
    "orange": (232, 122, 32),
    "purple": (128, 62, 168),
}

# (wall top, wall bottom, table far, table near): calm, bright rooms
ROOMS: Final[tuple[tuple[Color, Color, Color, Color], ...]] = (
    ((226, 230, 236), (206, 212, 220), (186, 150, 112), (150, 116, 82)),
    ((232, 226, 214), (214, 206, 192), (142, 152, 160), (108, 118, 128)),
    ((214, 228, 226), (196, 212, 210), (206, 190, 160), (170, 152, 122)),
    ((222, 218, 232), (204, 200, 216), (176, 168, 160), (136, 128, 122)),
)
TABLE_Y: Final = 0.76


def room(size_px: int, index: int, table_y: float = TABLE_Y) -> Canvas:
    """An empty room with a table whose far edge is at `table_y`."""
    canvas = Canvas(size_px)
    wall_top, wall_bottom, far, near = ROOMS[index % len(ROOMS)]
    canvas.gradient(wall_top, wall_bottom, 0.0, table_y)
    canvas.gradient(far, near, table_y, 1.0)
    canvas.line(0.0, table_y, 1.0, table_y, 0.008, shade(far, 0.8))
    return canvas
