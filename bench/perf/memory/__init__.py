"""Memory of whole runs under budgets: what was planned beside what was taken, preset by preset."""

import time

STARTED_S = time.perf_counter()
"""Of this process, on the clock of perf_counter: read before anything heavy is imported."""
