"""A job run alone, without the scheduler; no test of its own."""

from __future__ import annotations

from typing import Any


def finished(job: Any) -> Any:
    """Its result, once each step was launched and waited for."""
    while job.steps_left:
        job.launch().wait()
    return job.result()
