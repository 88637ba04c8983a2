"""INT8 linear: both Triton paths against exact integer sums, and the error against fp32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from eight_bit import assert_within_twice, errors, needs_triton, normal

from kernels.descriptors import LinearProblem, Target
from kernels.fused import row_quant
from kernels.linear import int8

SHAPES = [(1, 64, 40), (17, 96, 264), (33, 128, 32), (17, 200, 8)]


def problem(target: Target, rows: int = 40, in_features: int = 64, out_features: int = 32) -> LinearProblem:
    return LinearProblem(
        rows=rows, in_features=in_features, out_features=out_features, dtype="bf16", target=target
    )


@needs_triton
def test_supports() -> None:
    cpu, ampere = Target(kind="cpu", capability=None), Target(kind="cuda", capability=(8, 6))
    assert int8.supports(problem(cpu, in_features=7)) is None
    assert int8.supports(problem(ampere, rows=1)) is None
    assert "12 input" in str(int8.supports(problem(ampere, in_features=12)))
    assert "8.0" in str(int8.supports(problem(Target(kind="cuda", capability=(7, 5)))))
    assert "16 rows" in str(int8.supports_library(problem(ampere, rows=16)))
    assert int8.supports_library(problem(ampere, rows=17)) is None


def operands(rows: int, in_features: int, out_features: int):
    x = normal(rows, in_features)
    weight = normal(out_features, in_features, seed=1, size=in_features**-0.5)
    return x, weight, normal(out_features, seed=2)


@pytest.mark.parametrize(("rows", "in_features", "out_features"), [*SHAPES, (130, 1536, 64)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_error_is_within_the_stated_bounds(
    rows: int, in_features: int, out_features: int, has_bias: bool
) -> None:
    x, weight, bias = operands(rows, in_features, out_features)
    x8, x_scale = row_quant.plain(x, quantize="int8")
    w8, w_scale = int8.quantize_weight(weight)
    used = bias if has_bias else None
    out = int8.plain(x8, x_scale, w8, w_scale, used, out_dtype=torch.float32)
    error, cosine = errors(out, F.linear(x, weight, used))
    assert 0.001 < error <= int8.MAX_RELATIVE_ERROR
    assert cosine >= int8.MIN_COSINE


@needs_triton
@pytest.mark.parametrize(("rows", "in_features", "out_features"), SHAPES)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float32])
def test_both_kernels_are_plain_torch(
    rows: int, in_features: int, out_features: int, has_bias: bool, out_dtype: torch.dtype
) -> None:
    x, weight, bias = operands(rows, in_features, out_features)
    x8, x_scale = row_quant.plain(x, quantize="int8")
    w8, w_scale = int8.quantize_weight(weight)
    used = bias.to(out_dtype) if has_bias else None
    plain = int8.plain(x8, x_scale, w8, w_scale, used, out_dtype=out_dtype)
    exact = int8.plain(x8, x_scale, w8, w_scale, used, out_dtype=torch.float32)
    fused = int8.launch(x8, x_scale, w8, w_scale, used, out_dtype=out_dtype)
    assert fused.dtype == out_dtype and fused.shape == plain.shape
    assert_within_twice(fused, plain, exact)
    product = (x8.double() @ w8.double().t()).int()
    library = int8._epilogue_op(product, x_scale.reshape(-1), w_scale, used, out_dtype)
    assert_within_twice(library, plain, exact)


@needs_triton
def test_every_tile_gives_the_same() -> None:
    """Tiles differ in their sizes only, also where nothing divides; a small sum is exact in any order."""
    x8 = (normal(35, 72) * 40).to(torch.int8)
    w8 = (normal(24, 72, seed=1) * 40).to(torch.int8)
    ones = torch.ones(35, device=x8.device)
    expected = (x8.double() @ w8.double().t()).float()
    for tile in {int8._SMALL, int8._MIDDLE, *int8.TILES.values()}:
        actual = int8.start(int8.Operands(x8, ones, w8, ones[:24], None, out_dtype=torch.float32), tile)
        assert torch.equal(actual, expected), tile


def test_tiles_by_card_and_rows() -> None:
    assert int8.tile_of((9, 0), 32760) == int8.TILES[9, 0]
    assert int8.tile_of((8, 7), 32760) == int8.TILES[8, 6]
    assert int8.tile_of((12, 1), 4096) == int8.TILES[12, 0]
    assert int8.tile_of((9, 0), 1).m == 16 and int8.tile_of((9, 0), 200).m == 64
    limits = {(8, 0): 164, (8, 6): 100, (8, 9): 100, (9, 0): 227, (12, 0): 100}
    for capability, tile in int8.TILES.items():
        assert tile.num_stages * tile.k * (tile.m + tile.n) < limits[capability] * 1024


def test_leading_dims() -> None:
    x8, x_scale = row_quant.plain(normal(2, 3, 32), quantize="int8")
    w8, w_scale = int8.quantize_weight(normal(16, 32, seed=1))
    for run in (int8.run, int8.plain):
        assert run(x8, x_scale, w8, w_scale, None, out_dtype=torch.bfloat16).shape == (2, 3, 16)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("rows", "in_features", "out_features"),
    [(17, 1536, 8960), (300, 8960, 1536), (32760, 1536, 4608), (32760, 1536, 8960), (32760, 8960, 1536)],
)
def test_gpu_is_plain_torch(rows: int, in_features: int, out_features: int) -> None:
    x, weight, bias = (t.bfloat16() for t in operands(rows, in_features, out_features))
    x8, x_scale = row_quant.run(x, quantize="int8")
    w8, w_scale = int8.quantize_weight(weight)
    plain = int8.plain(x8, x_scale, w8, w_scale, bias, out_dtype=torch.bfloat16)
    exact = int8.plain(x8, x_scale, w8, w_scale, bias, out_dtype=torch.float32)
    for run in (int8.run, int8.run_library):
        out = run(x8, x_scale, w8, w_scale, bias, out_dtype=torch.bfloat16)
        assert_within_twice(out, plain, exact)
    error, cosine = errors(exact, F.linear(x.float(), weight.float(), bias.float()))
    assert error <= int8.MAX_RELATIVE_ERROR and cosine >= int8.MIN_COSINE
