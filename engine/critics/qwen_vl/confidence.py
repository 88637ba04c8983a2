"""How sure a critic is of each fact of the plan that it wrote, and the plan without those it is not sure of.

A fact is as likely as the tokens that state it: their joint probability to the model, whatever temperature
and masks they were chosen by. A wrong fact in a prompt can cost a take more than one that is missing; a
generator that only ever read whole plans, though, takes a missing event for one that does not happen. Knows
no model. Invariant: any text and any tokens give a value, never an exception; a fact that cannot be found in
the text has no probability, and stays.
"""

from __future__ import annotations

import codecs
import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Final

from pydantic import BaseModel
from tokenizers.pre_tokenizers import ByteLevel

from engine.critics.qwen_vl.reply_text import elements, located_object, members
from engine.critics.qwen_vl.schema import EventEntry, MotionEntry, RestEntry
from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanRest

Fact = PlanMotion | PlanEvent | PlanRest
LEAST_SPEED: Final = 0.5
"""A prompt states a motion in one sentence, which has no form without a speed. So a speed that is more likely
wrong than right counts for its whole entry; else the entry is as sure as its direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenText:
    """A reply, and which of its characters each token wrote: from `starts` up to `ends`, both [T], ascending;
    a character whose bytes several tokens wrote belongs to each. sums [T + 1]: log-probability of all tokens
    before. T: tokens that have text; none where they are not what the end of the text was made of."""

    text: str
    starts: Sequence[int] = ()
    ends: Sequence[int] = ()
    sums: Sequence[float] = (0.0,)

    @classmethod
    def of(cls, tokenizer: Any, text: str, tokens: Sequence[int], logprobs: Sequence[float]) -> WrittenText:
        """text: what the prompt has written of the reply, then what `tokens` decode to without special ones.
        tokenizer: of transformers; of one whose tokens are not bytes no token is known."""
        assert len(tokens) == len(logprobs), f"{len(tokens)} tokens, {len(logprobs)} log-probabilities"
        pieces = zip(_bytes_of(tokenizer, tokens), logprobs, strict=True)
        written = [(piece, logprob) for piece, logprob in pieces if piece]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        parts, starts, ends, length = [], [], [], 0
        for piece, _ in written:
            starts.append(length)
            parts.append(decoder.decode(piece))
            length += len(parts[-1])
            ends.append(length + bool(decoder.getstate()[0]))  # a character that has only begun is its too
        made = "".join([*parts, decoder.decode(b"", final=True)])
        if not text.endswith(made):
            return cls(text=text)
        before = len(text) - len(made)
        return cls(
            text=text,
            starts=[start + before for start in starts],
            ends=[end + before for end in ends],
            sums=list(accumulate((logprob for _, logprob in written), initial=0.0)),
        )

    def probability(self, *spans: tuple[int, int]) -> float | None:
        """Joint probability of the tokens that wrote any of the characters in these spans, which do not
        overlap; None where no token wrote any of one, or the model's numbers are none."""
        total = 0.0
        for start, end in spans:
            first, last = bisect_right(self.ends, start), bisect_left(self.starts, end)
            if first >= last:
                return None
            total += self.sums[last] - self.sums[first]
        return None if math.isnan(total) else math.exp(min(total, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedFact:
    """probability: of what happens, of what moves and where to, of when something rests, or that it does not.
    speed: that of a motion's speed by itself. None: not known."""

    fact: Fact
    probability: float | None
    speed: float | None = None

    @property
    def sureness(self) -> float:
        """By which it stays or goes, in [0, 1]."""
        known = 1.0 if self.probability is None else self.probability
        return known if self.speed is None or self.speed >= LEAST_SPEED else min(known, self.speed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    entry: type[BaseModel]
    fact: type[Any]
    stated_by: tuple[str, ...]


_KINDS: Final = {
    "motion": _Kind(entry=MotionEntry, fact=PlanMotion, stated_by=("object", "direction")),
    "events": _Kind(entry=EventEntry, fact=PlanEvent, stated_by=("what",)),
    "rest": _Kind(entry=RestEntry, fact=PlanRest, stated_by=("t",)),
}


def stated_facts(reply: WrittenText, *, cut: bool = False) -> list[StatedFact]:
    """The motions, events and rests of the plan in a reply, as the plan that is read of it has them, in the
    order in which they were written. `cut`: the token limit ended the reply."""
    try:
        plan = _plan_members(reply.text, cut=cut)
    except (ValueError, RecursionError):
        return []
    return [fact for name in _KINDS if name in plan for fact in _entries(reply, name, plan[name][0])]


def without_unsure(plan: PhysicsPlan, stated: Sequence[StatedFact], sure: float) -> PhysicsPlan:
    """The plan without the motions, events and rests that were stated with less than `sure`.

    Objects, still things and the camera stay, and so does a fact that was not stated: what a patch leaves as
    it was. Where none of the three would be left, the surest stays; of one stated twice the surer counts.
    """
    sureness: dict[Fact, float] = {}
    for one in stated:
        sureness[one.fact] = max(one.sureness, sureness.get(one.fact, 0.0))

    def thinned(least: float) -> PhysicsPlan:
        def kept(facts: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(fact for fact in facts if sureness.get(fact, 1.0) >= least)

        return replace(plan, motion=kept(plan.motion), events=kept(plan.events), rest=kept(plan.rest))

    left = thinned(sure)
    facts = facts_of(plan)
    if facts_of(left) or not facts:
        return left
    surest = max(facts, key=sureness.__getitem__)
    kept: dict[str, Any] = {name: (surest,) for name, kind in _KINDS.items() if isinstance(surest, kind.fact)}
    return replace(left, **kept)


def facts_of(plan: PhysicsPlan) -> tuple[Fact, ...]:
    """All that may be left out of a plan."""
    return (*plan.motion, *plan.events, *plan.rest)


def _plan_members(text: str, *, cut: bool) -> Mapping[str, tuple[int, int]]:
    """Where the fields of the plan in a reply stand, of the object that `parse_plan` reads."""
    found = located_object(text, cut=cut)
    if found is None:
        return {}
    start, data = found
    outer = members(text, start)
    return members(text, outer["plan"][0]) if isinstance(data.get("plan"), dict) else outer


def _entries(reply: WrittenText, name: str, start: int) -> Iterator[StatedFact]:
    """The entries of a list that can be read."""
    kind = _KINDS[name]
    try:
        places = elements(reply.text, start)
    except (ValueError, RecursionError):
        return
    for begin, end in places:
        try:
            value = json.loads(reply.text[begin:end], strict=False)
            entry, spans = kind.entry.model_validate(value), members(reply.text, begin)
        except (ValueError, RecursionError):
            continue
        stated = [spans[field] for field in kind.stated_by if field in spans]
        yield StatedFact(
            fact=kind.fact(**entry.model_dump()),
            probability=reply.probability(*stated) if len(stated) == len(kind.stated_by) else None,
            speed=reply.probability(spans["speed"]) if name == "motion" else None,
        )


def _bytes_of(tokenizer: Any, tokens: Sequence[int]) -> list[bytes]:
    """What each token of a byte-level BPE writes; nothing for special tokens, and for none of the vocabulary.

    Such a tokenizer has a letter for each byte; a token that has other letters stands for itself.
    """
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    pieces = tokenizer.convert_ids_to_tokens(list(tokens))
    return [
        b"" if piece is None or token in special else _bytes(piece)
        for token, piece in zip(tokens, pieces, strict=True)
    ]


def _bytes(piece: str) -> bytes:
    try:
        return bytes(map(_BYTES.__getitem__, piece))
    except KeyError:
        return piece.encode("utf-8", "replace")


def _letters() -> dict[str, int]:
    """The byte of each letter: printable ones of Latin-1 are themselves, the others follow from U+0100 on."""
    letters = set(ByteLevel.alphabet())
    others = [byte for byte in range(256) if chr(byte) not in letters]
    return {chr(byte): byte for byte in range(256) if chr(byte) in letters} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


_BYTES: Final = _letters()
