"""The log of a run: what our modules and the libraries say, in a file of the run folder.

Knows no message. Invariant: a record begins its own line with its time, and whatever names it holds, a
terminal that shows the file obeys none of it.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Final

from engine.runs.folder import place_in, writing
from kernels.files import printable

log = logging.getLogger(__name__)

LOG: Final = "run.log"
OURS: Final = ("engine", "kernels", "export", "bench")
"""The loggers of our modules are below these."""


class LineFormatter(logging.Formatter):
    """A record as a line; further lines of it, as of a traceback, are indented."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record)).replace("\n", "\n    ")


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A disk that takes no more is told by the next write of the store, which the run depends on."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class RunLog:
    """Listens from the moment it is made, and writes from `into` on, with all that was heard before."""

    def __init__(self) -> None:
        self._heard = MemoryHandler(sys.maxsize, flushLevel=sys.maxsize, flushOnClose=False)
        self._heard.setLevel(logging.INFO)
        self._file: _File | None = None
        for name in OURS:
            logger = logging.getLogger(name)
            logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
        logging.getLogger().addHandler(self._heard)

    def into(self, folder: Path) -> None:
        """Append to the log of a run folder whose lock is held. RunLost or StoreError where it cannot be."""
        with writing(folder):
            self._file = _File(place_in(folder, LOG), encoding="utf-8", errors="backslashreplace")
        self._file.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._heard.setTarget(self._file)
        self._heard.capacity = 0  # from now on each record passes at once
        self._heard.flush()
        log.info("process=%d command=%s", os.getpid(), shlex.join(sys.argv))

    def close(self) -> None:
        logging.getLogger().removeHandler(self._heard)
        self._heard.close()
        if self._file is not None:
            self._file.close()


def is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in OURS


def take_over_libraries() -> None:
    """What libraries write to stderr themselves goes the way of all records, to the log and the terminal's
    handler: transformers, diffusers and torch bring handlers of their own, and pass nothing on."""
    for logger in [*logging.root.manager.loggerDict.values()]:
        if not isinstance(logger, logging.Logger):
            continue
        own = [h for h in logger.handlers if isinstance(h, logging.StreamHandler) and _to_terminal(h)]
        for handler in own:
            logger.removeHandler(handler)
        if own:
            logger.propagate = True


def _to_terminal(handler: logging.StreamHandler) -> bool:
    return handler.stream in (sys.stderr, sys.__stderr__)
