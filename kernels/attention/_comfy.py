"""The door to the package `comfy-kitchen`, for its INT8 and its sparse attention.

Imports the package when it is called: its own operators are there for torch.compile only after that, ours
before.
B batch, A heads, N queries, M keys, D head size.
"""

import importlib

import torch

from kernels.attention._checks import first_reason, not_installed
from kernels.descriptors import AttentionProblem

PACKAGE, DISTRIBUTION = "comfy_kitchen", "comfy-kitchen"


def why_not(problem: AttentionProblem) -> str | None:
    """Why the package is not asked here: on a CPU, and on AMD's GPUs, which nothing of ours was tried on."""
    return first_reason(
        "needs a CUDA GPU" if problem.target.kind != "cuda" else None,
        not_installed(PACKAGE, DISTRIBUTION),
        "is not asked on AMD GPUs" if torch.version.hip else None,
    )


@torch.library.custom_op("retake::comfy_int8_attention", mutates_args=())
def int8_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """q [B, A, N, D], k and v [B, A or fewer, M, D] -> [B, A, N, D]."""
    out: torch.Tensor = importlib.import_module(PACKAGE).int8_attention(q, k, v, scale=scale)
    return out


@int8_attention.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op("retake::comfy_sol_attention", mutates_args=())
def sol_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, ratio: float, sink_blocks: int
) -> torch.Tensor:
    """q, k, v [B, N, A, 128] -> [B, N, A, 128]. The first `sink_blocks` blocks of 64 keys are exact."""
    out: torch.Tensor = importlib.import_module(PACKAGE).sol_attn(
        q, k, v, scale=scale, topk_ratio=ratio, sink_blocks=[0, sink_blocks]
    )
    return out


@sol_attention.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, ratio: float, sink_blocks: int
) -> torch.Tensor:
    return q.new_empty(q.shape)
