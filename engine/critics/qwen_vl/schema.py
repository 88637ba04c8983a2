"""From the text a critic wrote to PhysicsPlan and Critique, and the JSON schemas that constrain it.

Does not know which model wrote the text. Invariant: any string gives a value, never an exception, and what
cannot be read gives no number: `Critique(verdict=UNREADABLE, score=None)` or no plan.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from engine.types import ANSWER_SECONDS, Critique, Fault, Finding, PhysicsPlan, Verdict

MAX_ENTRIES = 12
MAX_NAME = 60  # characters
MAX_PHRASE = 160

MAX_REPLY = 65_536
"""Characters of a reply that are looked at: far more than any token limit here lets a model write."""
MAX_BRACES = 256
"""Braces at which an object may begin; text with more of them is no reply, and each costs time."""

# Forgiven: finished thoughts, fences and prose around the object; raw line breaks in strings; numbers as text
# with a scale or a unit ("85/100", "9.5 out of 10", "0:03.5", "1.5 s"); one string for a list; unknown keys;
# a fault or verdict spelled nearly right.
# Clamped: score to 0..100, times to 0..5 s, texts and lists to their bounds, which the JSON schema repeats.
# Unreadable: no JSON object; one inside unfinished thoughts, or followed by text that was cut off; no
# verdict, score or fault; a fault or verdict close to nothing allowed; a number that is not finite, ambiguous
# ("1,000") or of unknown scale or unit; an entry without its fields; a plan that says nothing.

_DECODER = json.JSONDecoder(strict=False)
_DECIMAL = r"[-+]?\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?"
_THOUSANDS = re.compile(r"\d,\d{3}(?!\d)")
_SCORE = re.compile(rf"({_DECIMAL})\s*(?:(?:/|out of|of)\s*({_DECIMAL})|%|percent)?\s*(?:points?|pts)?\.?")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)\s*(?:s|sec|secs|seconds?)?")
_SECONDS = re.compile(rf"(?:t\s*=\s*)?({_DECIMAL})\s*(s|secs?|seconds?|ms|milliseconds?)?\.?")
_SENTENCE_END = (".", "!", "?", ":", ";", ")", "]", "}", '"', "'", "`", "*", "_")


def _clean(value: Any, limit: int) -> Any:
    """One printable line of at most `limit` characters, without lone surrogates, which no file can hold."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15:
        value = f"{value:g}"
    if not isinstance(value, str):
        return value
    printable = "".join(c if c.isprintable() else " " for c in value)
    return " ".join(printable.split())[:limit].strip()


