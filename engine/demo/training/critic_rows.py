"""Training rows for the demo critic: one question with its reply as token ids, and which frames it shows.

Made in the render workers. Takes are true, planted with wrong physics (time that stops, slows, jumps or runs
back, a mirrored picture), the answer of another scene of the same kind, or real outputs of the generator,
which come in from `make_takes`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.critics.qwen_vl.instructions import critique_segments, plan_segments
from engine.critics.qwen_vl.preprocess import PatchGeometry, VideoSegment, sample_pairs, video_text
from engine.demo.scenes.base import FPS, NUM_ANSWER_FRAMES, NUM_PREFIX_FRAMES, SWITCH
from engine.demo.scenes.broken import Violation
from engine.demo.training import critic_text, prompts
from engine.demo.training.clips import ClipRecord, describe_answer
from engine.demo.training.critic_text import case_verdict, true_verdict
from engine.demo.training.windows import Window, agreement_score
from engine.types import Fault, Verdict

PREFIX_INDICES: Final = sample_pairs(NUM_PREFIX_FRAMES, critic_text.NUM_PREFIX_FRAMES)
TAKE_INDICES: Final = sample_pairs(NUM_ANSWER_FRAMES, critic_text.NUM_TAKE_FRAMES)
PLANTS: Final = ("freeze", "stop", "slow", "fast", "reverse", "mirror", "jump")


@dataclass(frozen=True, slots=True)
class Row:
    """ids int16 [L]; the reply starts at `start`. `accepted` and `score`: those of a critique's reply."""

    ids: np.ndarray
    start: int
    accepted: bool = True
    score: float = 100.0


@dataclass(frozen=True, slots=True)
class ShownTake:
    """A critique row with its take as indices [16] into the 64 frames of a clip, perhaps mirrored.

    `offset` says which clip: 0 its own, -3 the one three places before it in its block.
    """

    row: Row
    frames: np.ndarray
    mirrored: bool
    windows: list[Window]
    offset: int = 0


@dataclass(frozen=True, slots=True)
class ClipRows:
    plan: Row
    takes: list[ShownTake]


def planted_indices(kind: str, rng: prompts.Rng) -> np.ndarray:
    """Clip indices [40] of an answer in which time runs wrong; "mirror" keeps the true order."""
    i = np.arange(NUM_ANSWER_FRAMES)
    if kind == "freeze":
        return np.full_like(i, SWITCH - 1)
    if kind == "stop":
        return SWITCH + np.minimum(i, int(rng.integers(4, 24)))
    if kind == "slow":
        return SWITCH + i // 2
    if kind == "fast":
        return SWITCH + np.minimum(2 * i, NUM_ANSWER_FRAMES - 1)
    if kind == "reverse":
        return SWITCH - 1 - np.minimum(i, SWITCH - 1)
    if kind == "jump":
        start, length = int(rng.integers(4, 20)), int(rng.integers(6, 16))
        return SWITCH + np.minimum(np.where(i >= start, i + length, i), NUM_ANSWER_FRAMES - 1)
    assert kind == "mirror", kind
    return SWITCH + i


