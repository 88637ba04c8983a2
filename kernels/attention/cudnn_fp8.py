"""cuDNN's FP8 attention through nvidia-cudnn-frontend, one scale per tensor; capability 9.x and 10.x.

A graph is built once per problem and replayed. On 9.x cuDNN returns E4M3 only, so the output loses bits too.
B batch, A heads, N queries, M keys, D head size.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kernels.attention._checks import (
    check,
    first_reason,
    not_among,
    not_capability,
    not_installed,
    refuse_lengths,
)
from kernels.attention._eight_bit import E4M3_MAX, e4m3_tensor, smooth_keys
from kernels.descriptors import KernelError
from kernels.fused.formats import hadamard

if TYPE_CHECKING:
    from kernels.descriptors import AttentionProblem

ACCURACY = "8bit"
ERROR_FACTOR = 100.0
COSINE_BOUND = 0.99
OUTPUT_PEAK = 0.95 * E4M3_MAX
"""What the largest value of V becomes in the output: a mean of values cannot exceed it but by rounding."""


def supports(problem: AttentionProblem) -> str | None:
    if problem.head_dim > 128 or problem.head_dim % 16:
        return f"head size {problem.head_dim} is not a multiple of 16 up to 128"
    capability = problem.target.capability
    if capability is not None and capability[0] not in (9, 10):
        return f"compute capability {capability[0]}.{capability[1]} is not 9.x or 10.x"
    return first_reason(
        not_capability(problem, lowest=(9, 0)),
        not_among(problem, dtypes=("bf16", "fp16"), masks=("none",)),
        not_installed("cudnn", "nvidia-cudnn-frontend"),
    )


def run(q: Tensor, k: Tensor, v: Tensor, *, scale: float, kv_lengths: Tensor | None = None) -> Tensor:
    """q [B, A, N, D], k and v [B, A, M, D] bf16 or fp16 -> [B, A, N, D]."""
    check(q, k, v, scale, kv_lengths)
    refuse_lengths("cudnn_fp8", kv_lengths)
    q8, q_scale = e4m3_tensor(hadamard(q))
    k8, k_scale = e4m3_tensor(hadamard(smooth_keys(k, None)))
    v8, v_scale = e4m3_tensor(v)
    out_scale = v_scale * (E4M3_MAX / OUTPUT_PEAK)
    out8 = _attend(q8, k8, v8, q_scale, k_scale, v_scale, 1.0 / out_scale, scale)
    out: Tensor = (out8.float() * out_scale).to(q.dtype)
    return out


@torch.library.custom_op("retake::cudnn_fp8_attention", mutates_args=())
def _attend(
    q8: Tensor,
    k8: Tensor,
    v8: Tensor,
    q_descale: Tensor,
    k_descale: Tensor,
    v_descale: Tensor,
    out_scale: Tensor,
    scale: float,
) -> Tensor:
    """E4M3 [B, A, N, D] and fp32 [1, 1, 1, 1] -> E4M3 [B, A, N, D], the output times out_scale."""
    cudnn = importlib.import_module("cudnn")
    out = torch.empty_like(q8)
    layout = tuple((tuple(x.shape), tuple(x.stride())) for x in (q8, k8, v8, out))
    handle, graph, inputs, result, workspace_bytes = _graph(q8.device.index, layout, scale)
    cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream(q8.device).cuda_stream)
    # Weights lie in 0..1 and are stored times 448.
    weight_scale = torch.full_like(q_descale, E4M3_MAX)
    values = (q8, k8, v8, q_descale, k_descale, v_descale, 1.0 / weight_scale, weight_scale, out_scale)
    workspace = torch.empty(workspace_bytes, dtype=torch.uint8, device=q8.device)
    graph.execute({**dict(zip(inputs, values, strict=True)), result: out}, workspace, handle=handle)
    return out


@_attend.register_fake
def _(q8: Tensor, *_: object) -> Tensor:
    return torch.empty_like(q8)


@functools.cache
def _handle(device_index: int) -> Any:
    with torch.cuda.device(device_index):
        return importlib.import_module("cudnn").create_handle()


@functools.lru_cache(maxsize=64)
def _graph(
    device_index: int, layout: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...], scale: float
) -> tuple[Any, Any, list[Any], Any, int]:
    """The handle, the built graph, its inputs in the order of `_attend`, its output, bytes of workspace."""
    cudnn = importlib.import_module("cudnn")
    e4m3, fp32 = cudnn.data_type.FP8_E4M3, cudnn.data_type.FLOAT
    handle = _handle(device_index)
    graph = cudnn.pygraph(
        io_data_type=e4m3, intermediate_data_type=fp32, compute_data_type=fp32, handle=handle
    )
    tensors = [
        graph.tensor(name=name, dim=list(shape), stride=list(stride), data_type=e4m3)
        for name, (shape, stride) in zip("qkv", layout, strict=False)
    ]
    names = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")
    scales = [
        graph.tensor(name=name, dim=[1, 1, 1, 1], stride=[1, 1, 1, 1], data_type=fp32) for name in names
    ]
    result, _, weight_peak, out_peak = graph.sdpa_fp8(
        q=tensors[0],
        k=tensors[1],
        v=tensors[2],
        **dict(zip(names, scales, strict=True)),
        attn_scale=scale,
        generate_stats=False,
        name="attention",
    )
    shape, stride = layout[3]
    result.set_output(True).set_dim(list(shape)).set_stride(list(stride)).set_data_type(e4m3)
    for unused in (weight_peak, out_peak):
        unused.set_output(False).set_dim([1, 1, 1, 1]).set_stride([1, 1, 1, 1]).set_data_type(fp32)
    try:
        graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    except (cudnn.cudnnGraphNotSupportedError, RuntimeError) as error:
        raise KernelError(f"cuDNN builds no FP8 attention for {layout}: {error}") from error
    return handle, graph, [*tensors, *scales], result, int(graph.get_workspace_size())
