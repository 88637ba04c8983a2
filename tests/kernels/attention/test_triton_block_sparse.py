"""Attention under a block mask: exact for the mask, whatever the blocks, the tail and the tile sizes."""

from __future__ import annotations

import pytest
import torch
from attention_cases import (
    DEVICE,
    HAS_GPU,
    TRITON_DTYPES,
    TRITON_TARGET,
    check,
    lengths,
    problem,
    tensors,
)

pytest.importorskip("triton")

from kernels.attention import triton_block_sparse, triton_dense
from kernels.attention._blocks import BlockMask
from kernels.autotune import Tiles
from kernels.descriptors import KernelError

DTYPES = pytest.mark.parametrize("dtype", TRITON_DTYPES, ids=str)
BLOCKS = (64, 128) if HAS_GPU else (16, 32, 64)


def random_mask(q_len: int, kv_len: int, block: int) -> BlockMask:
    shape = (-(-q_len // block), -(-kv_len // block))
    visible = torch.rand(shape, generator=torch.Generator().manual_seed(block)) < 0.5
    visible[:, 0] |= ~visible.any(dim=1)
    return BlockMask.of(visible, q_len=q_len, kv_len=kv_len, block=block).to(DEVICE)


@DTYPES
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("q_len", "kv_len"), [(1, 1), (31, 31), (65, 65), (64, 64), (40, 97)])
def test_sizes_around_the_blocks(q_len: int, kv_len: int, block: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(q_len, kv_len, dtype=dtype)
    check(triton_block_sparse, q, k, v, blocks=random_mask(q_len, kv_len, block))


@DTYPES
def test_a_neighbourhood_of_video_tokens(dtype: torch.dtype) -> None:
    mask = BlockMask.neighbourhood(grid=(3, 5, 7), window=(0, 1, 1), block=BLOCKS[0]).to(DEVICE)
    check(triton_block_sparse, *tensors(105, 105, dtype=dtype), blocks=mask)


def test_only_the_tail_block_is_seen() -> None:
    """The last block of 70 keys holds 6 of 32, cut into tiles of 16: one whole tile lies past the end."""
    block = BLOCKS[-1]
    num_keys = 2 * block + 6
    visible = torch.tensor([[False, False, True]])
    mask = BlockMask.of(visible, q_len=9, kv_len=num_keys, block=block).to(DEVICE)
    tiles = Tiles(block_m=block, block_n=block // 2, num_warps=4, num_stages=1)
    q, k, v = tensors(9, num_keys)
    check(triton_block_sparse, q, k, v, blocks=mask, tiles=tiles)


@pytest.mark.parametrize("edge", [-1, 0, 1])
def test_blocks_of_several_tiles(edge: int) -> None:
    block = BLOCKS[-1]
    num_keys = 2 * block + block // 2 + edge
    tiles = Tiles(block_m=block, block_n=block // 4, num_warps=4, num_stages=1)
    q, k, v = tensors(block + 1, num_keys)
    check(triton_block_sparse, q, k, v, blocks=random_mask(block + 1, num_keys, block), tiles=tiles)


def test_a_full_mask_is_dense() -> None:
    block = BLOCKS[-1]
    shape = (2, 2)
    mask = BlockMask.of(
        torch.ones(shape, dtype=torch.bool), q_len=2 * block - 3, kv_len=2 * block - 5, block=block
    ).to(DEVICE)
    q, k, v = tensors(2 * block - 3, 2 * block - 5)
    tiles = Tiles(block_m=block, block_n=block, num_warps=4, num_stages=1)
    out = triton_block_sparse.run(q, k, v, scale=0.125, blocks=mask, tiles=tiles)
    assert torch.equal(out, triton_dense.run(q, k, v, scale=0.125, tiles=tiles))


def test_hidden_keys_may_hold_nan() -> None:
    """A hidden block is never read."""
    block = BLOCKS[0]
    q, k, v = tensors(block, 3 * block)
    k, v = k.clone(), v.clone()
    visible = torch.tensor([[True, False, True]])
    mask = BlockMask.of(visible, q_len=block, kv_len=3 * block, block=block).to(DEVICE)
    expected = triton_block_sparse.run(q, k, v, scale=0.1, blocks=mask)
    k[:, :, block : 2 * block] = v[:, :, block : 2 * block] = torch.nan
    assert torch.equal(triton_block_sparse.run(q, k, v, scale=0.1, blocks=mask), expected)


def test_wrong_arguments_are_refused() -> None:
    q, k, v = tensors(16, 16)
    with pytest.raises(KernelError, match="takes a block mask"):
        triton_block_sparse.run(q, k, v, scale=0.1)
    with pytest.raises(KernelError, match="triton_dense"):
        triton_block_sparse.run(q, k, v, scale=0.1, kv_lengths=lengths(3, 4))
    mask = random_mask(32, 16, 16)
    with pytest.raises(AssertionError, match="32 x 16"):
        triton_block_sparse.run(q, k, v, scale=0.1, blocks=mask)
    with pytest.raises(AssertionError, match="at once"):
        triton_block_sparse.run(q, k, v, scale=0.1, blocks=random_mask(16, 16, 16), kv_lengths=lengths(3, 4))


def test_supports_says_what_is_wrong() -> None:
    assert triton_block_sparse.supports(problem(mask="blocks", dtype="fp16", target=TRITON_TARGET)) is None
    assert "mask 'none'" in (triton_block_sparse.supports(problem()) or "")
    assert "mask 'lengths'" in (triton_block_sparse.supports(problem(mask="lengths")) or "")


@pytest.mark.gpu
@DTYPES
def test_a_window_of_a_real_grid(dtype: torch.dtype) -> None:
    grid = (5, 30, 52)
    num_tokens = 5 * 30 * 52
    mask = BlockMask.neighbourhood(grid=grid, window=(1, 4, 4), block=128).to(DEVICE)
    check(triton_block_sparse, *tensors(num_tokens, num_tokens, 128, dtype, batch=1), blocks=mask)
