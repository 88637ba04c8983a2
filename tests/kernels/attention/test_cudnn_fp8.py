"""cuDNN's FP8 attention: numbers where the frontend is, its graph's arithmetic and reasons everywhere."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from attention_cases import ADA, CPU, GPU_SIZES, HAS_GPU, check, lengths, problem, tensors

from kernels import reference
from kernels.attention import cudnn_fp8
from kernels.descriptors import KernelError, Target

HERE = HAS_GPU and torch.cuda.get_device_capability()[0] in (9, 10) and find_spec("cudnn") is not None
NEEDS_CUDNN = pytest.mark.skipif(not HERE, reason="needs capability 9.x or 10.x and nvidia-cudnn-frontend")
RELATIVE_BOUND = 0.09


@pytest.mark.gpu
@NEEDS_CUDNN
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("q_len", "kv_len"), GPU_SIZES)
def test_sizes(q_len: int, kv_len: int, head_dim: int) -> None:
    errors = check(cudnn_fp8, *tensors(q_len, kv_len, head_dim, torch.bfloat16))
    assert errors.relative < RELATIVE_BOUND


@pytest.mark.gpu
@NEEDS_CUDNN
def test_a_graph_is_built_once() -> None:
    q, k, v = tensors(256, 256, 128, torch.bfloat16)
    cudnn_fp8._graph.cache_clear()
    for _ in range(3):
        cudnn_fp8.run(q, k, v, scale=0.1)
    assert cudnn_fp8._graph.cache_info().misses == 1


def stand_in(
    q8: torch.Tensor,
    k8: torch.Tensor,
    v8: torch.Tensor,
    q_descale: torch.Tensor,
    k_descale: torch.Tensor,
    v_descale: torch.Tensor,
    out_scale: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """What cuDNN computes, and that its E4M3 output is never cut off."""
    out = reference.attention(
        q8.float() * q_descale, k8.float() * k_descale, v8.float() * v_descale, scale=scale
    )
    assert (out * out_scale).abs().max() <= 448
    return (out * out_scale).to(torch.float8_e4m3fn)


def test_scales_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn_fp8, "_attend", stand_in)
    q, k, v = tensors(33, 70, 64, torch.bfloat16)
    assert check(cudnn_fp8, q, k + 4, v).relative < RELATIVE_BOUND
    assert check(cudnn_fp8, q * 10, k, v * 1e4).relative < 0.2  # sharp weights: E4M3 scores decide
    check(cudnn_fp8, q[:, :, :1], k[:, :, :1], v[:, :, :1])


def test_compiling_needs_no_cudnn() -> None:
    """The fake implementation gives shape and type."""
    q8 = torch.empty(1, 2, 16, 32, dtype=torch.float8_e4m3fn, device="meta")
    one = torch.empty(1, 1, 1, 1, device="meta")
    out = torch.ops.retake.cudnn_fp8_attention(q8, q8, q8, one, one, one, one, 0.1)
    assert out.shape == q8.shape and out.dtype == q8.dtype


def test_masks_are_refused() -> None:
    q, k, v = tensors(16, 16)
    with pytest.raises(KernelError, match="kv_lengths"):
        cudnn_fp8.run(q, k, v, scale=0.1, kv_lengths=lengths(3, 4))


def test_supports_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.attention._checks.find_spec", lambda name: object())
    assert cudnn_fp8.supports(problem()) is None
    reasons = {
        "8.9 is not 9.x or 10.x": problem(target=ADA),
        "12.0 is not 9.x or 10.x": problem(target=Target(kind="cuda", capability=(12, 0))),
        "needs a CUDA GPU": problem(target=CPU),
        "mask 'lengths'": problem(mask="lengths"),
        "fp32": problem(dtype="fp32"),
        "head size 192": problem(head_dim=192),
    }
    for text, asked in reasons.items():
        assert text in (cudnn_fp8.supports(asked) or ""), asked
    monkeypatch.setattr("kernels.attention._checks.find_spec", lambda name: None)
    assert cudnn_fp8.supports(problem()) == "the package nvidia-cudnn-frontend is not installed"
