"""The judging part of a reply: cut out of one, and the constraint to all that can be written."""

from __future__ import annotations

import json

import pytest
from tiny_vlm import tiny_tokenizer
from vlm_replies import REPLY

from bench.quality.critic_judgements import Judgements, judgement, judgement_replies, stages
from engine.critics.qwen_vl.schema import parse_critique
from engine.types import Fault, Verdict

OPENING = '{"fault":"'


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        (
            '{"fault":"none","verdict":"accept","score":85,"plan":{"ob',
            '{"fault":"none","verdict":"accept","score":85}',
        ),
        ('{"fault": "none", "score" : "8/10" , "pl', '{"fault": "none", "score" : "8/10"}'),
        ('{"score":7.5}', '{"score":7.5}'),
        ('{"fault":"none","verdict":"accept","score":8', '{"fault":"none","verdict":"accept","score":8'),
        ('{"fault":"4","1.9 s: strong motion at 14,4"', '{"fault":"4","1.9 s: strong motion at 14,4"'),
    ],
)
def test_a_reply_ends_behind_its_score(text: str, cut: str) -> None:
    """A number that may go on is no score."""
    assert judgement(text) == cut


def test_stages_end_where_the_fault_begins() -> None:
    assert stages('<think>{"fault":"x"}</think> {"seen":[], "fault" : "none","ver') == '{"seen":[], "fault":"'
    assert stages('{"seen":[]') is None and stages("") is None


def test_every_reply_is_read_as_it_says() -> None:
    found = set()
    for text in judgement_replies():
        read = parse_critique(judgement(OPENING + text), num_tokens=1, seconds=0.0, cut=True)
        found.add((read.fault, read.verdict, read.score))
    verdicts = (Verdict.ACCEPT, Verdict.REVISE)
    assert found == {(f, v, float(s)) for f in Fault for v in verdicts for s in range(0, 101, 5)}


def test_a_reply_is_how_a_whole_critique_goes_on_there() -> None:
    whole = json.dumps(REPLY, separators=(",", ":")).partition('"fault":"')[2]
    assert sum(whole.startswith(text) for text in judgement_replies()) == 1


def test_only_what_can_follow_is_allowed() -> None:
    judgements = Judgements(replies=[(1, 2, 3), (1, 4), (5,)], vocab_size=8, eos_ids=(6, 7))

    def allowed(*written: int) -> list[int]:
        grammar = judgements.start({}, written=OPENING)
        for token in written:
            grammar.consume(token)
        return grammar.allowed().nonzero().flatten().tolist()

    assert allowed() == [1, 5]
    assert allowed(1) == [2, 4]
    assert allowed(1, 2) == [3]
    assert allowed(1, 4) == allowed(5) == allowed(1, 2, 3) == [6, 7], "the reply is whole"
    with pytest.raises(AssertionError):
        judgements.start({}, written="{")


def test_replies_are_tokens_of_the_critic() -> None:
    tokenizer = tiny_tokenizer()
    tokens = tokenizer(judgement_replies(), add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode(ids) for ids in tokens] == judgement_replies()
