"""From the text a critic wrote to PhysicsPlan and Critique, and the JSON schemas that constrain it.

Does not know which model wrote the text. Invariant: any string gives a value, never an exception, and what
cannot be read gives no number: `Critique(verdict=UNREADABLE, score=None)` or no plan.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from engine.critics.qwen_vl.plan_patch import PlanPatch, merged
from engine.critics.qwen_vl.reply_text import NO_OBJECT, last_object, storable
from engine.types import ANSWER_SECONDS, Critique, Fault, Finding, PhysicsPlan, Verdict

MAX_ENTRIES = 12
MAX_NAME = 60  # characters
MAX_PHRASE = 160

# Forgiven: finished thoughts, fences and prose around the object; raw line breaks in strings; numbers as text
# with a scale or a unit ("85/100", "9.5 out of 10", "0:03.5", "1.5 s"); one string for a list; unknown keys;
# a fault or verdict spelled nearly right.
# Clamped: score to 0..100, times to 0..5 s, texts and lists to their bounds, which the JSON schema repeats.
# Unreadable: no JSON object; one inside unfinished thoughts, or followed by text that was cut off; no
# verdict, score or fault; a fault or verdict close to nothing allowed; a number that is not finite, ambiguous
# ("1,000") or of unknown scale or unit; an entry without its fields; a plan that says nothing; in a patch
# also a field that plans do not have, and null for one.

_DECIMAL = r"[-+]?\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?"
_THOUSANDS = re.compile(r"\d,\d{3}(?!\d)")
_SCORE = re.compile(rf"({_DECIMAL})\s*(?:(?:/|out of|of)\s*({_DECIMAL})|%|percent)?\s*(?:points?|pts)?\.?")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)\s*(?:s|sec|secs|seconds?)?")
_SECONDS = re.compile(rf"(?:t\s*=\s*)?({_DECIMAL})\s*(s|secs?|seconds?|ms|milliseconds?)?\.?")


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


class PlanFields(BaseModel):
    """What a plan says, as a critic writes it."""

    objects: Annotated[list[ObjectEntry], *_AtMost] = []
    motion: Annotated[list[MotionEntry], *_AtMost] = []
    events: Annotated[list[EventEntry], *_AtMost] = []
    rest: Annotated[list[RestEntry], *_AtMost] = []
    still: Annotated[list[Name], *_AtMost] = []
    camera: Name = "static"

    def to_plan(self) -> PhysicsPlan:
        data = self.model_dump()
        data["events"] = sorted(data["events"], key=lambda event: event["t"])
        return PhysicsPlan.from_dict(data)


class PlanEntry(PlanFields):
    """A whole plan. One without any object, motion, event, rest or still thing is refused."""

    @model_validator(mode="after")
    def _says_something(self) -> PlanEntry:
        _require_content(self)
        return self


class PatchEntry(PlanFields):
    """The fields of a plan that change. An unknown one is refused, and null, which may mean "as it is"."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, value: Any) -> Any:
        if isinstance(value, dict) and (empty := [name for name in value if value[name] is None]):
            raise ValueError(f"{empty[0]!r} is null, which is no new value")
        return value

    def to_patch(self) -> PlanPatch:
        plan = self.to_plan()
        return PlanPatch(**{name: getattr(plan, name) for name in self.model_fields_set})


def _require_content(plan: PlanEntry | PhysicsPlan) -> None:
    if not (plan.objects or plan.motion or plan.events or plan.rest or plan.still):
        raise ValueError("the plan is empty")


P = TypeVar("P", PlanEntry, PatchEntry)


class CritiqueEntry(BaseModel, Generic[P]):
    """A critique with its whole plan, or with what it changes in the plan that it was shown."""

    model_config = ConfigDict(extra="ignore")

    seen: Annotated[list[Phrase], *_AtMost] = []
    expected: Annotated[list[Phrase], *_AtMost] = []
    findings: Annotated[list[FindingEntry], *_AtMost] = []
    fault: FaultWord
    verdict: VerdictWord
    score: Score
    plan: P | None = None


def plan_json_schema() -> dict[str, Any]:
    """JSON schema of a plan reply, every key required, texts and lists bounded, for constrained decoding."""
    schema: dict[str, Any] = _closed(PlanEntry.model_json_schema())
    return schema


def critique_json_schema(*, patch: bool = False) -> dict[str, Any]:
    """JSON schema of a critique reply, in the order in which the model must reason.

    `patch`: of the plan it holds what changes, so that none of those fields is required.
    """
    entry = CritiqueEntry[PatchEntry] if patch else CritiqueEntry[PlanEntry]
    schema: dict[str, Any] = _closed(entry.model_json_schema())
    if patch:
        schema["$defs"][PatchEntry.__name__]["required"] = []
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


def parse_critique(
    text: str, *, num_tokens: int, seconds: float, cut: bool = False, base: PhysicsPlan | None = None
) -> Critique:
    """The critique in a reply; `unreadable(...)` when there is none that can be read.

    `cut`: the token limit ended the reply. `base`: the plan of which the reply was to write what changes; the
    critique holds the merged one. None: it was to write a whole plan.
    """
    data = last_object(text, cut=cut)
    if data is None:
        return unreadable(text, num_tokens=num_tokens, seconds=seconds, problem=NO_OBJECT)
    try:
        entry, revised = _whole(data) if base is None else _patched(data, base)
    except (ValueError, RecursionError) as error:
        return unreadable(text, num_tokens=num_tokens, seconds=seconds, problem=_problem(error))
    return Critique(
        verdict=Verdict(entry.verdict),
        score=entry.score,
        seen=tuple(entry.seen),
        expected=tuple(entry.expected),
        findings=tuple(Finding(t=f.t, object=f.object, issue=f.issue) for f in entry.findings),
        fault=entry.fault,
        revised=revised,
        raw=storable(text),
        num_tokens=num_tokens,
        seconds=seconds,
    )


def _whole(data: dict[str, Any]) -> tuple[CritiqueEntry[PlanEntry], PhysicsPlan | None]:
    entry = CritiqueEntry[PlanEntry].model_validate(data)
    return entry, None if entry.plan is None else entry.plan.to_plan()


def _patched(data: dict[str, Any], base: PhysicsPlan) -> tuple[CritiqueEntry[PatchEntry], PhysicsPlan | None]:
    """ValueError as of a whole plan: for what cannot be read, and where the merged plan is empty."""
    entry = CritiqueEntry[PatchEntry].model_validate(data)
    if entry.plan is None:
        return entry, None
    plan = merged(base, entry.plan.to_patch())
    _require_content(plan)
    return entry, plan


def _problem(error: Exception) -> str:
    """The first reason, as one line: "plan.colour: Extra inputs are not permitted"."""
    text = str(error) or type(error).__name__
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    line: str = _clean(text, MAX_PHRASE)
    return line


def unreadable(text: str, *, num_tokens: int, seconds: float, problem: str) -> Critique:
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
        problem=problem,
    )
