"""A selector of one's own, asked about the stored takes of a run.

python docs/examples/own_selector.py runs/from_python
"""

import sys
from collections.abc import Sequence

import retake


class Liveliness:
    """Prefers the take in which most changes from frame to frame. It sees takes, never a reference."""

    def score(
        self,
        scenario: retake.Scenario,
        takes: Sequence[retake.Video],
        attempts: Sequence[retake.Attempt],
    ) -> list[float]:
        """Mean change of a pixel between two frames in grey levels, 0 to 255; higher is better."""
        frames = (take.frames.astype(float) for take in takes)  # [T, H, W, 3]
        return [float(abs(f[1:] - f[:-1]).mean()) for f in frames]


def main(run: str) -> dict[str, int]:
    found = retake.choose_again(run, {"liveliness": Liveliness()})
    for entry in found:
        print(entry.scenario_id, "take", entry.before, "->", entry.chosen, entry.scores)
    return {entry.scenario_id: entry.chosen for entry in found}


if __name__ == "__main__":
    main(sys.argv[1])
