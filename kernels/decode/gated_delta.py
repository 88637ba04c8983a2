"""Tokens of a gated delta rule (arXiv 2412.06464), of which some may turn out not to have been written.

The state of a slot is a matrix a head. A step computes rows behind it that are drafts, or belong to a slot
that may write nothing; so the rows of the last step become part of the state only now, when it is known how
many of them were kept, and the new ones are computed behind these without being stored. A step reads and
writes the state once, however many rows there are. For each token, with q and k of length one:

    S <- exp(decay) S,   S <- S + k (beta (v - S^T k))^T,   out = S^T q / sqrt(K)

R rows, N slots in a step, R / N rows of each, one after the other . S slots . P most rows of a slot in a step
. J key heads . H value heads . K, V head sizes . C = 2 J K + H V: queries, keys, values.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.descriptors import Target
from kernels.fused._jit import ceil_div, jit, tl, to_element, why_not
from kernels.fused._operators import entry_points

SIZE = 32
"""Columns of the state of a program: 16 KiB of fp32 where K is 128."""
EPS = 1e-6
"""Under the root of the length of q and k, as in transformers and flash-linear-attention."""


def supports(target: Target, *, key_dim: int, value_dim: int) -> str | None:
    """None when `run` can use its Triton kernel, else the reason."""
    for what, size in (("key", key_dim), ("value", value_dim)):
        if size < 16 or size & (size - 1):
            return f"{what} head size {size} is no power of two from 16 on"
    return why_not(target)


@dataclass(frozen=True, slots=True)
class Arguments:
    """-> out [R, H, V] of the type of qkv; sums in fp32. The first `kept` of the last rows enter the state.

    qkv [R, C]; decay (at most 0), beta fp32 [R, H]; state fp32 [S, H, K, V]; last_qkv [S, P, C], last_decay,
    last_beta fp32 [S, P, H]: what `qkv`, `decay` and `beta` were in the last step of a slot; kept int64 [N],
    0 to P; slots int64 [N], none twice. All contiguous.
    """

    qkv: Tensor
    decay: Tensor
    beta: Tensor
    state: Tensor
    last_qkv: Tensor
    last_decay: Tensor
    last_beta: Tensor
    kept: Tensor
    slots: Tensor

    @property
    def width(self) -> int:
        """Rows of a slot."""
        return self.qkv.shape[0] // self.slots.shape[0]

    @property
    def key_heads(self) -> int:
        _, heads, key_dim, value_dim = self.state.shape
        return (self.qkv.shape[1] - heads * value_dim) // (2 * key_dim)


def _check(args: Arguments) -> None:
    rows, channels = args.qkv.shape
    slots, heads, key_dim, value_dim = args.state.shape
    most = args.last_qkv.shape[1]
    assert channels == 2 * args.key_heads * key_dim + heads * value_dim and heads % args.key_heads == 0, (
        f"{channels} channels for a state {tuple(args.state.shape)}"
    )
    assert args.decay.shape == args.beta.shape == (rows, heads), f"decay {tuple(args.decay.shape)}"
    assert args.last_qkv.shape == (slots, most, channels), f"last_qkv {tuple(args.last_qkv.shape)}"
    assert args.last_decay.shape == args.last_beta.shape == (slots, most, heads), (
        f"last_decay {tuple(args.last_decay.shape)}"
    )
    assert args.kept.shape == args.slots.shape and rows == args.width * len(args.slots), (
        f"{tuple(args.kept.shape)} kept, {tuple(args.slots.shape)} slots for {rows} rows"
    )


def _plain(args: Arguments) -> Tensor:
    """A slot at a time, a row at a time; reads `kept`, so not for a GPU that must not wait."""
    _, heads, key_dim, value_dim = args.state.shape
    out = torch.empty(len(args.qkv), heads, value_dim, dtype=args.qkv.dtype, device=args.qkv.device)

    def after(state: Tensor, qkv: Tensor, decay: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """The state [H, K, V] behind one token, and what it reads there [H, V]."""
        of_keys = args.key_heads * key_dim
        q, k, v = qkv.float().split((of_keys, of_keys, heads * value_dim))
        q, k = (_unit(part.view(-1, key_dim)) for part in (q, k))
        q, k = (part.repeat_interleave(heads // args.key_heads, 0)[:, :, None] for part in (q, k))
        state = state * decay.exp()[:, None, None]
        missing = (v.view(heads, -1) - (state * k).sum(1)) * beta[:, None]
        state = state + k * missing[:, None]
        return state, (state * (q / math.sqrt(key_dim))).sum(1)

    for index, (slot, kept) in enumerate(zip(args.slots.tolist(), args.kept.tolist(), strict=True)):
        state = args.state[slot]
        last = zip(args.last_qkv[slot], args.last_decay[slot], args.last_beta[slot], strict=True)
        for _, token in zip(range(kept), last, strict=False):
            state, _ = after(state, *token)
        args.state[slot] = state
        for row in range(index * args.width, (index + 1) * args.width):
            state, read = after(state, args.qkv[row], args.decay[row], args.beta[row])
            out[row] = read
    return out


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS)


@jit
def _unit_row(ptr, columns, SMALL: tl.constexpr):  # type: ignore[no-untyped-def]
    x = tl.load(ptr + columns).to(tl.float32)
    return x * (1.0 / tl.sqrt(tl.sum(x * x, axis=0) + SMALL))


@jit
def _updated(  # type: ignore[no-untyped-def]
    state, qkv, decay, beta, key_head, head, columns,
    KEY_HEADS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, SMALL: tl.constexpr,
):  # fmt: skip
    """The columns of the state behind one token; qkv points at its row."""
    k = _unit_row(qkv + (KEY_HEADS + key_head) * KEY, tl.arange(0, KEY), SMALL)
    v = tl.load(qkv + 2 * KEY_HEADS * KEY + head * VALUE + columns).to(tl.float32)
    state = state * tl.exp(decay)
    missing = (v - tl.sum(state * k[:, None], axis=0)) * beta
    return state + k[:, None] * missing[None, :]


@jit
def _kernel(  # type: ignore[no-untyped-def]
    qkv_ptr, decay_ptr, beta_ptr, state_ptr, last_qkv_ptr, last_decay_ptr, last_beta_ptr, kept_ptr,
    slots_ptr, out_ptr, width, most,
    KEY_HEADS: tl.constexpr, HEADS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
    COLUMNS: tl.constexpr, SCALE: tl.constexpr, SMALL: tl.constexpr,
):  # fmt: skip
    """One program: COLUMNS columns of the state of one head of one slot, in registers from row to row."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    head = tl.program_id(1)
    owner = tl.program_id(2).to(tl.int64)
    slot = tl.load(slots_ptr + owner)
    kept = tl.load(kept_ptr + owner).to(tl.int32)
    key_head = head // (HEADS // KEY_HEADS)
    channels: tl.constexpr = 2 * KEY_HEADS * KEY + HEADS * VALUE
    key = tl.arange(0, KEY)
    tile = state_ptr + ((slot * HEADS + head) * KEY + key[:, None]) * VALUE + columns[None, :]
    state = tl.load(tile)
    for row in range(0, kept):
        place = slot * most + row
        state = _updated(
            state, last_qkv_ptr + place * channels, tl.load(last_decay_ptr + place * HEADS + head),
            tl.load(last_beta_ptr + place * HEADS + head), key_head, head, columns,
            KEY_HEADS, KEY, VALUE, SMALL,
        )  # fmt: skip
    tl.store(tile, state)
    for row in range(0, width):
        place = owner * width + row
        qkv = qkv_ptr + place * channels
        state = _updated(
            state, qkv, tl.load(decay_ptr + place * HEADS + head), tl.load(beta_ptr + place * HEADS + head),
            key_head, head, columns, KEY_HEADS, KEY, VALUE, SMALL,
        )  # fmt: skip
        q = _unit_row(qkv + key_head * KEY, key, SMALL) * SCALE
        read = tl.sum(state * q[:, None], axis=0)
        tl.store(out_ptr + (place * HEADS + head) * VALUE + columns, to_element(read, out_ptr))


def _launch(args: Arguments) -> Tensor:
    _, heads, key_dim, value_dim = args.state.shape
    given = (args.qkv, args.decay, args.beta, args.state, args.last_qkv, args.last_decay, args.last_beta)
    assert all(tensor.is_contiguous() for tensor in given), [tensor.stride() for tensor in given]
    out = torch.empty(len(args.qkv), heads, value_dim, dtype=args.qkv.dtype, device=args.qkv.device)
    columns = min(SIZE, value_dim)
    _kernel[(ceil_div(value_dim, columns), heads, len(args.slots))](
        *given, args.kept, args.slots, out, args.width, args.last_qkv.shape[1],
        KEY_HEADS=args.key_heads, HEADS=heads, KEY=key_dim, VALUE=value_dim, COLUMNS=columns,
        SCALE=1 / math.sqrt(key_dim), SMALL=EPS, num_warps=4,
    )  # fmt: skip
    return out


run, plain, launch = entry_points(Arguments, plain=_plain, launch=_launch, check=_check)
