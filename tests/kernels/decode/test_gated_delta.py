"""The gated delta rule of a decoding step against transformers' own, and which rows enter the state."""

from __future__ import annotations

import pytest
import torch
from eight_bit import DEVICE, needs_triton, normal, target
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule

from kernels.decode import gated_delta
from kernels.descriptors import Target

SLOTS, KEY_HEADS, HEADS, KEY, VALUE, MOST = 3, 2, 4, 16, 32, 4
CHANNELS = 2 * KEY_HEADS * KEY + HEADS * VALUE
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.bfloat16: {"rtol": 2**-7, "atol": 2**-7}}
paths = pytest.mark.parametrize("path", ["plain", "launch"])


def tokens(*shape: int, seed: int, dtype: torch.dtype = torch.float32):
    """qkv, decay and beta of so many tokens."""
    return (
        normal(*shape, CHANNELS, seed=seed, dtype=dtype),
        -normal(*shape, HEADS, seed=seed + 1).abs(),
        normal(*shape, HEADS, seed=seed + 2).sigmoid(),
    )


def states():
    return normal(SLOTS, HEADS, KEY, VALUE, seed=9)


def library(state, qkv, decay, beta):
    """(outputs [T, H, V], state) of T tokens of one slot."""
    parts = qkv[None].split((KEY_HEADS * KEY, KEY_HEADS * KEY, HEADS * VALUE), -1)
    q, k, v = (part.view(1, len(qkv), -1, size) for part, size in zip(parts, (KEY, KEY, VALUE), strict=True))
    q, k = (part.repeat_interleave(HEADS // KEY_HEADS, 2) for part in (q, k))  # by its callers, before 5.23
    out, after = torch_recurrent_gated_delta_rule(
        q, k, v, decay[None], beta[None],
        initial_state=state[None], output_final_state=True, use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    return out[0], after[0]


def places(*values: int):
    return torch.tensor(values, device=DEVICE)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@paths
def test_rows_behind_those_that_were_kept(path: str, dtype: torch.dtype) -> None:
    """Of slot 2 all last rows were kept, of slot 0 none; slot 1 takes no part."""
    owners, kept, width = (2, 0), (MOST, 0), 3
    state, last, new = states(), tokens(SLOTS, MOST, seed=10, dtype=dtype), tokens(6, seed=20, dtype=dtype)
    before = state.clone()
    out = getattr(gated_delta, path)(*new, state, *last, places(*kept), places(*owners))
    assert out.dtype == dtype and torch.equal(state[1], before[1])
    for index, (slot, count) in enumerate(zip(owners, kept, strict=True)):
        rows = slice(index * width, (index + 1) * width)
        begin = before[slot]
        if count:
            _, begin = library(begin, *(part[slot, :count] for part in last))
        torch.testing.assert_close(state[slot], begin, **TOLERANCE[torch.float32])
        expected, _ = library(begin, *(part[rows] for part in new))
        torch.testing.assert_close(out[rows], expected, **TOLERANCE[dtype])


@needs_triton
@paths
def test_a_row_depends_on_what_was_kept_before_it_alone(path: str) -> None:
    """Bit for bit: not on other slots, not on rows that were not kept, not on how many there are."""
    run = getattr(gated_delta, path)
    last, new = tokens(SLOTS, MOST, seed=10), tokens(SLOTS * 2, seed=20)
    together = states()
    out = run(*new, together, *last, places(1, 0, 3), places(0, 1, 2))
    for slot, count in enumerate((1, 0, 3)):
        alone, other = states(), [part.clone() for part in last]
        for part in other:
            part[slot, count:] = float("nan")
        one = run(
            *(part[2 * slot : 2 * slot + 1] for part in new), alone, *other, places(count), places(slot)
        )
        assert torch.equal(one[0], out[2 * slot]) and torch.equal(alone[slot], together[slot])


def test_refusals() -> None:
    assert gated_delta.supports(target(), key_dim=128, value_dim=128) is None
    assert "key head size 96" in str(gated_delta.supports(target(), key_dim=96, value_dim=128))
    assert "8.0" in str(
        gated_delta.supports(Target(kind="cuda", capability=(7, 5)), key_dim=128, value_dim=64)
    )
    last, (qkv, decay, beta) = tokens(SLOTS, MOST, seed=10), tokens(2, seed=20)
    with pytest.raises(AssertionError, match="channels for a state"):
        gated_delta.run(qkv[:, 1:], decay, beta, states(), *last, places(0), places(1))
    with pytest.raises(AssertionError, match="for 2 rows"):
        gated_delta.run(qkv, decay, beta, states(), *last, places(0, 0, 0), places(0, 1, 2))


@pytest.mark.gpu
def test_bf16_of_real_size() -> None:
    """As Qwen3.5-9B: 16 key heads, 32 value heads of 128."""
    qkv = normal(8, 8192, dtype=torch.bfloat16)
    decay, beta = -normal(8, 32, seed=1).abs(), normal(8, 32, seed=2).sigmoid()
    last = (
        normal(1, 8, 8192, seed=3, dtype=torch.bfloat16),
        -normal(1, 8, 32, seed=4).abs(),
        normal(1, 8, 32, seed=5).sigmoid(),
    )
    state = normal(1, 32, 128, 128, seed=6)
    again = state.clone()
    out = gated_delta.run(qkv, decay, beta, state, *last, places(5), places(0))
    expected = gated_delta.plain(qkv, decay, beta, again, *last, places(5), places(0))
    torch.testing.assert_close(state, again, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out, expected, rtol=2**-7, atol=2**-7)