def _number(value: Any, low: float, high: float) -> float:
    """A finite number clamped into low..high; raises ValueError for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return float(min(max(value, low), high))  # clamps before float(): an integer may exceed every float


def _decimal(text: str) -> float:
    """A point or a comma before the decimals; ValueError where a comma may stand for thousands."""
    if _THOUSANDS.search(text):
        raise ValueError(f"{text!r} may have thousands or decimals behind its comma")
    return float(text.replace(",", "."))


def _score(value: Any) -> float:
    """0 to 100 of a number, or of text with its scale: "8/10" is 80."""
    if isinstance(value, str):
        match = _SCORE.fullmatch(value.strip().lower())
        if match is None:
            raise ValueError(f"{value!r} is not a score")
        number, scale = _decimal(match[1]), 100.0 if match[2] is None else _decimal(match[2])
        if scale <= 0 or (match[2] is not None and not 0 <= number <= scale):
            raise ValueError(f"{value!r} is not on its own scale")
        value = 100.0 * number / scale
    return _number(value, 0.0, 100.0)


def _seconds(value: Any) -> float:
    """0 to the length of an answer, of a number or of text: "1.5 s", "0:03.5", "00:00:03"."""
    if isinstance(value, str):
        text = value.strip().lower()
        if clock := _CLOCK.fullmatch(text):
            value = 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + _decimal(clock[3])
        elif match := _SECONDS.fullmatch(text):
            value = _decimal(match[1]) / (1000 if (match[2] or "s").startswith("m") else 1)
        else:
            raise ValueError(f"{value!r} is not a time in seconds")
    return _number(value, 0.0, ANSWER_SECONDS)


def _entries(value: Any) -> Any:
    """A list of at most MAX_ENTRIES entries; null is no entry, a lone string is one."""
    if value is None:
        return []
    if isinstance(value, str):
        value = [value]
    return value[:MAX_ENTRIES] if isinstance(value, list) else value


def _choice(value: Any, allowed: tuple[str, ...], cutoff: float) -> str:
    """The allowed word that `value` is or is close to; raises ValueError when none is."""
    word = " ".join(re.findall(r"[a-z]+", value.lower())) if isinstance(value, str) else ""
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=cutoff)
    if not close:
        raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
    return close[0]


def _fault(value: Any) -> str:
    return Fault.NONE.value if value is None else _choice(value, tuple(Fault), 0.7)


def _verdict(value: Any) -> str:
    # stricter: "not accept" must not pass as "accept" (ratio 0.75)
    return _choice(value, ("accept", "revise"), 0.8)


# Field stands first, so that its bounds reach the JSON schema; the validator before it clamps to them.
Name = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME), BeforeValidator(lambda v: _clean(v, MAX_NAME))
]
Trait = Annotated[str, Field(max_length=MAX_NAME), BeforeValidator(lambda v: _clean(v, MAX_NAME))]
Phrase = Annotated[
    str, Field(min_length=1, max_length=MAX_PHRASE), BeforeValidator(lambda v: _clean(v, MAX_PHRASE))
]
Seconds = Annotated[float, Field(ge=0, le=ANSWER_SECONDS), BeforeValidator(_seconds)]
Score = Annotated[float, Field(ge=0, le=100), BeforeValidator(_score)]
FaultWord = Annotated[Fault, BeforeValidator(_fault)]
VerdictWord = Annotated[Literal["accept", "revise"], BeforeValidator(_verdict)]
_AtMost = (Field(max_length=MAX_ENTRIES), BeforeValidator(_entries))


class ObjectEntry(BaseModel):
    name: Name
    trait: Trait = ""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class MotionEntry(BaseModel):
    object: Name
    direction: Name
    speed: Name


class EventEntry(BaseModel):
    t: Seconds
    what: Phrase


class RestEntry(BaseModel):
    object: Name
    t: Seconds | None = None


class FindingEntry(BaseModel):
    t: Seconds
    object: Name
    issue: Phrase


class PlanEntry(BaseModel):
    """PLAN of the reply. A plan without any object, motion, event, rest or still thing is refused."""

    objects: Annotated[list[ObjectEntry], *_AtMost] = []
    motion: Annotated[list[MotionEntry], *_AtMost] = []
    events: Annotated[list[EventEntry], *_AtMost] = []
    rest: Annotated[list[RestEntry], *_AtMost] = []
    still: Annotated[list[Name], *_AtMost] = []
    camera: Name = "static"

    @model_validator(mode="after")
    def _says_something(self) -> PlanEntry:
        if not (self.objects or self.motion or self.events or self.rest or self.still):
            raise ValueError("the plan is empty")
        return self

    def to_plan(self) -> PhysicsPlan:
        data = self.model_dump()
        data["events"] = sorted(data["events"], key=lambda event: event["t"])
        return PhysicsPlan.from_dict(data)


class CritiqueEntry(BaseModel):
    model_config = ConfigDict(extra="ignore")

    seen: Annotated[list[Phrase], *_AtMost] = []
    expected: Annotated[list[Phrase], *_AtMost] = []
    findings: Annotated[list[FindingEntry], *_AtMost] = []
    fault: FaultWord
    verdict: VerdictWord
    score: Score
    plan: PlanEntry | None = None


def plan_json_schema() -> dict[str, Any]:
    """JSON schema of a plan reply, every key required, texts and lists bounded, for constrained decoding."""
    schema: dict[str, Any] = _closed(PlanEntry.model_json_schema())
    return schema


def critique_json_schema() -> dict[str, Any]:
    """JSON schema of a critique reply, in the order in which the model must reason."""
    schema: dict[str, Any] = _closed(CritiqueEntry.model_json_schema())
    return schema


def _closed(schema: Any) -> Any:
    """The schema with every key required and no other allowed: a model should skip no stage."""
    if isinstance(schema, list):
        return [_closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items() if key != "default"}
    if schema.get("type") == "object":
        closed |= {"required": list(schema["properties"]), "additionalProperties": False}
    return closed


def parse_plan(text: str, *, cut: bool = False) -> PhysicsPlan | None:
    """The plan in a reply, bare or under the key "plan"; None when there is none that can be read.

    `cut`: the token limit ended the reply.
    """
    data = last_object(text, cut=cut)
    if data is None:
        return None
    nested = data.get("plan")
    try:
        return PlanEntry.model_validate(nested if isinstance(nested, dict) else data).to_plan()
    except (ValidationError, RecursionError):
        return None


def parse_critique(text: str, *, num_tokens: int, seconds: float, cut: bool = False) -> Critique:
    """The critique in a reply; `unreadable(...)` when there is none that can be read.

    `cut`: the token limit ended the reply.
    """
    data = last_object(text, cut=cut)
    if data is None:
        return unreadable(text, num_tokens=num_tokens, seconds=seconds)
    try:
        entry = CritiqueEntry.model_validate(data)
    except (ValidationError, RecursionError):
        return unreadable(text, num_tokens=num_tokens, seconds=seconds)
    return Critique(
        verdict=Verdict(entry.verdict),
        score=entry.score,
        seen=tuple(entry.seen),
        expected=tuple(entry.expected),
        findings=tuple(Finding(t=f.t, object=f.object, issue=f.issue) for f in entry.findings),
        fault=entry.fault,
        revised=entry.plan.to_plan() if entry.plan else None,
        raw=storable(text),
        num_tokens=num_tokens,
        seconds=seconds,
    )


def unreadable(text: str, *, num_tokens: int, seconds: float) -> Critique:
    """What a reply becomes that cannot be read: its own verdict, no score, nobody at fault."""
    return Critique(
        verdict=Verdict.UNREADABLE,
        score=None,
        seen=(),
        expected=(),
        findings=(),
        fault=Fault.NONE,
        revised=None,
        raw=storable(text),
        num_tokens=num_tokens,
        seconds=seconds,
    )


def storable(text: str) -> str:
    """`text` as a file can hold it: lone surrogates replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def last_object(text: str, *, cut: bool = False) -> dict[str, Any] | None:
    """The last outermost JSON object in `text`, after its thoughts; None when no object is complete.

    Also None where the reply ends inside thoughts, or behind the object inside another one or a sentence:
    what is complete there is a draft that the model was about to correct. With `cut` only a fence may follow.
    Fences and prose need no rule of their own: decoding starts at each brace outside the object before it.
    The time is bounded by MAX_REPLY and MAX_BRACES.
    """
    answer = text.rpartition("</think>")[-1]
    if "<think>" in answer or len(answer) > MAX_REPLY:
        return None
    found: dict[str, Any] | None = None
    position, end, num_braces = answer.find("{"), 0, 0
    while position >= 0:
        num_braces += 1
        try:
            found, end = _DECODER.raw_decode(answer, position)
            position = answer.find("{", end)
        except ValueError:
            position = answer.find("{", position + 1)
        except RecursionError:
            return None
        if num_braces > MAX_BRACES:
            return None
    rest = answer[end:].strip().removeprefix("```").strip()
    unfinished = rest.count("{") > rest.count("}") or not rest.endswith(_SENTENCE_END)
    if rest and (cut or unfinished):
        return None
    return found
