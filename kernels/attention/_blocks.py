"""Which blocks of keys each block of queries sees: made once from a token grid, the same for all heads.

Does not know how a kernel walks it. Invariant: every query block sees at least one key block, because a row
without keys has no softmax. Coordinates are (frame, row, column) of the token grid F x H x W.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMask:
    """The mask as lists: query block i sees the key blocks `indices[i, :counts[i]]`, ascending.

    indices int32 [query blocks, most seen], counts int32 [query blocks]. The last block of either side may be
    shorter than `block`.
    """

    indices: Tensor
    counts: Tensor
    q_len: int
    kv_len: int
    block: int

    def __post_init__(self) -> None:
        num_blocks = -(-self.q_len // self.block)
        assert self.block >= 16 and self.block & (self.block - 1) == 0, f"block {self.block} is no power of 2"
        assert self.counts.shape == (num_blocks,) and self.indices.shape[0] == num_blocks, (
            f"{tuple(self.indices.shape)} and {tuple(self.counts.shape)} for {num_blocks} blocks of queries"
        )
        assert self.indices.dtype == self.counts.dtype == torch.int32

    @classmethod
    def of(cls, visible: Tensor, *, q_len: int, kv_len: int, block: int) -> BlockMask:
        """From bool [query blocks, key blocks]; ValueError when a query block sees nothing."""
        shape = (-(-q_len // block), -(-kv_len // block))
        assert visible.shape == shape, f"{tuple(visible.shape)} is not {shape}"
        counts = visible.sum(dim=1, dtype=torch.int32)
        if int(counts.min()) == 0:
            empty = (counts == 0).nonzero().flatten().tolist()
            raise ValueError(f"query blocks {empty[:8]} see no key block: their softmax has no value")
        # A stable sort puts the visible blocks first and keeps them ascending.
        order = visible.to(torch.int8).sort(dim=1, descending=True, stable=True).indices
        indices = order[:, : int(counts.max())].to(torch.int32).contiguous()
        return cls(indices=indices, counts=counts, q_len=q_len, kv_len=kv_len, block=block)

    @classmethod
    def neighbourhood(
        cls, *, grid: tuple[int, int, int], window: tuple[int, int, int], block: int = 128
    ) -> BlockMask:
        """Self-attention in which each token sees at least the tokens at most `window` away on every axis.

        Tokens run along columns, then rows, then frames. A key block is visible when some token of it lies in
        the window of some token of the query block.
        """
        assert min(grid) >= 1 and min(window) >= 0, f"grid {grid}, window {window}"
        num_tokens = grid[0] * grid[1] * grid[2]
        num_blocks = -(-num_tokens // block)
        visible = torch.empty(num_blocks, num_blocks, dtype=torch.bool)
        for index in range(num_blocks):
            near = torch.zeros(num_tokens)
            near[index * block : (index + 1) * block] = 1.0
            near = near.view(1, 1, *grid)
            for axis, reach in enumerate(window):  # the window is a box, so each axis widens on its own
                size, padding = [1, 1, 1], [0, 0, 0]
                size[axis], padding[axis] = 2 * reach + 1, reach
                near = max_pool3d(near, size, stride=1, padding=padding)
            filled = torch.zeros(num_blocks * block)
            filled[:num_tokens] = near.flatten()
            visible[index] = filled.view(num_blocks, block).amax(dim=1) > 0
        return cls.of(visible, q_len=num_tokens, kv_len=num_tokens, block=block)

    def to(self, device: torch.device | str) -> BlockMask:
        return BlockMask(
            indices=self.indices.to(device),
            counts=self.counts.to(device),
            q_len=self.q_len,
            kv_len=self.kv_len,
            block=self.block,
        )

    @property
    def density(self) -> float:
        """Share of the block pairs that is visible. Waits for the device."""
        return float(self.counts.sum()) / (len(self.counts) * -(-self.kv_len // self.block))

    def dense(self) -> Tensor:
        """bool [q_len, kv_len]: the same mask token by token."""
        num_keys = -(-self.kv_len // self.block)
        listed = torch.arange(self.indices.shape[1], device=self.counts.device) < self.counts[:, None]
        # What is beyond a row's count goes to a column that is cut off.
        target = torch.where(listed, self.indices, num_keys).long()
        visible = torch.zeros(len(self.counts), num_keys + 1, dtype=torch.bool, device=self.counts.device)
        visible.scatter_(1, target, True)
        tokens = visible[:, :num_keys].repeat_interleave(self.block, 0).repeat_interleave(self.block, 1)
        return tokens[: self.q_len, : self.kv_len]
