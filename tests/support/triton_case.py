"""One call of an operator whose kernels are compiled for cards that are not here; no test of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BF16, FP16, FP8, FP32 = torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float32
SHARED_BYTES = {(8, 0): 163, (8, 6): 99, (8, 9): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}
"""KiB that one block can have, by capability (CUDA C++ Programming Guide, technical specifications)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call of an operator. `lowest`: the first capability it is for; `few`: part of the short list."""

    name: str
    call: Callable[[], object]
    lowest: tuple[int, int] = (8, 0)
    few: bool = True


def empty(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
