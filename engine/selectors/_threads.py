"""NumPy's linear algebra on the thread that asks for it.

Selectors run on a lane beside a generator that may use every core. OpenBLAS shares out even a small product
over as many threads as the machine has cores, and each waits for all: on busy cores the statistics of a take
took six times as long so. One thread also gives the same last bits on every machine of a kind.
"""

from __future__ import annotations

from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def numpy_on_one_thread() -> None:
    """For this process, from now on. torch's own threads are as they were, and so is a BLAS that NumPy was
    not shipped with, which others may share."""
    for library in ThreadpoolController().lib_controllers:
        if "numpy" in library.filepath:
            library.set_num_threads(1)
