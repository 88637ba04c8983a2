"""What every test of an attention kernel shares: problems, tensors, and the check against the reference.

On a machine without a GPU Triton kernels run in the interpreter, in fp16 because it has no bf16 product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels import reference
from kernels.descriptors import AttentionProblem, Target, dtype_name

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
TRITON_TARGET = Target.of(DEVICE) if HAS_GPU else Target(kind="cpu", capability=None, interpreted=True)
TRITON_DTYPES = (torch.float16, torch.bfloat16) if HAS_GPU else (torch.float16,)

CPU = Target(kind="cpu", capability=None)
HOPPER = Target(kind="cuda", capability=(9, 0))
ADA = Target(kind="cuda", capability=(8, 9))
TURING = Target(kind="cuda", capability=(7, 5))

# Queries and keys: one, primes, a tile (32 interpreted, 64 and 128 on GPUs) and one more or less, unequal.
SIZES = [(1, 1), (17, 17), (31, 31), (33, 33), (65, 65), (33, 70), (1, 40)]
GPU_SIZES = [(127, 127), (129, 129), (257, 251), (1000, 77)]


def problem(**changes: Any) -> AttentionProblem:
    base: dict[str, Any] = {
        "batch": 1,
        "heads": 12,
        "q_len": 1024,
        "kv_len": 1024,
        "head_dim": 128,
        "dtype": "bf16",
        "mask": "none",
        "target": HOPPER,
    }
    return AttentionProblem(**(base | changes))


def tensors(
    q_len: int, kv_len: int, head_dim: int = 64, dtype: torch.dtype = torch.float16, *, batch: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [B, 3, N, D]: q and v with tokens before heads in memory, k a cut of a larger tensor."""
    generator = torch.Generator().manual_seed(q_len * 1000 + kv_len)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE, dtype)

    q = normal(batch, q_len, 3, head_dim).transpose(1, 2)
    k = normal(batch, 5, kv_len + 2, head_dim)[:, 1:4, 1:-1]
    v = normal(batch, kv_len, 3, head_dim).transpose(1, 2)
    return q, k, v


def lengths(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def fill_padding(x: Tensor, kv_lengths: Tensor, value: float = math.nan) -> Tensor:
    x = x.clone()
    for row, length in enumerate(kv_lengths.tolist()):
        x[row, :, length:] = value
    return x


def check(module: ModuleType, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> reference.Errors:
    """`module.run` against the reference, with the tolerance the file states."""
    return check_run(module.run, module, q, k, v, **options)


def check_run(
    run: Callable[..., Tensor], module: ModuleType, q: Tensor, k: Tensor, v: Tensor, **options: Any
) -> reference.Errors:
    options = {"scale": q.shape[3] ** -0.5} | options
    masks = {name: options[name] for name in ("scale", "kv_lengths") if name in options}
    expected = reference.attention(q, k, v, **masks)
    plain_error = reference.compare(reference.plain(q, k, v, **masks), expected).largest
    actual = run(q, k, v, **options)
    assert actual.shape == q.shape and actual.dtype == q.dtype
    errors = reference.compare(actual, expected)
    allowed = reference.allowed_error(plain_error, expected, q.dtype, module.ERROR_FACTOR)
    assert errors.largest <= allowed, (errors, allowed, dtype_name(q.dtype))
    if hasattr(module, "COSINE_BOUND"):
        assert errors.cosine >= module.COSINE_BOUND, errors
    return errors
