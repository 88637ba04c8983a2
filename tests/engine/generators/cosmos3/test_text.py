"""Cached text and rotary tables are what the library's full forward attends to."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_cosmos3 as tiny
import torch
from diffusers.models.transformers import transformer_cosmos3
from torch import Tensor

from engine.generators.cosmos3.text import prefill, video_rotary

torch.set_num_threads(1)


def seen_by_the_video(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(queries, keys, values) [1, tokens, heads, D] of the video in each layer of the library's forward."""
    seen, attend = [], transformer_cosmos3.dispatch_attention_fn

    def noted(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
        if not options["is_causal"]:
            seen.append((q, k, v))
        return attend(q, k, v, **options)

    monkeypatch.setattr(transformer_cosmos3, "dispatch_attention_fn", noted)
    tiny.library(model, tiny.latents(), tiny.token_ids(), tiny.at(640.0))
    return seen


@pytest.mark.parametrize("layout", [tiny.SUPER, tiny.EDGE], ids=["super", "edge"])
def test_keys_and_values_are_those_of_the_full_forward(
    layout: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.transformer(layout)
    cache = prefill(model, tiny.token_ids())
    assert cache.num_tokens == tiny.TEXT_TOKENS
    seen = seen_by_the_video(model, monkeypatch)
    assert len(seen) == len(cache.keys) == len(cache.values) == 3
    for (_, keys, values), ours, our_values in zip(seen, cache.keys, cache.values, strict=True):
        assert ours.shape == (1, tiny.TEXT_TOKENS, 2, 16)
        torch.testing.assert_close(ours, keys[:, : tiny.TEXT_TOKENS], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(our_values, values[:, : tiny.TEXT_TOKENS], atol=1e-6, rtol=1e-5)


def test_the_length_of_the_text_and_the_frame_rate_move_the_video() -> None:
    model, grid = tiny.transformer(), (tiny.FRAMES, tiny.ROWS, tiny.COLUMNS)
    cos, sin = video_rotary(model, 7, grid, tiny.FPS)
    assert cos.shape == sin.shape == (18, 16) and cos.dtype == torch.float32
    assert torch.equal(cos[:, :8], cos[:, 8:]) and cos.is_contiguous()
    torch.testing.assert_close(cos.square() + sin.square(), torch.ones(18, 16))
    for num_text, fps in ((8, tiny.FPS), (7, 24.0)):
        assert not torch.equal(video_rotary(model, num_text, grid, fps)[0], cos)


def test_in_half_precision_the_tables_are_rounded_as_the_library_rounds_them() -> None:
    model, grid = tiny.transformer(), (tiny.FRAMES, tiny.ROWS, tiny.COLUMNS)
    exact = video_rotary(model, 7, grid, tiny.FPS)
    rounded = video_rotary(model.bfloat16(), 7, grid, tiny.FPS)
    for wide, ours in zip(exact, rounded, strict=True):
        assert torch.equal(ours, ours.bfloat16().float()) and not torch.equal(ours, wide)
