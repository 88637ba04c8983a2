"""Multiprocessors that persistent kernels leave to other streams, for the whole process, as a context.

Persistent kernels take every multiprocessor for as long as they run; one with a margin runs a little longer
and lets the short kernels of another stream in. Compiled calls heed it, since the number is read when an
operator runs; a captured graph keeps that of its capture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_of_attention = [0]
"""Of the contexts that are open; the last one counts."""


def of_attention() -> int:
    """What FlashAttention-3 is to leave free now."""
    return _of_attention[-1]


def gemms_missing() -> str | None:
    """Why GEMMs cannot be told; None: they can."""
    if hasattr(torch._C, "_set_sm_carveout_experimental"):
        return None
    return f"torch {torch.__version__} sets no SM carveout"


@contextmanager
def leaving_free(*, attention: int, gemms: int) -> Iterator[None]:
    """`gemms` 0 leaves them as they are; else those of cuBLASLt and CUTLASS plan with so many fewer, by
    torch's experimental carveout, and may be other kernels, with other last bits."""
    assert attention >= 0 and gemms >= 0, (attention, gemms)
    before = torch._C._get_sm_carveout_experimental() if gemms else None
    if gemms:
        torch._C._set_sm_carveout_experimental(gemms)
    _of_attention.append(attention)
    try:
        yield
    finally:
        _of_attention.pop()
        if gemms:
            torch._C._set_sm_carveout_experimental(before)
