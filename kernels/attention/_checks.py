"""What the implementations ask of a problem and of their arguments, and how they hide padding.

Knows no implementation. B batch, A heads, N tokens, D head size; `kv_lengths` int32 [B] counts valid keys.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from kernels.descriptors import KernelError, dtype_name

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.descriptors import AttentionProblem


def first_reason(*reasons: str | None) -> str | None:
    return next((reason for reason in reasons if reason is not None), None)


def not_among(problem: AttentionProblem, *, dtypes: Collection[str], masks: Collection[str]) -> str | None:
    if problem.dtype not in dtypes:
        return f"dtype {problem.dtype} is not {' or '.join(dtypes)}"
    if problem.mask not in masks:
        return f"mask {problem.mask!r} is not {' or '.join(map(repr, masks))}"
    return None


def not_capability(problem: AttentionProblem, *, lowest: tuple[int, int], only: bool = False) -> str | None:
    """Why the device is not CUDA of capability `lowest` or higher; with `only`, of another major version."""
    have = problem.target.capability
    if have is None:
        return "needs a CUDA GPU"
    if have < lowest or (only and have[0] != lowest[0]):
        wanted = f"{lowest[0]}.x" if only else f"{lowest[0]}.{lowest[1]} or higher"
        return f"compute capability {have[0]}.{have[1]} is not {wanted}"
    return None


def not_installed(package: str, distribution: str) -> str | None:
    return None if find_spec(package) is not None else f"the package {distribution} is not installed"


def check(
    q: Tensor, k: Tensor, v: Tensor, scale: float, kv_lengths: Tensor | None, *, grouped: bool = False
) -> None:
    """Programmer errors of a call: shapes, types and strides.

    grouped: several heads of queries may share one of keys and values.
    """
    batch, heads, _, head_dim = q.shape
    same_heads = heads % k.shape[1] == 0 if grouped else heads == k.shape[1]
    assert k.shape == v.shape and same_heads and (k.shape[0], k.shape[3]) == (batch, head_dim), (
        f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    )
    assert q.dtype == k.dtype == v.dtype and dtype_name(q.dtype) is not None, (q.dtype, k.dtype, v.dtype)
    assert q.stride(3) == k.stride(3) == v.stride(3) == 1 or head_dim == 1, "the last dimension has a stride"
    assert scale > 0, f"scale {scale} is not positive"
    if kv_lengths is not None:
        assert kv_lengths.dtype == torch.int32 and kv_lengths.shape == (batch,), (
            f"kv_lengths is {kv_lengths.dtype} {tuple(kv_lengths.shape)}, not int32 [{batch}]"
        )


def refuse_lengths(name: str, kv_lengths: Tensor | None) -> None:
    if kv_lengths is not None:
        raise KernelError(f"{name} takes no kv_lengths; triton_dense and sdpa_math do")


def valid_keys(kv_lengths: Tensor, kv_len: int) -> Tensor:
    """bool [B, 1, 1, N]: which keys exist. Made on the device, without a wait."""
    positions = torch.arange(kv_len, device=kv_lengths.device)
    return (positions < kv_lengths[:, None])[:, None, None, :]


def without_padding(x: Tensor, kv_lengths: Tensor) -> Tensor:
    """x [B, A, N, D] with zeros after each row's length: 0 x NaN is NaN, a zero weight hides nothing."""
    valid = valid_keys(kv_lengths, x.shape[2]).transpose(2, 3)
    return torch.where(valid, x, torch.zeros((), dtype=x.dtype, device=x.device))
