"""Attention of a decoding step against softmax in fp64, and that slots do not see each other."""

from __future__ import annotations

import pytest
import torch
from eight_bit import DEVICE, needs_triton, normal, target

from kernels.decode import attention
from kernels.descriptors import Target

SIZES = [(1, 2, 1, 16), (3, 4, 2, 16), (2, 8, 1, 64), (2, 2, 1, 256)]


def case(slots: int, heads: int, key_heads: int, head_dim: int, length: int = 300):
    q = normal(slots, heads, head_dim)
    keys = normal(slots, key_heads, length, head_dim, seed=1)
    values = normal(slots, key_heads, length, head_dim, seed=2)
    lengths = torch.tensor([length, 1, 129][:slots], device=DEVICE)
    return q, keys, values, lengths, torch.arange(slots, device=DEVICE)


def expected(q, keys, values, lengths, slots):
    group = q.shape[1] // keys.shape[1]
    out = torch.empty_like(q, dtype=torch.float64)
    for row, (slot, length) in enumerate(zip(slots.tolist(), lengths.tolist(), strict=True)):
        k = keys[slot, :, :length].double().repeat_interleave(group, 0)
        v = values[slot, :, :length].double().repeat_interleave(group, 0)
        scores = torch.einsum("hd,hld->hl", q[row].double(), k) * q.shape[-1] ** -0.5
        out[row] = torch.einsum("hl,hld->hd", scores.softmax(-1), v)
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
    q, keys, values, lengths, slots = case(3, 4, 2, 16)
    before = attention.launch(q, keys, values, lengths, slots)
    for slot, length in enumerate(lengths.tolist()):
        keys[slot, :, length:] = float("nan")
        values[slot, :, length:] = float("nan")
    assert torch.equal(attention.launch(q, keys, values, lengths, slots), before)


@needs_triton
@pytest.mark.parametrize("path", ["plain", "launch"])
def test_a_row_depends_on_its_slot_and_length_alone(path: str) -> None:
    q, keys, values, _, _ = case(3, 4, 2, 16)
    run = getattr(attention, path)
    rows = [(2, 129), (0, 300), (2, 130), (1, 1), (0, 7)]
    slots, lengths = (torch.tensor(column, device=DEVICE) for column in zip(*rows, strict=True))
    queries = q[torch.tensor([0, 1, 2, 0, 1], device=DEVICE)]
    together = run(queries, keys, values, lengths, slots)
    torch.testing.assert_close(
        together.double(), expected(queries, keys, values, lengths, slots), rtol=1e-4, atol=1e-5
    )
    for row in range(len(rows)):
        one = slice(row, row + 1)
        assert torch.equal(run(queries[one], keys, values, lengths[one], slots[one])[0], together[row])


def test_refusals() -> None:
    assert attention.supports(target(), head_dim=64) is None
    assert "power of two" in str(attention.supports(target(), head_dim=80))
    assert "8.0" in str(attention.supports(Target(kind="cuda", capability=(7, 5)), head_dim=64))
    q, keys, values, lengths, slots = case(2, 4, 2, 16)
    with pytest.raises(AssertionError, match="for keys"):
        attention.run(q[:, :3], keys, values, lengths, slots)
    with pytest.raises(AssertionError, match=r"\(1,\) lengths for 2 rows"):
        attention.run(q, keys, values, lengths[:1], slots)


@pytest.mark.gpu
@pytest.mark.parametrize("slots", [1, 8])
def test_bf16_of_real_size(slots: int) -> None:
    q, keys, values = (
        normal(slots, *shape, seed=i, dtype=torch.bfloat16)
        for i, shape in enumerate(((32, 128), (8, 4096, 128), (8, 4096, 128)))
    )
    lengths = torch.arange(2300, 2300 + slots, device=DEVICE)
    right = expected(q, keys, values, lengths, torch.arange(slots, device=DEVICE))
    error = attention.run(q, keys, values, lengths, torch.arange(slots, device=DEVICE)).double() - right
    assert error.norm() / right.norm() < 0.005
