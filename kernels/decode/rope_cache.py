"""Norm and rotary embedding of new queries and keys, and the keys and values into the KV cache of their slot.

Rounded where transformers rounds: after the norm, after its weight, after each product of the rotary
embedding. R rows . S slots . H query heads . G key heads . L positions of the cache . D head size.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused._jit import jit, tl, to_element, why_not
from kernels.fused._operators import entry_points


def supports(target: Target, *, head_dim: int) -> str | None:
    """None when `run` can use its Triton kernel, else the reason."""
    if head_dim & (head_dim - 1):
        return f"head size {head_dim} is no power of two"
    return why_not(target)


@dataclass(frozen=True, slots=True)
class Arguments:
    """-> q [R, H, D], normed and rotated; keys and values are written at each row's slot and position.

    qkv [R, (H + 2 G) D] contiguous, fp32, fp16 or bf16; cos, sin [R, D] of the type of qkv; keys, values
    [S, G, L, D], contiguous; positions int64 [R], 0 to L - 1; slots int64 [R], 0 to S - 1, no pair of both
    twice; q_norm, k_norm [D] or None: the model norms no heads.
    """

    qkv: Tensor
    cos: Tensor
    sin: Tensor
    keys: Tensor
    values: Tensor
    positions: Tensor
    slots: Tensor
    _: KW_ONLY
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    eps: float = 1e-6

    @property
    def num_query_heads(self) -> int:
        return self.qkv.shape[1] // self.keys.shape[3] - 2 * self.keys.shape[1]


def _check(args: Arguments) -> None:
    rows, (_, key_heads, _, head_dim) = args.qkv.shape[0], args.keys.shape
    assert args.keys.shape == args.values.shape, f"{tuple(args.keys.shape)}, {tuple(args.values.shape)}"
    for name, tensor in (("positions", args.positions), ("slots", args.slots)):
        assert tensor.shape == (rows,), f"{tuple(tensor.shape)} {name} for {rows} rows"
    heads = args.num_query_heads
    assert heads >= 1 and heads % key_heads == 0, f"{heads} query heads for {key_heads} key heads"
    assert args.cos.shape == args.sin.shape == (rows, head_dim), f"cos {tuple(args.cos.shape)}"
    assert (args.q_norm is None) == (args.k_norm is None), "a norm of queries without one of keys"


def _plain(args: Arguments) -> Tensor:
    key_heads, head_dim = args.keys.shape[1], args.keys.shape[3]
    heads = args.qkv.view(args.qkv.shape[0], -1, head_dim)
    q, k, v = heads.split((args.num_query_heads, key_heads, key_heads), dim=1)
    cos, sin = args.cos[:, None], args.sin[:, None]

    def turned(x: Tensor, weight: Tensor | None) -> Tensor:
        if weight is not None:
            wide = x.float()
            wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + args.eps)
            x = weight * wide.to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    args.keys[args.slots, :, args.positions] = turned(k, args.k_norm)
    args.values[args.slots, :, args.positions] = v
    return turned(q, args.q_norm)


@jit
def _rounded(x, ptr):  # type: ignore[no-untyped-def]
    return to_element(x, ptr).to(tl.float32)


@jit
def _kernel(  # type: ignore[no-untyped-def]
    qkv_ptr, cos_ptr, sin_ptr, q_norm_ptr, k_norm_ptr, q_ptr, keys_ptr, values_ptr, positions_ptr, slots_ptr,
    length,
    QUERY_HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HALF: tl.constexpr, HAS_NORM: tl.constexpr,
    EPS: tl.constexpr,
):  # fmt: skip
    """One program: one head of one row, as two halves."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    low = tl.arange(0, HALF)
    heads: tl.constexpr = QUERY_HEADS + 2 * KEY_HEADS
    source = qkv_ptr + (row * heads + head) * (2 * HALF)
    a = tl.load(source + low).to(tl.float32)
    b = tl.load(source + HALF + low).to(tl.float32)
    position = tl.load(positions_ptr + row)
    slot = tl.load(slots_ptr + row)
    if head < QUERY_HEADS + KEY_HEADS:
        if HAS_NORM:
            norm_ptr = q_norm_ptr if head < QUERY_HEADS else k_norm_ptr
            mean = (tl.sum(a * a, axis=0) + tl.sum(b * b, axis=0)) / (2 * HALF)
            inverse = 1.0 / tl.sqrt(mean + EPS)
            a = _rounded(_rounded(a * inverse, q_ptr) * tl.load(norm_ptr + low).to(tl.float32), q_ptr)
            b = _rounded(_rounded(b * inverse, q_ptr) * tl.load(norm_ptr + HALF + low).to(tl.float32), q_ptr)
        cos = cos_ptr + row * (2 * HALF)
        sin = sin_ptr + row * (2 * HALF)
        cos_a, cos_b = tl.load(cos + low).to(tl.float32), tl.load(cos + HALF + low).to(tl.float32)
        sin_a, sin_b = tl.load(sin + low).to(tl.float32), tl.load(sin + HALF + low).to(tl.float32)
        turned_a = _rounded(a * cos_a, q_ptr) - _rounded(b * sin_a, q_ptr)
        turned_b = _rounded(b * cos_b, q_ptr) + _rounded(a * sin_b, q_ptr)
        a, b = turned_a, turned_b
    if head < QUERY_HEADS:
        target = q_ptr + (row * QUERY_HEADS + head) * (2 * HALF)
    elif head < QUERY_HEADS + KEY_HEADS:
        place = (slot * KEY_HEADS + head - QUERY_HEADS) * length + position
        target = keys_ptr + place * (2 * HALF)
    else:
        place = (slot * KEY_HEADS + head - QUERY_HEADS - KEY_HEADS) * length + position
        target = values_ptr + place * (2 * HALF)
    tl.store(target + low, to_element(a, q_ptr))
    tl.store(target + HALF + low, to_element(b, q_ptr))


def _launch(args: Arguments) -> Tensor:
    key_heads, length, head_dim = args.keys.shape[1:]
    rows, heads = args.qkv.shape[0], args.num_query_heads
    assert args.qkv.is_contiguous() and args.keys.is_contiguous() and args.values.is_contiguous()
    assert args.qkv.dtype == args.keys.dtype == args.values.dtype, f"{args.qkv.dtype}, {args.keys.dtype}"
    q = torch.empty(rows, heads, head_dim, dtype=args.qkv.dtype, device=args.qkv.device)
    _kernel[(rows, heads + 2 * key_heads)](
        args.qkv, args.cos.contiguous(), args.sin.contiguous(),
        args.qkv if args.q_norm is None else args.q_norm, args.qkv if args.k_norm is None else args.k_norm,
        q, args.keys, args.values, args.positions, args.slots, length,
        QUERY_HEADS=heads, KEY_HEADS=key_heads, HALF=head_dim // 2, HAS_NORM=args.q_norm is not None,
        EPS=args.eps, num_warps=1,
    )  # fmt: skip
    return q


run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch, check=_check)
