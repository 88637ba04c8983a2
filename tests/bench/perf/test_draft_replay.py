"""Replayed replies: what repeats earlier ones takes fewer steps, what does not takes one a token."""

from __future__ import annotations

import random

from bench.perf.draft_replay import replay, steps_of, totals

VOCAB = 500


def letters(seed: int, count: int = 60) -> list[int]:
    return random.Random(seed).sample(range(VOCAB), count)


def test_a_reply_like_none_before_takes_a_step_a_token() -> None:
    assert steps_of(letters(1), [*range(40)], drafts=7, vocab_size=VOCAB) >= 38
    assert steps_of([], letters(2), drafts=0, vocab_size=VOCAB) == 60


def test_a_repeated_reply_takes_an_eighth_of_the_steps() -> None:
    """One step to see two tokens, then eight at a time, the end token among them."""
    reply = letters(3)
    assert steps_of(reply, reply, drafts=7, vocab_size=VOCAB) == 1 + -(-(60 - 2 + 1) // 8)


def test_drafts_come_from_the_replies_before() -> None:
    first, second = letters(4), letters(5)
    [[one, other], [mixed]] = replay(
        [[first, second], [[*first[:30], *second[30:]]]], drafts=7, vocab_size=VOCAB
    )
    assert [[one], [other]] == replay([[first], [second]], drafts=7, vocab_size=VOCAB)
    assert mixed < 20
    assert totals([60, 60], [20, 10]) == {"replies": 2, "tokens": 120, "steps": 30, "tokens_per_step": 4.0}
