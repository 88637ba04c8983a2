"""Benchmarks, the scorer, evaluators, datasets and submissions. No other package imports this one.

Its commands are found by name.
"""

import engine  # noqa: F401, before torch: it says how torch's threads wait