class RowMaker:
    """Questions as the engine's critic asks them (a test compares the token ids), and their replies.

    `judged`: with takes of each clip, see `__call__`; without, it has a plan alone.
    """

    def __init__(
        self,
        tokenizer: Any,
        geometry: PatchGeometry,
        size_px: int,
        *,
        first_seed: int = 0,
        block: int = 64,
        judged: bool = True,
    ) -> None:
        self.judged = judged
        self.tokenizer, self.geometry, self.size_px = tokenizer, geometry, size_px
        self.first_seed, self.block = first_seed, block
        self._seen: dict[str, tuple[int, np.ndarray]] = {}  # the last clip of each kind in this block
        self.prefix, self.take = self._segment(PREFIX_INDICES), self._segment(TAKE_INDICES)
        self._heads: dict[str, list[int]] = {}

    def _segment(self, indices: list[int]) -> VideoSegment:
        shape = (len(indices), self.size_px, self.size_px, 3)
        frames = np.broadcast_to(np.zeros(1, np.uint8), shape)  # only the shape is read
        return VideoSegment(frames=frames, times_s=tuple(i / FPS for i in indices))

    def plan_row(self, record: ClipRecord) -> Row:
        segments = plan_segments(self.tokenizer, critic_text.PLAN_INSTRUCTION, self.prefix, record.brief)
        return self._row(segments, critic_text.plan_reply(record.prefix_windows, record.plan))

    def critique_row(
        self,
        record: ClipRecord,
        prompt: str,
        seen: list[Window],
        fault: Fault,
        case_score: float | None = None,
        violation: Violation | None = None,
    ) -> Row:
        """Labelled by the take's Verified case score where it is known, else by its windows."""
        segments = critique_segments(
            self.tokenizer, critic_text.CRITIQUE_INSTRUCTION, self.prefix, self.take, prompt
        )
        expected = record.answer_windows
        reply = critic_text.critique_reply(seen, expected, record.plan, fault, case_score, violation)
        row = self._row(segments, reply)
        if case_score is None:
            verdict, score = true_verdict(seen, expected), agreement_score(seen, expected)
        else:
            verdict, score = case_verdict(case_score), case_score
        return replace(row, accepted=verdict is Verdict.ACCEPT, score=score)

    def __call__(self, record: ClipRecord, frames: np.ndarray) -> ClipRows:
        """Plan row and critiques of the true take, a planted one and one of another scene."""
        if not self.judged:
            return ClipRows(self.plan_row(record), [])
        rng = np.random.default_rng([record.seed, 6])
        true_prompt, _ = prompts.poor_prompt(record.brief, record.plan, record.wrong, rng)
        true_take = ShownTake(
            self.critique_row(record, true_prompt, record.answer_windows, Fault.NONE),
            SWITCH + np.array(TAKE_INDICES),
            False,
            record.answer_windows,
        )
        takes = [true_take, self._planted(record, frames, rng), self._swapped(record, frames, rng)]
        return ClipRows(self.plan_row(record), takes)

    def _planted(self, record: ClipRecord, frames: np.ndarray, rng: prompts.Rng) -> ShownTake:
        kind = PLANTS[int(rng.integers(len(PLANTS)))]
        indices = planted_indices(kind, rng)
        answer = frames[indices][:, :, ::-1] if kind == "mirror" else frames[indices]
        seen = describe_answer(frames[SWITCH - 1], np.ascontiguousarray(answer))
        prompt, fault = prompts.poor_prompt(record.brief, record.plan, record.wrong, rng)
        row = self.critique_row(record, prompt, seen, fault)
        return ShownTake(row, indices[TAKE_INDICES], kind == "mirror", seen)

    def _swapped(self, record: ClipRecord, frames: np.ndarray, rng: prompts.Rng) -> ShownTake:
        """The answer of the last scene of this kind in the block; the first of a kind is planted instead."""
        if (record.seed - self.first_seed) % self.block == 0:
            self._seen.clear()
        other_seed, other = self._seen.get(record.kind, (record.seed, frames))
        self._seen[record.kind] = (record.seed, frames)
        if other_seed == record.seed:
            return self._planted(record, frames, rng)
        seen = describe_answer(frames[SWITCH - 1], other[SWITCH:])
        prompt, fault = prompts.poor_prompt(record.brief, record.plan, record.wrong, rng)
        row = self.critique_row(record, prompt, seen, fault)
        return ShownTake(row, SWITCH + np.array(TAKE_INDICES), False, seen, other_seed - record.seed)

    def _row(self, segments: list[Any], reply: str) -> Row:
        """All up to the last clip is the same in every row of a task and ends in a special token, where
        tokenization may be cut: it is tokenized once."""
        size = self.size_px
        head = "".join(
            s if isinstance(s, str) else video_text(s.times_s, size, size, self.geometry)
            for s in segments[:-1]
        )
        if head not in self._heads:
            self._heads[head] = self._ids(head)
        question = self._heads[head] + self._ids(segments[-1])
        return Row(np.array(question + self._ids(reply + "<|im_end|>"), np.int16), len(question))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
