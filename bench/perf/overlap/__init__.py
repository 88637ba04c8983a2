"""What it brings to run a generator and a critic at once on one GPU, against taking turns on it.

The product's scheduler, lanes and jobs carry out a fixed amount of work: alone, one after the other, side by
side in every way to share the GPU that the machine has, and in turns at step boundaries.
"""

import time

STARTED_S = time.perf_counter()
"""Of this process, on the clock of perf_counter: read before anything heavy is imported."""
