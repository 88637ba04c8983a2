"""xformers' memory_efficient_attention, where its compiled part loads. No mask.

B batch, A heads, N queries, M keys, D head size; xformers wants tokens before heads.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

from kernels.attention._checks import (
    check,
    first_reason,
    not_among,
    not_capability,
    not_installed,
    refuse_lengths,
)

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem

ACCURACY = "exact"
ERROR_FACTOR = 2.0
CUDA_12 = "install nvidia-cuda-runtime-cu12 and put the folder of its libcudart.so.12 in LD_LIBRARY_PATH"


def supports(problem: AttentionProblem) -> str | None:
    if problem.head_dim % 8:
        return f"head size {problem.head_dim} is not a multiple of 8"
    return (
        first_reason(
            not_capability(problem, lowest=(7, 0)),
            not_among(problem, dtypes=("bf16", "fp16", "fp32"), masks=("none",)),
            not_installed("xformers", "xformers"),
        )
        or not_loaded()
    )


@functools.cache
def not_loaded() -> str | None:
    """Why the installed xformers has no attention: its compiled part is built for one CUDA and one torch."""
    try:
        library = importlib.import_module("xformers._cpp_lib")
        fmha = importlib.import_module("xformers.ops.fmha")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"xformers does not import: {type(error).__name__}: {error}"
    failure = library._cpp_library_load_exception
    if failure is not None:
        text = " ".join(str(failure.__cause__ or failure).split())
        fix = f"; {CUDA_12}" if "libcudart.so.12" in text else ""
        return f"the compiled part of xformers does not load: {text[:160]}{fix}"
    operators = (fmha.flash3.FwOp, fmha.flash.FwOp, fmha.cutlass.FwOp)
    if not any(operator.is_available() for operator in operators):
        return "the installed xformers has no forward operator for this torch"
    return None


def run(q: Tensor, k: Tensor, v: Tensor, *, scale: float, kv_lengths: Tensor | None = None) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D] -> [B, A, N, D]."""
    check(q, k, v, scale, kv_lengths)
    refuse_lengths("xformers_memory_efficient", kv_lengths)
    ops = importlib.import_module("xformers.ops")
    out: Tensor = ops.memory_efficient_attention_forward(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale
    )
    return out.transpose(1, 2)
