"""A whole run, timed: Retake's presets, with and without overlap, against the script that a user would write.

Models of full size with random weights are made where they are measured; each variant runs in a process of
its own; the parts are joined into one document. `python -m bench.perf.end_to_end --help` says how.
"""

import time

STARTED_S = time.perf_counter()
"""Of this process, on the clock of perf_counter: read before anything heavy is imported."""
