"""Norm, rotary embedding and cache of a decoding step against transformers' own functions."""

from __future__ import annotations

import pytest
import torch
from eight_bit import DEVICE, needs_triton, normal, target
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm, apply_rotary_pos_emb

from kernels.decode import rope_cache

ROWS, SLOTS, HEADS, KEY_HEADS, HEAD_DIM, LENGTH = 3, 2, 4, 2, 16, 9
PLACES = [(1, 0), (0, 8), (1, 3)]
"""Slot and position of each row."""


def case(dtype: torch.dtype, has_norm: bool):
    qkv = normal(ROWS, (HEADS + 2 * KEY_HEADS) * HEAD_DIM, dtype=dtype)
    angle = normal(ROWS, HEAD_DIM // 2, seed=1).repeat(1, 2)
    cache = [torch.zeros(SLOTS, KEY_HEADS, LENGTH, HEAD_DIM, dtype=dtype, device=DEVICE) for _ in range(2)]
    norms = [normal(HEAD_DIM, seed=seed, dtype=dtype) + 1 for seed in (2, 3)] if has_norm else [None, None]
    slots, positions = (torch.tensor(column, device=DEVICE) for column in zip(*PLACES, strict=True))
    return (qkv, angle.cos().to(dtype), angle.sin().to(dtype), *cache, positions, slots), norms


def library(qkv, cos, sin, norms):
    heads = qkv.view(ROWS, 1, -1, HEAD_DIM)
    q, k, v = heads.split((HEADS, KEY_HEADS, KEY_HEADS), dim=2)

    def normed(x, weight):
        if weight is None:
            return x
        norm = Qwen3VLTextRMSNorm(HEAD_DIM, eps=1e-6).to(DEVICE)
        norm.weight.data = weight
        return norm(x)

    q, k = normed(q, norms[0]), normed(k, norms[1])
    q, k = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), cos[:, None], sin[:, None])
    return q[:, :, 0], k[:, :, 0], v[:, 0]


@needs_triton
@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("path", ["plain", "launch"])
def test_query_key_and_value_are_those_of_the_library(path: str, dtype: torch.dtype, has_norm: bool) -> None:
    given, norms = case(dtype, has_norm)
    q = getattr(rope_cache, path)(*given, q_norm=norms[0], k_norm=norms[1])
    expected_q, expected_k, expected_v = library(*given[:3], norms)
    keys, values = given[3], given[4]
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 2**-9}
    torch.testing.assert_close(q, expected_q, **tolerance)
    for row, (slot, position) in enumerate(PLACES):
        torch.testing.assert_close(keys[slot, :, position], expected_k[row], **tolerance)
        assert torch.equal(values[slot, :, position], expected_v[row])
    for slot in range(SLOTS):
        rest = [p for p in range(LENGTH) if (slot, p) not in PLACES]
        assert not keys[slot, :, rest].any() and not values[slot, :, rest].any()


def test_refusals() -> None:
    assert rope_cache.supports(target(), head_dim=128) is None
    assert "power of two" in str(rope_cache.supports(target(), head_dim=96))
    given, norms = case(torch.float32, True)
    with pytest.raises(AssertionError, match="without one of keys"):
        rope_cache.run(*given, q_norm=norms[0])
    with pytest.raises(AssertionError, match=r"\(3,\) positions for 2 rows"):
        rope_cache.run(given[0][:2], *given[1:])
