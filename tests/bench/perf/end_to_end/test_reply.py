"""The fixed replies: distinct tokens, readable, as long as follows from real plans, chosen by the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.perf.end_to_end.reply import (
    FOR_CRITIQUE,
    FOR_PATCH,
    FOR_PLAN,
    PATCH,
    PLAN,
    REVISED,
    critic_tokenizer,
    patch_tokens,
    reply_pieces,
    text_tokenizer,
)
from bench.perf.end_to_end.sizes import SIZES
from engine.critics.qwen_vl.instructions import (
    CRITIQUE_INSTRUCTION,
    PATCH_INSTRUCTION,
    PLAN_INSTRUCTION,
    critique_segments,
    plan_segments,
)
from engine.critics.qwen_vl.preprocess import VideoSegment
from engine.critics.qwen_vl.schema import parse_critique, parse_plan
from engine.types import PhysicsPlan, Verdict


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_plan_critique_and_patch_are_read(size) -> None:
    tokenizer, replies = critic_tokenizer(size.reply_tokens)
    planned, judged, patched = (
        tokenizer.decode(replies[kind]) for kind in (FOR_PLAN, FOR_CRITIQUE, FOR_PATCH)
    )
    plan, full = parse_plan(planned), parse_critique(judged, num_tokens=1, seconds=0.0)
    assert plan == PhysicsPlan.from_dict(dict(PLAN)) and plan != full.revised
    assert (full.verdict, full.score) == (Verdict.REVISE, 50.0)
    patch = parse_critique(patched, num_tokens=1, seconds=0.0, base=plan)
    assert patch.revised == full.revised == PhysicsPlan.from_dict(dict(REVISED))
    assert (patch.verdict, patch.score, patch.findings) == (full.verdict, full.score, full.findings)
    tokens = [token for reply in replies.values() for token in reply]
    assert len(set(tokens)) == len(tokens) == 2 * size.reply_tokens + patch_tokens(size.reply_tokens)
    assert len(tokenizer) <= size.text["vocab_size"]


def test_a_patch_is_shorter_by_the_fields_that_stay() -> None:
    """Characters that are not written, by the characters of a token; the reasoning before them is as long."""
    saved = sum(len(f'"{name}":') for name in PLAN if name not in PATCH)
    assert 400 - patch_tokens(400) > saved / 4 and patch_tokens(400) - patch_tokens(300) == 100
    pieces = reply_pieces(300, [])
    words = [sum(piece.startswith("w") for piece in pieces[kind]) for kind in (FOR_CRITIQUE, FOR_PATCH)]
    assert abs(words[0] - words[1]) <= 5


def test_each_kind_of_prompt_ends_with_its_own_token() -> None:
    tokenizer: Any = critic_tokenizer(220)[0]
    clip = VideoSegment(frames=np.zeros((2, 32, 32, 3), np.uint8), times_s=(0.0, 0.1))
    plan = PhysicsPlan.from_dict(dict(PLAN))
    full = critique_segments(tokenizer, CRITIQUE_INSTRUCTION, clip, clip, "a ball")
    patch = critique_segments(tokenizer, PATCH_INSTRUCTION, clip, clip, "a ball", plan=plan)
    asked = (plan_segments(tokenizer, PLAN_INSTRUCTION, clip, "a ball"), full, patch)
    for segments, start in zip(asked, (FOR_PLAN, FOR_CRITIQUE, FOR_PATCH), strict=True):
        assert str(segments[-1]).endswith(f"<|im_start|>assistant\n{start}")


def test_no_prompt_holds_a_token_of_a_reply() -> None:
    tokenizer, replies = critic_tokenizer(220)
    for reply in replies.values():
        asked = tokenizer(tokenizer.decode(reply), add_special_tokens=False)["input_ids"]
        assert all(set(tokens).isdisjoint(asked) for tokens in replies.values())


def test_pieces_avoid_what_is_taken() -> None:
    free = reply_pieces(220, [])[FOR_PLAN]
    taken = [free[0], free[1], "w001 "]
    pieces = reply_pieces(220, taken)[FOR_PLAN]
    assert set(pieces).isdisjoint(taken) and len(set(pieces)) == 220
    assert parse_plan("".join(pieces)) == parse_plan("".join(free)) is not None
    with pytest.raises(AssertionError, match="too few"):
        reply_pieces(20, [])


def test_the_text_encoder_reads_whole_prompts() -> None:
    ids = text_tokenizer()("a red ball rolls", truncation=True, max_length=512).input_ids
    assert len(ids) > 3 and ids[-1] == text_tokenizer().convert_tokens_to_ids("</s>")
