"""Video models beside a 4-bit critic: under budgets of memory, beside their pipelines, with a merged LoRA."""

import time

STARTED_S = time.perf_counter()
"""Of this process, on the clock of perf_counter: read before anything heavy is imported."""
