"""A false alarm of bitsandbytes, which takes our package `kernels` for the hub's and warns that it is not.

Knows no other noise: what libraries really warn of is shown or kept by whoever listens (runs/log_file.py).
"""

from __future__ import annotations

import logging
from typing import Final

LOGGER: Final = "bitsandbytes.backends.cpu.ops"
"""Of bitsandbytes 0.50: imported on a CPU with AVX512-BF16, as diffusers does, it asks the hub's package for
a kernel, and does without."""


def expect_namesake() -> None:
    """Must run before a model library is imported."""
    logging.getLogger(LOGGER).addFilter(_is_no_false_alarm)


def _is_no_false_alarm(record: logging.LogRecord) -> bool:
    """False for what arises from the name alone; where the hub's package is there and fails, that is told."""
    causes = record.args if isinstance(record.args, tuple) else ()
    return not any(isinstance(cause, ImportError) and cause.name == "kernels" for cause in causes)
