"""How sure a critic is of what it wrote: the characters of a token, where facts stand, what is left out."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from tiny_vlm import tiny_tokenizer
from vlm_replies import PLAN, REPLY

from engine.critics.qwen_vl.confidence import StatedFact, WrittenText, facts_of, stated_facts, without_unsure
from engine.critics.qwen_vl.reply_text import elements, members
from engine.critics.qwen_vl.schema import parse_plan
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanRest

TOKENIZER: Any = tiny_tokenizer()
ODD = 'Der Bäll 🎈 rollt → 球 "ü" \u0301'
HIT, STOP = PlanEvent(t=1.0, what="the ball hits the block"), PlanEvent(t=2.5, what="the ball stops")
LEFT = PlanMotion(object="ball", direction="to the left", speed="slow")
BALL_RESTS, BLOCK_GOES_ON = PlanRest(object="ball", t=2.5), PlanRest(object="block", t=None)


def encoded(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokens, and the characters of each by the library's own account."""
    made = TOKENIZER(text, return_offsets_mapping=True)
    return made["input_ids"], made["offset_mapping"]


def written(text: str, opening: str = "") -> tuple[WrittenText, list[float]]:
    """A reply whose every token has another probability."""
    tokens, _ = encoded(text)
    logprobs = [-((7 * place) % 11) / 16 for place in range(len(tokens))]
    return WrittenText.of(TOKENIZER, opening + text, tokens, logprobs), logprobs


def expected(text: str, logprobs: list[float], *phrases: str) -> float:
    """Joint probability of the tokens of phrases that stand in the text once."""
    total = 0.0
    for phrase in phrases:
        assert text.count(phrase) == 1, phrase
        begin = text.index(phrase)
        end = begin + len(phrase)
        _, offsets = encoded(text)
        total += sum(lp for lp, (a, b) in zip(logprobs, offsets, strict=True) if a < end and b > begin)
    return math.exp(total)


def plan_of(**changes: Any) -> PhysicsPlan:
    plan = parse_plan(json.dumps({**PLAN, **changes}))
    assert plan is not None
    return plan


@pytest.mark.parametrize("text", [ODD, ODD * 3, "plain", ""])
@pytest.mark.parametrize("opening", ["", "{", "<think>\n"])
def test_the_characters_of_a_token_are_those_that_the_library_says(text: str, opening: str) -> None:
    """Also of tokens that wrote only a part of a character's bytes."""
    found, _ = written(text, opening)
    _, offsets = encoded(text)
    before = len(opening)
    assert list(zip(found.starts, found.ends, strict=True)) == [(a + before, b + before) for a, b in offsets]
    if text:
        assert len(offsets) > len(set(offsets)) or text == "plain", "no character is split over tokens"


def test_whatever_tokens_come_their_text_is_rebuilt() -> None:
    """Broken bytes, special tokens, ones beyond the vocabulary: the text is that of the library."""
    random.seed(0)
    special = set(TOKENIZER.all_special_ids)
    for _ in range(200):
        tokens = [random.randrange(len(TOKENIZER) + 5) for _ in range(40)]
        text = TOKENIZER.decode(tokens, skip_special_tokens=True)
        found = WrittenText.of(TOKENIZER, text, tokens, [-1.0] * len(tokens))
        assert len(found.starts) == sum(t not in special and t < len(TOKENIZER) for t in tokens)
        assert all(a < b <= len(text) for a, b in zip(found.starts, found.ends, strict=True))
        assert sorted(found.starts) == found.starts and sorted(found.ends) == found.ends


def test_a_token_that_was_added_stands_for_itself() -> None:
    tokenizer: Any = tiny_tokenizer()
    tokenizer.add_tokens(["</think>", "é → x"])
    tokens = tokenizer('a</think>{"é → x": 1}')["input_ids"]
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    found = WrittenText.of(tokenizer, text, tokens, [-1.0] * len(tokens))
    begin = text.index("é → x")
    assert found.probability((begin, begin + 5)) == pytest.approx(math.exp(-1))


def test_of_other_text_no_token_is_known() -> None:
    found = WrittenText.of(TOKENIZER, "something else", encoded("{}")[0], [-1.0] * len(encoded("{}")[0]))
    assert found.starts == () and found.probability((0, 5)) is None


def test_a_probability_is_joint_and_never_above_one() -> None:
    found, logprobs = written(ODD)
    whole = (0, len(ODD))
    assert found.probability(whole) == pytest.approx(math.exp(sum(logprobs)))
    assert found.probability((0, 3), (5, 8)) == pytest.approx(expected(ODD, logprobs, "Der", "äll"))
    assert found.probability((0, 3), (900, 901)) is None and found.probability((3, 3)) is None
    count = len(logprobs)
    tokens = encoded(ODD)[0]
    assert WrittenText.of(TOKENIZER, ODD, tokens, [1e-7] * count).probability(whole) == 1.0
    assert WrittenText.of(TOKENIZER, ODD, tokens, [-math.inf] * count).probability((0, 1)) == 0.0
    assert WrittenText.of(TOKENIZER, ODD, tokens, [math.nan] * count).probability(whole) is None


