"""8-bit attention in Triton: within its stated bounds, smoothing is exact, padding never counts."""

from __future__ import annotations

import pytest
import torch
from attention_cases import (
    ADA,
    CPU,
    DEVICE,
    GPU_SIZES,
    HOPPER,
    SIZES,
    TRITON_DTYPES,
    TRITON_TARGET,
    check,
    fill_padding,
    lengths,
    problem,
    tensors,
)

pytest.importorskip("triton")

from kernels import reference
from kernels.attention import triton_int8
from kernels.attention._eight_bit import channel_mean
from kernels.attention._triton_quantize import int8_rows
from kernels.descriptors import KernelError, Target

DTYPES = pytest.mark.parametrize("dtype", TRITON_DTYPES, ids=str)
RELATIVE_BOUND = 0.03  # of normal inputs; three times what a step of amax / 127 gives


@DTYPES
@pytest.mark.parametrize("values", ["wide", "short"])
@pytest.mark.parametrize(("q_len", "kv_len"), SIZES)
def test_sizes_around_the_tiles(
    q_len: int, kv_len: int, values: triton_int8.Values, dtype: torch.dtype
) -> None:
    errors = check(triton_int8, *tensors(q_len, kv_len, dtype=dtype), values=values)
    assert errors.relative < RELATIVE_BOUND


@DTYPES
@pytest.mark.parametrize("head_dim", [32, 128])
def test_head_sizes(head_dim: int, dtype: torch.dtype) -> None:
    check(triton_int8, *tensors(33, 47, head_dim, dtype))


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("values", ["wide", "short"])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("q_len", "kv_len"), GPU_SIZES)
def test_sizes_around_the_tiles_of_gpus(
    q_len: int, kv_len: int, head_dim: int, values: triton_int8.Values, dtype: torch.dtype
) -> None:
    errors = check(triton_int8, *tensors(q_len, kv_len, head_dim, dtype), values=values)
    assert errors.relative < RELATIVE_BOUND


@pytest.mark.gpu
@pytest.mark.parametrize(("q_len", "kv_len"), GPU_SIZES)
def test_e4m3_values(q_len: int, kv_len: int) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("E4M3 needs compute capability 8.9")
    q, k, v = tensors(q_len, kv_len, 128, torch.bfloat16)
    out = triton_int8.run(q, k, v, scale=0.1, values="fp8")
    errors = reference.compare(out, reference.attention(q, k, v, scale=0.1))
    assert errors.relative < 0.08 and errors.cosine > 0.995


def test_e4m3_values_need_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors(16, 16)
    ampere = Target(kind="cuda", capability=(8, 6))
    monkeypatch.setattr(triton_int8.Target, "of", lambda device: ampere)
    with pytest.raises(KernelError, match=r"8\.9"):
        triton_int8.run(q, k, v, scale=0.1, values="fp8", tiles=triton_int8.candidates("int8", CPU, 64)[0])


@DTYPES
@pytest.mark.parametrize("short", [40, 33, 31, 1, 0])
def test_lengths_with_nan_in_padding(short: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(33, 40, dtype=dtype)
    valid = lengths(37, short)
    check(triton_int8, q, fill_padding(k, valid), fill_padding(v, valid), kv_lengths=valid)


def test_smoothing_saves_keys_with_an_offset() -> None:
    """An offset 20 times the spread of the keys would leave them a step of 20 / 127 without smoothing."""
    q, k, v = tensors(33, 70)
    offset = 20 * torch.randn(64, generator=torch.Generator().manual_seed(1)).to(DEVICE, torch.float16)
    errors = check(triton_int8, q, k + offset, v)
    assert errors.relative < RELATIVE_BOUND

    mean = torch.zeros_like(channel_mean(k, None))
    tiles = triton_int8.candidates("int8", TRITON_TARGET, 64)[0]
    q8, q_scales = int8_rows(q, None, None, 0.125 * 1.4427, tiles.block_m, True)
    k8, k_scales = int8_rows(k + offset, mean, None, 1.0, tiles.block_n, False)
    rough = triton_int8.run_quantized(q8, k8, v, q_scales, k_scales, tiles=tiles)
    worse = reference.compare(rough, reference.attention(q, k + offset, v, scale=0.125))
    assert worse.relative > 3 * errors.relative


def test_rows_multiply_back() -> None:
    q, _, _ = tensors(33, 40)
    q8, scales = int8_rows(q, None, None, 2.0, 32, True)
    assert q8.abs().max() == 127 and scales.shape == (2, 3, 33)
    assert ((q8 * scales[..., None] - 2.0 * q.float()).abs() <= 0.501 * scales[..., None]).all()


def test_groups_multiply_back_and_padding_is_zero() -> None:
    _, k, _ = tensors(33, 70)
    valid = lengths(70, 40)
    padded = fill_padding(k, valid)
    mean = channel_mean(padded, valid)
    k8, scales = int8_rows(padded, mean, valid, 1.0, 32, False)
    assert scales.shape == (2, 3, 3) and bool(scales.isfinite().all()) and bool((scales > 0).all())
    assert k8[1, :, 40:].abs().max() == 0
    wide = scales.repeat_interleave(32, dim=2)[:, :, :70, None]
    smooth = k.float() - mean[:, :, None]
    assert ((k8 * wide - smooth).abs() <= 0.501 * wide)[1, :, :40].all()
    assert ((k8 * wide - smooth).abs() <= 0.501 * wide)[0].all()


def test_zeros_stay_zero() -> None:
    zeros = torch.zeros(1, 1, 16, 32, dtype=torch.float16, device=DEVICE)
    assert triton_int8.run(zeros, zeros, zeros, scale=1.0).abs().max() == 0


def test_sums_in_fp16_do_not_overflow() -> None:
    """32 values of 60000 with nearly equal weights: their sum of a tile needs the scale of the channel."""
    q, k, v = tensors(16, 32)
    errors = check(triton_int8, q * 0.1, k, v.clamp(-1, 1).abs() * 6e4, values="short")
    assert errors.relative < RELATIVE_BOUND


def test_supports_and_the_kind_of_sums() -> None:
    assert triton_int8.supports(problem(target=ADA)) is None
    assert triton_int8.supports(problem(target=HOPPER, mask="lengths")) is None
    assert "fp32" in (triton_int8.supports(problem(dtype="fp32")) or "")
    assert "below 32" in (triton_int8.supports(problem(head_dim=16)) or "")
    assert (triton_int8.default_values(ADA), triton_int8.default_values(HOPPER)) == ("short", "wide")


@pytest.mark.gpu
def test_torch_compile_sees_through_it() -> None:
    q, k, v = tensors(129, 77, 64, torch.bfloat16)

    def block(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return triton_int8.run(q * 1.5, k, v, scale=0.125) + 1

    compiled = torch.compile(block, fullgraph=True)
    assert (compiled(q, k, v) - block(q, k, v)).abs().max() < 0.1


@pytest.mark.gpu
def test_it_can_be_captured_in_a_graph() -> None:
    q, k, v = tensors(129, 77, 64, torch.bfloat16)
    expected = triton_int8.run(q, k, v, scale=0.125)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = triton_int8.run(q, k, v, scale=0.125)
    graph.replay()
    assert torch.equal(out, expected)
