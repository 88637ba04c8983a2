"""Attention whose leading keys are exact and whose other keys are sparse, in plain torch, and the choice of
blocks that its kernels share.

The keys behind the prefix lie in blocks. For each block of queries and each head a fixed number of blocks,
those with the highest product of means, is attended exactly; every other one counts as its mean key and mean
value, once for each of its keys, so that the whole sequence stays in the softmax (as in Sol-Attn,
arXiv 2607.24027). The number is the same whatever the values are, and so is the time.
B batch, A heads, N queries, M keys, P keys of the prefix, D head size, I blocks of queries, J blocks of keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.autotune import Tiles, candidates
from kernels.descriptors import AttentionProblem, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Tokens of a block of queries and of keys, and the share of the latter that is exact."""

    query_block: int
    key_block: int
    ratio: float

    def num_blocks(self, num_keys: int) -> int:
        """J of the keys behind the prefix."""
        return -(-num_keys // self.key_block)

    def num_chosen(self, num_keys: int) -> int:
        blocks = self.num_blocks(num_keys)
        return min(blocks, max(1, math.ceil(self.ratio * blocks)))


LAYOUT = Layout(query_block=128, key_block=64, ratio=0.25)
"""Of our kernels. Not tuned: another one gives another result."""
TABLE = "prefix_sparse"
MAX_SCORES = 2**30
"""That plain torch keeps at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Of one call. `blocks` int32 [B, A, I, C] ascending, so that the cut last block comes last; `chosen`
    bool [B, A, I, J]; `keys` and `values` [B, A, J, D] are the means of the blocks, in the dtype of k."""

    blocks: Tensor
    chosen: Tensor
    keys: Tensor
    values: Tensor
    last_length: int
    """Keys of the last block."""


def means(x: Tensor, block: int) -> Tensor:
    """fp32 [B, A, blocks, D] of x [B, A, N, D]; the last block may be cut."""
    whole = x.shape[2] // block
    parts = [torch.mean(x[:, :, : whole * block].unflatten(2, (whole, block)), 3, dtype=torch.float32)]
    if x.shape[2] > whole * block:
        parts.append(torch.mean(x[:, :, whole * block :], 2, keepdim=True, dtype=torch.float32))
    return torch.cat(parts, dim=2)


def choose(q: Tensor, k: Tensor, v: Tensor, prefix: int, layout: Layout) -> Chosen:
    """The blocks of the keys behind the first `prefix` of k [B, A, M, D], for q [B, A, N, D]."""
    num_keys = k.shape[2] - prefix
    assert 0 <= prefix < k.shape[2], f"a prefix of {prefix} of {k.shape[2]} keys"
    keys = means(k[:, :, prefix:], layout.key_block)
    scores = means(q, layout.query_block) @ keys.transpose(2, 3)  # [B, A, I, J]
    found = scores.topk(layout.num_chosen(num_keys), dim=3, sorted=False).indices
    return Chosen(
        blocks=found.sort(dim=3).values.to(torch.int32),
        chosen=torch.zeros_like(scores, dtype=torch.bool).scatter_(3, found, True),
        keys=keys.to(k.dtype).contiguous(),
        values=means(v[:, :, prefix:], layout.key_block).to(v.dtype).contiguous(),
        last_length=num_keys - (keys.shape[2] - 1) * layout.key_block,
    )


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    prefix: int,
    layout: Layout,
    rows: slice | None = None,
    wide: torch.dtype = torch.float32,
) -> Tensor:
    """[B, A, N, D] in `wide`, in which all sums are; of the queries only those of `rows`, where it is given.

    Keeps all N x M scores. The choice of blocks is that of the kernels, bit by bit.
    """
    found = choose(q, k, v, prefix, layout)
    taken = rows or slice(None)
    chosen = found.chosen.repeat_interleave(layout.query_block, 2)[:, :, : q.shape[2]][:, :, taken]
    queries = q[:, :, taken].to(wide) * scale
    exact = queries @ k.to(wide).transpose(2, 3)
    hidden = ~chosen.repeat_interleave(layout.key_block, 3)[:, :, :, : k.shape[2] - prefix]
    exact[..., prefix:] = exact[..., prefix:].masked_fill(hidden, -math.inf)
    lengths = torch.full((found.keys.shape[2],), float(layout.key_block), dtype=wide, device=q.device)
    lengths[-1] = found.last_length
    pooled = queries @ found.keys.to(wide).transpose(2, 3) + lengths.log()
    pooled = pooled.masked_fill(chosen, -math.inf)
    weights = torch.cat([exact, pooled], dim=3).softmax(dim=3)
    out: Tensor = weights @ torch.cat([v, found.values], dim=2).to(wide)
    return out


def launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: tuple[Tensor, Tensor] | None,
    *,
    scale: float,
    prefix: int,
    layout: Layout,
    tiles: Tiles | None,
) -> Tensor:
    """[B, A, N, D] by the Triton kernel, under the interpreter too. `start`: the prefix, attended before, as
    [B, A, N, D] and its log-sum-exp fp32 [B, A, N]; None: the kernel reads it. `tiles`: of its warps and
    stages; the sizes are those of `layout`."""
    from kernels.attention._triton_prefix_sparse import Arguments, forward

    tiles = tiles or candidates(TABLE, Target.of(q.device), q.shape[3])[0]
    found = choose(q, k, v, prefix, layout)
    return forward(
        Arguments(
            q=q,
            k=k,
            v=v,
            blocks=found.blocks,
            chosen=found.chosen,
            means=found.keys,
            mean_values=found.values,
            start_out=None if start is None else start[0],
            start_lse=None if start is None else start[1],
            prefix=prefix,
            scale=scale * math.log2(math.e),
            block_m=layout.query_block,
            block_n=layout.key_block,
            last_length=found.last_length,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
    )


def expected(q: Tensor, k: Tensor, v: Tensor, *, scale: float, prefix: int = 0) -> Tensor:
    """fp32 [B, A, N, D]: what the kernels of LAYOUT are compared with, the same blocks summed in fp64."""
    out = attention(q, k, v, scale=scale, prefix=prefix, layout=LAYOUT, wide=torch.float64)
    return out.float()


def nothing_sparse(problem: AttentionProblem) -> str | None:
    """Why `problem` has no key that could be left out."""
    if problem.prefix >= problem.kv_len:
        return f"all {problem.kv_len} keys are of the prefix"
    return None