def said(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


THOUGHTS = 'No: {"events": [{"t": 1.0, "what": "a draft"}]}</think>'
FORMS: dict[str, Any] = {
    "escaped": lambda plan: json.dumps(plan),
    "compact": lambda plan: said(plan, separators=(",", ":")),
    "indented": lambda plan: f"Here it is:\n```json\n{said(plan, indent=2)}\n```",
    "nested": lambda plan: said({"why": "as seen", "plan": plan}),
    "critique": lambda plan: THOUGHTS + said({**REPLY, "seen": [], "expected": [], "plan": plan}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_fact_is_as_likely_as_the_tokens_that_state_it(form: str) -> None:
    plan = {
        "objects": [],
        "events": [{"t": 2.5, "what": "the bäll stops"}, {"what": "it hits 球", "t": "1.25 s"}],
        "motion": [{"direction": "to the left", "speed": "slow", "object": "Ball"}],
        "rest": [{"object": "red", "t": 3.75}, {"object": "blue", "t": None}, {"object": "green"}],
    }
    text = FORMS[form](plan)
    reply, logprobs = written(text)
    facts = {one.fact: one for one in stated_facts(reply)}

    def likely(*phrases: str) -> Any:
        return pytest.approx(expected(text, logprobs, *phrases))

    for t, what in ((2.5, "the bäll stops"), (1.25, "it hits 球")):
        phrase = json.dumps(what) if form == "escaped" else said(what)
        assert facts.pop(PlanEvent(t=t, what=what)).probability == likely(phrase)
    left = facts.pop(PlanMotion(object="Ball", direction="to the left", speed="slow"))
    assert left.probability == likely('"Ball"', '"to the left"') and left.speed == likely('"slow"')
    assert facts.pop(PlanRest(object="red", t=3.75)).probability == likely("3.75")
    assert facts.pop(PlanRest(object="blue", t=None)).probability == likely("null")
    assert facts.pop(PlanRest(object="green", t=None)).probability is None, "nothing was written of it"
    assert not facts


def test_of_what_the_plan_reads_it_reads_the_same() -> None:
    """Clamped times, words for numbers, cleaned phrases: the facts of the plan are found by value."""
    events = [{"t": "0:02", "what": " the  ball\nstops "}, {"t": 99, "what": "late"}, {"t": -3, "what": 5}]
    text = json.dumps({**PLAN, "events": events})
    plan = parse_plan(text)
    assert plan is not None
    assert {one.fact for one in stated_facts(written(text)[0])} == set(facts_of(plan))


ANY_TEXT = [
    "",
    "no object",
    "{",
    '{"events": 3}',
    '{"events": "the ball falls", "motion": null, "rest": {"t": 1}}',
    '{"events": [{"t": 1}, 7, [], {"t": "soon", "what": "x"}, null]}',
    '{"plan": {"events": [{"what": {"a": 1}, "t": 1e999}]}}',
    '{"plan": [1, 2]}',
    '{"events": ' + "[" * 5000 + "]" * 5000 + "}",
    '{"a":' * 3000 + "1" + "}" * 3000,
    '{"events": [{"t": 1, "what": "x"}]} and then {"cut',
]


@pytest.mark.parametrize("text", ANY_TEXT, ids=range(len(ANY_TEXT)))
def test_any_text_gives_a_value(text: str) -> None:
    assert stated_facts(written(text)[0]) == []


def test_the_last_member_of_a_name_counts_as_in_the_decoder() -> None:
    text = ' { "a" : [1 , {"b":2}] ,"\\u0061":  [ ], "c":{}}'
    found = {name: text[begin:end] for name, (begin, end) in members(text, 0).items()}
    assert found == {"a": "[ ]", "c": "{}"}
    inner = text.index("[1")
    assert [text[begin:end] for begin, end in elements(text, inner)] == ["1", '{"b":2}']
    assert elements(text, text.index("[ ]")) == [] and members("{}", 0) == {}
    for broken in ("[]", "", '{"a"', '{"a" 1}'):
        with pytest.raises(ValueError, match=r".+"):
            members(broken, 0)


def stated(*pairs: tuple[Any, float | None]) -> list[StatedFact]:
    return [StatedFact(fact=fact, probability=probability) for fact, probability in pairs]


def test_what_is_not_sure_is_left_out_and_all_else_stays() -> None:
    plan = plan_of()
    facts = stated((HIT, 0.9), (STOP, 0.96), (LEFT, 0.99), (BALL_RESTS, 0.2), (BLOCK_GOES_ON, None))
    assert without_unsure(plan, facts, 0.0) == plan
    assert without_unsure(plan, facts, 0.9) == replace(plan, rest=(BLOCK_GOES_ON,))
    assert without_unsure(plan, facts, 0.95) == replace(plan, events=(STOP,), rest=(BLOCK_GOES_ON,))
    assert without_unsure(plan, [], 1.0) == plan, "nothing is known of it"
    assert without_unsure(plan, stated((HIT, 0.1), (HIT, 0.99)), 0.95) == plan, "the surer of two"


def test_a_plan_keeps_its_surest_fact() -> None:
    plan = plan_of(rest=[])
    facts = stated((HIT, 0.3), (STOP, 0.1), (LEFT, 0.2))
    assert without_unsure(plan, facts, 0.95) == replace(plan, motion=(), events=(HIT,))
    facts = stated((HIT, 0.1), (STOP, 0.1), (LEFT, 0.2))
    assert without_unsure(plan, facts, 0.95) == replace(plan, events=())
    still = plan_of(rest=[], motion=[], events=[])
    assert without_unsure(still, facts, 0.95) == still, "it had none"


@pytest.mark.parametrize(
    ("probability", "speed", "sureness"),
    [(0.97, 0.6, 0.97), (0.97, 0.49, 0.49), (0.3, 0.4, 0.3), (0.97, None, 0.97), (None, 0.2, 0.2)],
)
def test_a_speed_counts_where_it_is_rather_wrong(
    probability: float | None, speed: float | None, sureness: float
) -> None:
    assert StatedFact(fact=LEFT, probability=probability, speed=speed).sureness == sureness
