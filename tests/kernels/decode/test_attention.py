"""Attention of a decoding step against softmax in fp64, and that slots do not see each other."""

from __future__ import annotations

import pytest
import torch
from eight_bit import DEVICE, needs_triton, normal, target

from kernels.decode import attention
from kernels.descriptors import Target

SIZES = [(1, 2, 1, 16), (3, 4, 2, 16), (2, 8, 1, 64)]


def case(slots: int, heads: int, key_heads: int, head_dim: int, length: int = 300):
    q = normal(slots, heads, head_dim)
    keys = normal(slots, key_heads, length, head_dim, seed=1)
    values = normal(slots, key_heads, length, head_dim, seed=2)
    lengths = torch.tensor([length, 1, 129][:slots], device=DEVICE)
    return q, keys, values, lengths


def expected(q, keys, values, lengths):
    group = q.shape[1] // keys.shape[1]
    out = torch.empty_like(q, dtype=torch.float64)
    for slot, length in enumerate(lengths.tolist()):
        k = keys[slot, :, :length].double().repeat_interleave(group, 0)
        v = values[slot, :, :length].double().repeat_interleave(group, 0)
        scores = torch.einsum("hd,hld->hl", q[slot].double(), k) * q.shape[-1] ** -0.5
        out[slot] = torch.einsum("hl,hld->hd", scores.softmax(-1), v)
    return out


@needs_triton
@pytest.mark.parametrize(("slots", "heads", "key_heads", "head_dim"), SIZES)
@pytest.mark.parametrize("path", ["plain", "launch"])
def test_softmax_over_the_filled_positions(
    slots: int, heads: int, key_heads: int, head_dim: int, path: str
) -> None:
    given = case(slots, heads, key_heads, head_dim)
    out = getattr(attention, path)(*given)
    torch.testing.assert_close(out.double(), expected(*given), rtol=1e-4, atol=1e-5)


@needs_triton
def test_what_lies_behind_the_filled_positions_is_not_read() -> None:
    q, keys, values, lengths = case(3, 4, 2, 16)
    before = attention.launch(q, keys, values, lengths)
    for slot, length in enumerate(lengths.tolist()):
        keys[slot, :, length:] = float("nan")
        values[slot, :, length:] = float("nan")
    assert torch.equal(attention.launch(q, keys, values, lengths), before)


@needs_triton
@pytest.mark.parametrize("path", ["plain", "launch"])
def test_a_slot_does_not_depend_on_its_neighbours(path: str) -> None:
    q, keys, values, lengths = case(3, 4, 2, 16)
    run = getattr(attention, path)
    together = run(q, keys, values, lengths)
    for slot in range(3):
        alone = run(*(part[slot : slot + 1].contiguous() for part in (q, keys, values, lengths)))
        assert torch.equal(alone[0], together[slot])


def test_refusals() -> None:
    assert attention.supports(target(), head_dim=64) is None
    assert "power of two" in str(attention.supports(target(), head_dim=80))
    assert "8.0" in str(attention.supports(Target(kind="cuda", capability=(7, 5)), head_dim=64))
    q, keys, values, lengths = case(2, 4, 2, 16)
    with pytest.raises(AssertionError, match="for keys"):
        attention.run(q[:, :3], keys, values, lengths)
    with pytest.raises(AssertionError, match="2 slots"):
        attention.run(q, keys, values, lengths[:1])


@pytest.mark.gpu
@pytest.mark.parametrize("slots", [1, 8])
def test_bf16_of_real_size(slots: int) -> None:
    q, keys, values = (
        normal(slots, *shape, seed=i, dtype=torch.bfloat16)
        for i, shape in enumerate(((32, 128), (8, 4096, 128), (8, 4096, 128)))
    )
    lengths = torch.arange(2300, 2300 + slots, device=DEVICE)
    error = attention.run(q, keys, values, lengths).double() - expected(q, keys, values, lengths)
    assert error.norm() / expected(q, keys, values, lengths).norm() < 0.005
