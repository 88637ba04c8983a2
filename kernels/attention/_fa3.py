"""The door to the wheel `fa3_fwd`, for its bf16 and its FP8 attention: what it was built with, and the call.

Imports the wheel only when it is called. B batch, A heads, N tokens, D head size.
"""

import functools
import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch

from kernels import sm_margin as margins

FLAGS = {"fp16": "FLASHATTENTION_DISABLE_FP16", "fp8": "FLASHATTENTION_DISABLE_FP8"}


def not_built(dtype: str) -> str | None:
    """Why the installed build has no kernels for `dtype`; bf16 is in every build."""
    flag = FLAGS.get(dtype)
    if flag is not None and _build_flags().get(flag, False):
        return f"the installed fa3_fwd is built without {dtype}"
    return None


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    descales: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
    *,
    scale: float,
    kv_lengths: torch.Tensor | None,
    sm_margin: int,
) -> torch.Tensor:
    """[B, A, N, D] bf16, or E4M3 with three fp32 [B, A] factors that multiply it back -> bf16."""
    q_descale, k_descale, v_descale = descales or (None, None, None)
    out: torch.Tensor = _attend(
        *(x.transpose(1, 2) for x in (q, k, v)),
        kv_lengths=kv_lengths,
        q_descale=q_descale,
        k_descale=k_descale,
        v_descale=v_descale,
        scale=scale,
        sm_margin=sm_margin,
    )
    return out.transpose(1, 2)


@torch.library.custom_op("retake::fa3_attention", mutates_args=())
def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_lengths: torch.Tensor | None,
    q_descale: torch.Tensor | None,
    k_descale: torch.Tensor | None,
    v_descale: torch.Tensor | None,
    scale: float,
    sm_margin: int,
) -> torch.Tensor:
    """[B, N, A, D]. An operator of ours, so that torch.compile keeps the call without importing the wheel."""
    result = _operator()(
        q,
        k,
        v,
        seqused_k=kv_lengths,
        q_descale=q_descale,
        k_descale=k_descale,
        v_descale=v_descale,
        softmax_scale=scale,
        num_splits=1,
        sm_margin=max(sm_margin, margins.of_attention()),
    )
    out: torch.Tensor = result[0]
    return out


def attend_with_lse(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    descales: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    *,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `attend`, and the log-sum-exp of the scores of each query, fp32 [B, A, N], natural."""
    q_descale, k_descale, v_descale = descales or (None, None, None)
    out, lse = _attend_with_lse(
        *(x.transpose(1, 2) for x in (q, k, v)),
        q_descale=q_descale,
        k_descale=k_descale,
        v_descale=v_descale,
        scale=scale,
    )
    return out.transpose(1, 2), lse


@torch.library.custom_op("retake::fa3_attention_with_lse", mutates_args=())
def _attend_with_lse(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_descale: torch.Tensor | None,
    k_descale: torch.Tensor | None,
    v_descale: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, N, A, D] and [B, A, N]."""
    result = _operator()(
        q,
        k,
        v,
        q_descale=q_descale,
        k_descale=k_descale,
        v_descale=v_descale,
        softmax_scale=scale,
        num_splits=1,
        sm_margin=margins.of_attention(),
    )
    return result[0], result[1]


@_attend_with_lse.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_descale: torch.Tensor | None, *_: object
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, num_tokens, heads, _size = q.shape
    out = q.new_empty((*q.shape[:3], v.shape[3]), dtype=_dtype_of_result(q, q_descale))
    return out, q.new_empty((batch, heads, num_tokens), dtype=torch.float32)


def _dtype_of_result(q: torch.Tensor, q_descale: torch.Tensor | None) -> torch.dtype:
    return torch.bfloat16 if q_descale is not None else q.dtype


def _operator() -> Any:
    importlib.import_module("fa3_fwd_interface")
    return torch.ops.fa3_fwd._flash_attn_forward


@_attend.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_lengths: torch.Tensor | None,
    q_descale: torch.Tensor | None,
    *_: object,
) -> torch.Tensor:
    return q.new_empty((*q.shape[:3], v.shape[3]), dtype=_dtype_of_result(q, q_descale))


@functools.cache
def _build_flags() -> Mapping[str, bool]:
    if find_spec("fa3_fwd_config") is None:
        return {}
    flags: Mapping[str, bool] = importlib.import_module("fa3_fwd_config").CONFIG["build_flags"]
    return flags
