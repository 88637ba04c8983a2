"""Replies as models write them, and as nobody should: each becomes a value, never an exception."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vlm_replies import PLAN, REPLY

from engine.critics.qwen_vl import reply_text
from engine.critics.qwen_vl.reply_text import MAX_BRACES, MAX_REPLY, last_object
from engine.critics.qwen_vl.schema import (
    MAX_ENTRIES,
    MAX_NAME,
    critique_json_schema,
    parse_critique,
    parse_plan,
    plan_json_schema,
)
from engine.types import ANSWER_SECONDS, Critique, Fault, Verdict


def critique(reply: Any) -> Critique:
    text = reply if isinstance(reply, str) else json.dumps(reply)
    return parse_critique(text, num_tokens=7, seconds=0.5)


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in REPLY.items() if k != key}


def test_a_good_reply_is_read_in_full() -> None:
    read = critique(REPLY)
    assert read.verdict is Verdict.REVISE and read.score == 35.0
    assert read.fault is Fault.MISSING_CLUES and read.findings[0].object == "block"
    assert read.revised is not None and read.revised == parse_plan(json.dumps(PLAN))
    assert [event.t for event in read.revised.events] == [1.0, 2.5]  # in the order in which they happen
    assert read.revised.rest[1].t is None
    assert (read.num_tokens, read.seconds, json.loads(read.raw)) == (7, 0.5, REPLY)


@pytest.mark.parametrize(
    "text",
    [
        "<think>{'no': {</think>\n" + json.dumps(REPLY),
        f"Here it is:\n```json\n{json.dumps(REPLY, indent=1)}\n```\nDone {{well}}.",
        'A draft {"score": 1} and then ' + json.dumps(REPLY),
        json.dumps(REPLY).replace("a ball rolls", "a ball\nrolls"),
        json.dumps({**REPLY, "score": "35/100", "seen": "a ball rolls", "mood": "calm"}),
        json.dumps({**REPLY, "verdict": " Revise.", "fault": "Missing clues"}),
    ],
)
def test_tolerated_wrappings(text: str) -> None:
    read = critique(text)
    expected = critique(REPLY)
    assert (read.verdict, read.score, read.seen, read.fault, read.revised) == (
        expected.verdict,
        expected.score,
        expected.seen,
        expected.fault,
        expected.revised,
    )


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "The video is fine.",
        json.dumps(REPLY)[:-1],
        "[1, 2]",
        '{"a":' * 5000,
        without("verdict"),
        without("score"),
        without("fault"),
        {**REPLY, "verdict": "not accept"},
        {**REPLY, "verdict": "unreadable"},
        {**REPLY, "fault": "gravity"},
        {**REPLY, "score": True},
        {**REPLY, "score": None},
        {**REPLY, "score": math.nan},
        {**REPLY, "score": math.inf},
        {**REPLY, "score": "high"},
        {**REPLY, "findings": [{"t": 1.0}]},
        {**REPLY, "plan": {}},
        {**REPLY, "plan": {"motion": [{"object": "ball"}]}},
        {**REPLY, "plan": {"objects": [{"name": " "}]}},
    ],
)
def test_what_cannot_be_read_is_unreadable_and_has_no_score(reply: Any) -> None:
    read = critique(reply)
    assert read.verdict is Verdict.UNREADABLE and read.score is None and read.revised is None


def test_numbers_and_texts_are_clamped() -> None:
    findings = [{"t": 99, "object": "o" * 500, "issue": "a \ud800 b"}] * 40
    read = critique({**REPLY, "score": 10**400, "findings": findings})
    assert read.score == 100.0 and len(read.findings) == MAX_ENTRIES
    assert read.findings[0].t == ANSWER_SECONDS and len(read.findings[0].object) == MAX_NAME
    assert read.findings[0].issue == "a b"
    assert critique({**REPLY, "score": -3}).score == 0.0


def test_an_accepting_reply_needs_no_plan() -> None:
    read = critique({**without("plan"), "verdict": "accept", "fault": None, "findings": None})
    assert read.verdict is Verdict.ACCEPT and read.revised is None and read.fault is Fault.NONE


def test_plan_bare_nested_or_none() -> None:
    plan = parse_plan(json.dumps(PLAN))
    assert plan is not None and parse_plan(json.dumps({"plan": PLAN})) == plan
    named = parse_plan('{"objects": ["red ball"], "rest": [{"object": "red ball"}]}')
    assert named is not None and named.objects[0].trait == "" and named.camera == "static"
    for text in ("", "{}", '{"objects": "', '{"objects": 3}', '{"camera": "static"}'):
        assert parse_plan(text) is None


def test_last_complete_object_wins() -> None:
    assert last_object('{"a": 1} {"b": {"c": 2}} That is all.') == {"b": {"c": 2}}
    assert last_object("{ not json {") is None


ACCEPT = json.dumps({**REPLY, "verdict": "accept", "score": 95, "fault": "none", "plan": None})


@pytest.mark.parametrize(
    "text",
    [
        f"<think>A first draft would be {ACCEPT} but the ball passes through the table at 2 s, so I have to",
        f"<think>A first draft would be {ACCEPT}. But the ball passes through the table.",
        f"<think>no</think>\n<think>again: {ACCEPT}",
        f"A first draft would be {ACCEPT} but the ball passes through the table at 2 s, so I have to",
        f'{ACCEPT} No: {{"seen": ["the ball passes through the table"',
    ],
)
def test_a_draft_of_an_unfinished_reply_is_no_verdict(text: str) -> None:
    assert critique(text).verdict is Verdict.UNREADABLE
    assert parse_plan(text.replace(ACCEPT, json.dumps(PLAN))) is None


@pytest.mark.parametrize("end", ["", "\n```", " \n"])
def test_a_reply_at_the_token_limit_must_end_with_its_object(end: str) -> None:
    read = parse_critique(f"Thoughts.</think>{ACCEPT}{end}", num_tokens=7, seconds=0.5, cut=True)
    assert read.verdict is Verdict.ACCEPT
    cut = parse_critique(f"{ACCEPT}{end} But the ball is gone.", num_tokens=7, seconds=0.5, cut=True)
    assert cut.verdict is Verdict.UNREADABLE
    assert critique(f"{ACCEPT}{end} But the ball is gone.").verdict is Verdict.ACCEPT


@pytest.mark.parametrize(
    ("score", "value"),
    [
        *(("8/10", 80), ("4/5", 80), ("9.5 out of 10", 95), ("35/100", 35), ("1e2", 100), ("85 %", 85)),
        *(("72,5", 72.5), ("80 points", 80), ("7 of 10", 70), ("100", 100), (" 85. ", 85), ("-3", 0)),
    ],
)
def test_a_score_as_text_keeps_its_scale(score: str, value: float) -> None:
    assert critique({**REPLY, "score": score}).score == pytest.approx(value)


@pytest.mark.parametrize(
    ("time", "value"),
    [
        *(("00:03", 3.0), ("0:03.5", 3.5), ("00:00:03", 3.0), ("3,5", 3.5), ("1.5 s", 1.5), ("1.5s", 1.5)),
        *(("250 ms", 0.25), ("t=2", 2.0), ("2 seconds", 2.0), ("0:01,5", 1.5), ("1:00", ANSWER_SECONDS)),
    ],
)
def test_a_time_as_text_keeps_its_unit(time: str, value: float) -> None:
    found = critique({**REPLY, "findings": [{"t": time, "object": "ball", "issue": "vanishes"}]})
    assert [finding.t for finding in found.findings] == [pytest.approx(value)]


@pytest.mark.parametrize(
    "score", ["1,000", "12/10", "8/0", "8/10/10", "8 stars", "about 80", "", "3:2", "nan"]
)
def test_an_ambiguous_score_is_unreadable(score: str) -> None:
    assert critique({**REPLY, "score": score}).verdict is Verdict.UNREADABLE


@pytest.mark.parametrize("time", ["1,000", "2 min", "frame 12", "1/2", "0:0:0:1", "soon", ""])
def test_an_ambiguous_time_is_unreadable(time: str) -> None:
    findings = [{"t": time, "object": "ball", "issue": "vanishes"}]
    assert critique({**REPLY, "findings": findings}).verdict is Verdict.UNREADABLE


@pytest.mark.parametrize("piece", ["{", '{"a":', '{"a":"', "{}", '{"a":[', '{"a":1} '])
def test_reading_takes_time_linear_in_the_length(piece: str) -> None:
    """A megabyte of braces once took minutes. Decodings are counted: a busy machine's clock tells little."""
    assert last_object(piece * (1_000_000 // len(piece))) is None
    started: list[int] = []
    decoder = reply_text._DECODER

    class Counted:
        def raw_decode(self, text: str, position: int) -> Any:
            started.append(position)
            return decoder.raw_decode(text, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reply_text, "_DECODER", Counted())
        last_object(piece * (MAX_REPLY // len(piece)))
    assert 1 <= len(started) <= MAX_BRACES + 1


@pytest.mark.parametrize("patch", [False, True])
def test_json_schemas_bound_everything_and_keep_the_order_of_reasoning(patch: bool) -> None:
    schema = critique_json_schema(patch=patch)
    assert list(schema["properties"]) == list(REPLY) == schema["required"]
    definitions = {**schema["$defs"], **plan_json_schema()["$defs"]}
    assert set(definitions["Fault"]["enum"]) == set(Fault)
    assert schema["properties"]["verdict"]["enum"] == ["accept", "revise"]
    assert schema["properties"]["score"] | {"minimum": 0, "maximum": 100} == schema["properties"]["score"]
    for definition in [schema, *definitions.values()]:
        assert definition.get("type") != "object" or definition["additionalProperties"] is False
        for value in definition.get("properties", {}).values():
            assert value.get("type") != "array" or "maxItems" in value
            assert value.get("type") != "string" or "maxLength" in value or "enum" in value


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_a_value(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    critique(text).raw.encode("utf-8")
    critique("{" + text)
    parse_plan(text)


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(sorted(REPLY)), inner=st.sampled_from(sorted(PLAN)), value=_json)
def test_any_json_in_any_field_gives_a_value(key: str, inner: str, value: Any) -> None:
    for reply in ({**REPLY, key: value}, {**REPLY, "plan": {**PLAN, inner: value}}):
        read = critique(reply)
        assert (read.score is None) == (read.verdict is Verdict.UNREADABLE)
        assert read.score is None or 0.0 <= read.score <= 100.0
        json.dumps(repr(read)).encode("utf-8")
