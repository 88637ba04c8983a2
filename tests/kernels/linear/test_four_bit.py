"""4-bit weights: the layout that the kernel's operand wants, what packing costs, rows that stay alone."""

from __future__ import annotations

import pytest
import torch
from eight_bit import DEVICE, normal

from kernels.descriptors import LinearProblem, Target
from kernels.linear import four_bit

LEVELS = [float(level) / 8 - 1 for level in range(16)]


def codes_and_scales(n: int, k: int):
    random = torch.Generator().manual_seed(n + k)
    codes = torch.randint(0, 16, (n, k), generator=random, dtype=torch.uint8)
    scales = torch.rand(n, k // 64, generator=random) * 0.02 + 0.001
    return codes.to(DEVICE), scales.to(DEVICE)


def exact(codes, scales):
    levels = torch.tensor(LEVELS, device=codes.device)
    n, k = codes.shape
    return (levels[codes.long()].view(n, k // 64, 64) * scales[..., None]).view(n, k)


def problem(target: Target, **changes: int | str) -> LinearProblem:
    sizes = {"rows": 4, "in_features": 128, "out_features": 32, "dtype": "bf16"} | changes
    return LinearProblem(**sizes, target=target)  # type: ignore[arg-type]


def test_supports() -> None:
    hopper, cpu = Target(kind="cuda", capability=(9, 0)), Target(kind="cpu", capability=None)
    assert four_bit.supports(problem(hopper)) is None
    assert four_bit.supports(problem(cpu, dtype="fp32")) is None
    assert "17 rows" in str(four_bit.supports(problem(hopper, rows=17)))
    assert "96 input features" in str(four_bit.supports(problem(hopper, in_features=96)))
    assert "24 output features" in str(four_bit.supports(problem(hopper, out_features=24)))
    assert "fp16" in str(four_bit.supports(problem(hopper, dtype="fp16")))
    assert "8.0" in str(four_bit.supports(problem(Target(kind="cuda", capability=(7, 5)))))


@pytest.mark.parametrize(("n", "k"), [(16, 64), (48, 192)])
def test_a_packed_weight_is_the_weight(n: int, k: int) -> None:
    codes, scales = codes_and_scales(n, k)
    weight = four_bit.pack(codes, scales, LEVELS)
    assert (weight.out_features, weight.in_features) == (n, k)
    assert weight.tiles.numel() == n * k * 17 // 32
    torch.testing.assert_close(
        four_bit.dequantize(weight).float(), exact(codes, scales), rtol=2**-8 + 2**-11, atol=0
    )  # the levels of this table are exact in bf16: one rounding, and that of the scale to fp16


def test_the_order_within_a_tile_is_that_of_the_operand() -> None:
    """PTX ISA, mma.m16n8k16: register i of lane 4 g + q holds row g (i even) or g + 8 and columns 2 q and
    2 q + 1 (i below 2) or 8 further. K may be permuted, if x is too: step j of lane q takes 16 q + 4 j to
    16 q + 4 j + 3."""
    codes, scales = codes_and_scales(16, 64)
    tile = four_bit.pack(codes, scales, LEVELS).tiles[0, 0]
    weights = tile[:512].view(32, 4, 4)
    for lane, step, register in [(0, 0, 0), (5, 1, 1), (18, 2, 2), (31, 3, 3), (7, 3, 0)]:
        row = lane // 4 + 8 * (register % 2)
        column = 16 * (lane % 4) + 4 * step + 2 * (register // 2)
        expected = int(codes[row, column]) | int(codes[row, column + 1]) << 4
        assert int(weights[lane, step, register]) == expected


def test_part_of_the_features_is_a_view() -> None:
    codes, scales = codes_and_scales(48, 64)
    weight = four_bit.pack(codes, scales, LEVELS)
    part = weight.rows(16, 48)
    assert part.tiles.data_ptr() == weight.tiles[1].data_ptr()
    assert torch.equal(four_bit.dequantize(part), four_bit.dequantize(weight)[16:])
    with pytest.raises(AssertionError, match="cuts a tile"):
        weight.rows(8, 48)


@pytest.mark.parametrize("size", [1e-6, 1.0, 3e4])
def test_scales_of_any_size_keep_their_precision(size: float) -> None:
    codes, scales = codes_and_scales(16, 128)
    weight = four_bit.pack(codes, scales * size, LEVELS)
    torch.testing.assert_close(
        four_bit.dequantize(weight).float(), exact(codes, scales * size), rtol=2**-7, atol=0
    )


def test_a_weight_of_zeros() -> None:
    codes, scales = codes_and_scales(16, 64)
    assert not four_bit.dequantize(four_bit.pack(codes, scales * 0, LEVELS)).any()


def test_plain_adds_the_bias_and_then_the_residual() -> None:
    codes, scales = codes_and_scales(32, 128)
    weight = four_bit.pack(codes, scales, LEVELS)
    x, bias, residual = normal(3, 128), normal(32, seed=1), normal(3, 32, seed=2)
    out = four_bit.plain(x, weight, bias=bias, residual=residual)
    expected = x @ exact(codes, scales).t() + bias + residual
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 3, 8, 9, 16])
@pytest.mark.parametrize(("n", "k"), [(16, 64), (4096, 4096), (6144, 2560), (2112, 18944), (24576, 1024)])
@pytest.mark.parametrize("wide", [True, False])
def test_the_kernel_on_a_card(rows: int, n: int, k: int, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not wide:
        four_bit._compiled.cache_clear()
        monkeypatch.setattr(four_bit, "_is_wide", lambda device: False)
    codes, scales = codes_and_scales(n, k)
    weight = four_bit.pack(codes, scales, LEVELS)
    x = normal(rows, k, dtype=torch.bfloat16)
    bias, residual = normal(n, seed=1, dtype=torch.bfloat16), normal(rows, n, seed=2, dtype=torch.bfloat16)
    expected = x.float() @ exact(codes, scales).t()
    out = four_bit.run(x, weight)
    error = (out.float() - expected).norm() / expected.norm()
    assert error < four_bit.MAX_RELATIVE_ERROR
    whole = four_bit.run(x, weight, bias=bias, residual=residual)
    torch.testing.assert_close(
        whole.float(),
        expected + bias.float() + residual.float(),
        rtol=0.02,
        atol=0.05 * float(expected.std()),
    )
    for row in range(rows):
        alone = four_bit.run(x[row : row + 1].contiguous(), weight)
        assert torch.equal(alone[0], out[row]), "a row must not depend on its neighbours"
    four_bit._compiled.cache_clear()


@pytest.mark.gpu
def test_dequantized_on_a_card() -> None:
    codes, scales = codes_and_scales(272, 320)
    weight = four_bit.pack(codes, scales, LEVELS)
    assert torch.equal(four_bit.dequantize(weight), four_bit._dequantize(weight).bfloat16())
