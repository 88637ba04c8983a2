"""What becomes of a lane that found no memory while a run goes on, in a stated order, and the record of it.

The lane begins its job anew with fewer beside it (`engine.loop.lanes`). Here, before each try: the first time
the allocator gives back what it keeps; from the second time on models also take less, one step at a time, as
long as they can. What is given up stays so until the process ends, and nothing of it ends the run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from engine.protocols import Generator

log = logging.getLogger(__name__)

EMPTIED = "what the allocator kept was given back"


class Relief:
    """Called by lanes, from any thread."""

    def __init__(self, generator: Generator, release: Callable[[], None]) -> None:
        self.record: list[str] = []
        """What was given up, in order, for the manifest."""
        self._generator = generator
        self._release = release
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            given_up = self._generator.relieve() if self.record else None
            self._release()
            self.record.append(EMPTIED if given_up is None else given_up)
        log.warning("no memory: %s", self.record[-1])
