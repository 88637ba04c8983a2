"""The fixed reply: distinct tokens, readable by both parsers, and what the made critic writes by itself."""

from __future__ import annotations

import pytest

from bench.perf.end_to_end.reply import BEFORE_REPLY, critic_tokenizer, reply_pieces, text_tokenizer
from bench.perf.end_to_end.sizes import SIZES
from engine.critics.qwen_vl.schema import parse_critique, parse_plan
from engine.types import Verdict


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_reply_is_read_as_plan_and_as_critique(size) -> None:
    tokenizer, chain = critic_tokenizer(size.reply_tokens)
    text = tokenizer.decode(chain)
    plan, critique = parse_plan(text), parse_critique(text, num_tokens=1, seconds=0.0)
    assert plan is not None and plan.events[0].what == "the ball meets the block"
    assert (critique.verdict, critique.score, critique.revised) == (Verdict.REVISE, 50.0, plan)
    assert len(set(chain)) == len(chain) == size.reply_tokens
    assert len(tokenizer) <= size.text["vocab_size"]


def test_no_prompt_holds_a_token_of_the_reply() -> None:
    tokenizer, chain = critic_tokenizer(160)
    asked = tokenizer(tokenizer.decode(chain) + BEFORE_REPLY, add_special_tokens=False)["input_ids"]
    assert set(chain).isdisjoint(asked)


def test_pieces_avoid_what_is_taken() -> None:
    free = reply_pieces(160, [])
    taken = [free[0], free[1], "w001 "]
    pieces = reply_pieces(160, taken)
    assert set(pieces).isdisjoint(taken) and len(set(pieces)) == 160
    assert parse_plan("".join(pieces)) == parse_plan("".join(free)) is not None
    with pytest.raises(AssertionError, match="too few"):
        reply_pieces(20, [])


def test_the_text_encoder_reads_whole_prompts() -> None:
    ids = text_tokenizer()("a red ball rolls", truncation=True, max_length=512).input_ids
    assert len(ids) > 3 and ids[-1] == text_tokenizer().convert_tokens_to_ids("</s>")
