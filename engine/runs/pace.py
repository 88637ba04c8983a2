"""How fast the scenarios of a run end, and how long the rest takes if it goes on like that.

Knows no clock and no run. Three numbers stay in memory, whatever the number of scenarios.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_STUDENT_975 = {2: 4.302653, 3: 3.182446, 4: 2.776445, 5: 2.570582, 6: 2.446912}
"""97.5 % points of Student's t by degrees of freedom, where the series is more than 0.05 % off."""
NORMAL_975 = 1.959963984540054  # 97.5 % point of the standard normal
FEWEST = 3
"""Values that an interval needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """In seconds; `low` and `high` bound the 95 % prediction interval, None after fewer than FEWEST ends."""

    seconds: float
    low: float | None
    high: float | None


@dataclass(slots=True, kw_only=True)
class Pace:
    """`last_s`: when the last of `num` scenarios ended, in seconds since the first one began. `squares`: of
    the seconds between two ends that follow one another, the first of them since the beginning."""

    num: int = 0
    last_s: float = 0.0
    squares: float = 0.0

    def ended(self, at_s: float) -> None:
        self.num += 1
        self.squares += (at_s - self.last_s) ** 2
        self.last_s = at_s

    def left(self, num_left: int) -> Left | None:
        """How long as many more take; None before the first one ended.

        The time of m more is m times the mean x of n so far; its interval is m x +- t s m sqrt(1/m + 1/n)
        with Student's t of n - 1 degrees, the prediction interval of a sum (Hahn and Meeker, Statistical
        Intervals), as if the seconds between ends were independent and normal. Those of scenarios that are
        made side by side are not quite.
        """
        if not self.num:
            return None
        mean_s = self.last_s / self.num
        seconds = mean_s * num_left
        if self.num < FEWEST or not num_left:
            return Left(seconds=seconds, low=None, high=None)
        deviation = math.sqrt(max(0.0, self.squares - self.num * mean_s**2) / (self.num - 1))
        half = student_975(self.num - 1) * deviation * num_left * math.sqrt(1 / num_left + 1 / self.num)
        return Left(seconds=seconds, low=max(0.0, seconds - half), high=seconds + half)


def student_975(freedom: int) -> float:
    """97.5 % point of Student's t: of few degrees from its table, else Abramowitz & Stegun 26.7.5, within
    0.04 %."""
    if freedom in _STUDENT_975:
        return _STUDENT_975[freedom]
    z = NORMAL_975
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
