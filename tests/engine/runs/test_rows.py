"""What the store keeps as JSON, read back: equal, and refused where a type is another."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from report_run import make_critique, make_plan

from engine.runs.rows import dumps, read_attempt, read_plan
from engine.types import Critique, PlanReply, Prompt, Verdict

PROMPT = Prompt(text="A ball rolls.", negative="blur", seed=2**40, revision=1, plan=make_plan())
REPLY = PlanReply(plan=make_plan(), raw="{}", num_tokens=3, seconds=0.5)


def attempt_row(prompt: object = PROMPT, critique: object = None, scores: str = "{}") -> tuple[Any, ...]:
    def stored(value: Any) -> Any:
        return value if value is None or isinstance(value, str) else dumps(asdict(value))

    return 0, stored(prompt), "videos/a/attempt-0.mp4", stored(critique), scores, "{}", 0, 0, None


def changed(value: Prompt | Critique, **keys: Any) -> str:
    return json.dumps(asdict(value) | keys)


@pytest.mark.parametrize("prompt", [PROMPT, replace(PROMPT, plan=None)])
def test_prompts(prompt: Prompt) -> None:
    assert read_attempt(attempt_row(prompt)).prompt == prompt


def test_critiques() -> None:
    read = make_critique(64.0)
    unread = replace(read, verdict=Verdict.UNREADABLE, score=None, revised=None, problem="no JSON")
    for critique in (read, unread, None):
        assert read_attempt(attempt_row(critique=critique)).critique == critique


def test_plans() -> None:
    for reply in (REPLY, replace(REPLY, plan=None)):
        assert read_plan((dumps(asdict(reply)),)) == reply


def test_older_and_newer_rows() -> None:
    """Without a key that has a default, with one that is not known."""
    older = json.loads(changed(make_critique(64.0), of_a_later_version=1))
    del older["problem"]
    assert read_attempt(attempt_row(critique=json.dumps(older))).critique == make_critique(64.0)


@pytest.mark.parametrize(
    "row",
    [
        attempt_row(changed(PROMPT, seed="7")),
        attempt_row(changed(PROMPT, text=None)),
        attempt_row(changed(PROMPT, plan={})),
        attempt_row(critique=changed(make_critique(64.0), verdict="perfect")),
        attempt_row(critique=changed(make_critique(64.0), score="64")),
        attempt_row(critique=changed(make_critique(64.0), score=float("nan"))),
        attempt_row(critique=changed(make_critique(64.0), seen="a ball")),
        attempt_row(scores='{"consensus": "0.5"}'),
        attempt_row(scores="[" * 100_000),
        attempt_row(prompt="{"),
    ],
)
def test_another_type_is_refused(row: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError):
        read_attempt(row)
