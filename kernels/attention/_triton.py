"""What all our Triton attention files share on the host: reasons, tile sizes and errors. Imports no Triton.

Invariant: nothing here starts CUDA or compiles. N tokens, D head size.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING

from kernels.attention._checks import first_reason, not_among, not_capability, not_installed

if TYPE_CHECKING:
    from kernels.descriptors import AttentionProblem

HEAD_DIMS = (16, 32, 64, 128)


def why_not(problem: AttentionProblem, *, masks: Collection[str]) -> str | None:
    """Why no Triton attention kernel of ours does `problem`."""
    reason = first_reason(
        not_installed("triton", "triton"),
        not_among(problem, dtypes=("bf16", "fp16"), masks=masks),
        f"head size {problem.head_dim} is not one of {', '.join(map(str, HEAD_DIMS))}"
        if problem.head_dim not in HEAD_DIMS
        else None,
    )
    if reason is not None:
        return reason
    if not problem.target.interpreted:
        return not_capability(problem, lowest=(8, 0))
    if not interpreting():
        return "Triton's interpreter is off: set TRITON_INTERPRET=1 before triton is imported"
    # It multiplies the bit patterns of bf16 as integers (Triton 3.6 to 3.9).
    return "Triton's interpreter has no bf16 matrix product" if problem.dtype == "bf16" else None


def interpreting() -> bool:
    """Whether this process runs Triton kernels in the interpreter. Imports triton."""
    return bool(importlib.import_module("triton").knobs.runtime.interpret)


def launch_errors() -> tuple[type[Exception], ...]:
    """What Triton raises when a kernel does not compile or does not fit the device."""
    if find_spec("triton") is None:
        return ()
    return (importlib.import_module("triton.errors").TritonError,)
