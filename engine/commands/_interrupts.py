"""What an interrupt becomes, by Ctrl-C or SIGTERM: one line and status 130, never a traceback.

Outside of a command nothing is begun, or all is put away, and the process ends at once; within one it is a
KeyboardInterrupt. Imports nothing slow: it works while the rest is imported.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STATUS = 130
"""128 and the number of SIGINT, as shells have it; also for SIGTERM, by which schedulers and containers ask
for the same end: what was begun is put away, and a run says how it goes on."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def stop(*_: object) -> None:
    """End here. No import and no destructor gets to catch it."""
    os.write(2, b"\nstopped\n")
    os._exit(STATUS)


def stop_at_once() -> None:
    """From now on, outside of `interruptible`; once all threads have ended, the status is the work's."""
    for number in SIGNALS:
        signal.signal(number, stop)
        atexit.register(signal.signal, number, signal.SIG_IGN)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """For slow imports."""
    with _handled_by(stop):
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, an interrupt is a KeyboardInterrupt, so that what was begun is put away."""
    with _handled_by(signal.default_int_handler):
        yield


@contextmanager
def ignored() -> Iterator[None]:
    """For putting away what was begun."""
    with _handled_by(signal.SIG_IGN):
        yield


@contextmanager
def _handled_by(handler: Callable[..., object] | signal.Handlers) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
