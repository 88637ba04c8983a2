"""Two dozen kills of the loop over its store, within seconds: `make test` runs it in a process of its own.

Prints one JSON object: the number of kills, and every sentence of what was lost, duplicated, corrupt, unequal
or unclear. With the name of a sabotage, of an engine that is broken in that way.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from faults.interruptions import kills_again_and_again, kills_at_events
from faults.sabotage import SABOTAGES
from faults.workload import MEMORY, bare

STRIDE = 9


def main(folder: Path, names: Sequence[str]) -> dict[str, object]:
    load = bare(folder)
    load.reference()  # of the sound engine
    for name in names:
        load.first = SABOTAGES[name][1]
    trials = (*kills_at_events(load, stride=STRIDE), *kills_again_and_again(load, 1))
    found = [trial.run(load) for trial in trials]
    return {
        "kills": sum(one.kills for one in found),
        "lost": [text for one in found for text in one.damage.lost],
        "duplicated": [text for one in found for text in one.damage.duplicated],
        "corrupt": [text for one in found for text in one.damage.corrupt],
        "unequal": [text for one in found for text in one.damage.unequal],
        "unclear": [text for one in found for text in one.unclear],
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="retake-faults-", dir=MEMORY) as place:
        sys.stdout.write(json.dumps(main(Path(place), sys.argv[1:])) + "\n")
