"""One question to the critic, as a job of steps that the scheduler interleaves with others.

Knows not what is asked, nor what a reply means: both are given. Invariant: every job ends in a result; only a
prefix that cannot be read raises (VideoError).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from engine.critics.qwen_vl.confidence import StatedFact, WrittenText, stated_facts
from engine.critics.qwen_vl.decode import Decoding
from engine.critics.qwen_vl.grammar import Grammar
from engine.critics.qwen_vl.instructions import opening
from engine.critics.qwen_vl.preprocess import Segment, VideoSegment, build_inputs
from engine.machine.streams import FutureFence, HostFence
from engine.protocols import Fence

if TYPE_CHECKING:
    from engine.critics.qwen_vl.critic import QwenVLCritic

T = TypeVar("T")

CHUNK_TOKENS = 16  # tokens per launch
NUM_TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a critic wrote. tokens: of `text` behind its opening, with their `logprobs`; num_tokens: those of
    all tries; cut: whether the token limit ended it."""

    text: str
    tokens: Sequence[int]
    logprobs: Sequence[float]
    num_tokens: int
    seconds: float
    cut: bool

    def facts(self, tokenizer: Any) -> list[StatedFact]:
        """Those of its plan, with how sure the critic was."""
        written = WrittenText.of(tokenizer, self.text, self.tokens, self.logprobs)
        return stated_facts(written, cut=self.cut)


class ReplyJob(Generic[T]):
    """One question to the critic: the prefix read on the host, prefill, chunks of tokens, the reply parsed;
    asked once more when unreadable.

    The second try asks for JSON only, prefills the opening brace, keeps to the schema where llguidance is
    installed, and samples, seeded, so that a greedy repetition is not repeated. The first try is free: a
    grammar would cut off thoughts. `sampled`: the first try samples too, and is the only one. `begun`: what
    the segments have written of the reply already; where there is any, it has one try too. `constrained`: the
    first try keeps to the grammar too; the critic has one. `steps_left` assumes that the token limit is
    used up, and is 0 exactly when `result` may be called.
    """

    def __init__(
        self,
        critic: QwenVLCritic,
        prefix: Callable[[], VideoSegment],
        segments: Callable[[VideoSegment, bool], list[Segment]],
        read: Callable[[Answer], T],
        is_readable: Callable[[T], bool],
        *,
        schema: dict[str, Any],
        seed: int,
        sampled: bool = False,
        begun: str = "",
        constrained: bool = False,
    ) -> None:
        assert critic.grammars is not None or not constrained, "a critic without grammars constrains nothing"
        self._critic = critic
        self._prefix = prefix
        self._segments = segments
        self._read = read
        self._is_readable = is_readable
        self._schema = schema
        self._seed, self._sampled = seed, sampled
        self._begun, self._constrained = begun, constrained
        self._tries = 1 if sampled or begun else NUM_TRIES
        self._num_tries = 0
        self._num_tokens = 0
        self._started_s: float | None = None
        self._frames: Future[VideoSegment] | None = None
        self._decoding: Decoding | None = None
        self._reply: T | None = None
        self.answer: Answer | None = None
        """What the result was read of; the last one so far."""
        self._opening = ""  # what of the reply the prompt has written already

    @property
    def steps_left(self) -> int:
        if self._reply is not None:
            return 0
        if self._decoding is None:
            chunks = math.ceil((self._critic.settings.max_new_tokens - 1) / CHUNK_TOKENS)
            return 2 + chunks + (self._frames is None)
        if self._decoding.finished:
            return 1
        return 1 + self._decoding.steps_left

    @property
    def stage(self) -> str:
        if self._frames is None or not self._frames.done():
            return "prefix"
        if self._decoding is None:
            return "prefill"
        return "reply" if self._decoding.finished else f"{CHUNK_TOKENS} decode steps"

    def launch(self) -> Fence:
        if self._reply is not None:
            return HostFence()
        if self._frames is None:
            self._started_s = time.perf_counter()
            self._frames = self._critic.reader.submit(self._prefix)
            return FutureFence(self._frames)
        if not self._frames.done():
            return FutureFence(self._frames)
        if self._decoding is None:
            return self._ask(self._frames.result())
        if not self._decoding.finished:
            return self._decoding.extend()
        return self._settle(self._decoding)

    def result(self) -> T:
        assert self._reply is not None, f"{self.steps_left} steps left"
        return self._reply

    def _ask(self, prefix: VideoSegment) -> Fence:
        critic, retry = self._critic, self._num_tries > 0
        self._num_tries += 1
        segments = self._segments(prefix, retry)
        self._opening = opening(segments, retry=retry, begun=self._begun)
        inputs = build_inputs(
            critic.tokenizer,
            critic.model.config,
            segments,
            geometry=critic.geometry,
            device=str(critic.model.device),
            dtype=critic.model.dtype,
        )
        assert critic.slots is not None, "a model without weights answers nothing"
        self._decoding = Decoding(
            critic.model,
            critic.slots,
            inputs,
            max_new_tokens=critic.settings.max_new_tokens,
            chunk_tokens=CHUNK_TOKENS,
            seed=self._seed if retry or self._sampled else None,
            grammar=self._grammar(retry),
            lookup=[token for reply in critic.recent for token in reply],
        )
        return self._decoding.prefill()

    def _grammar(self, retry: bool) -> Grammar | None:
        grammars = self._critic.grammars
        if grammars is None or not (retry or self._constrained):
            return None
        return grammars.start(self._schema, written="{" if retry else self._begun)

    def _settle(self, decoding: Decoding) -> Fence:
        tokens = decoding.tokens()
        text = self._critic.tokenizer.decode(tokens, skip_special_tokens=True)
        self._critic.recent.append(tokens)
        self._num_tokens += len(tokens)
        assert self._started_s is not None and self._frames is not None, "settled before it was asked"
        self.answer = Answer(
            text=self._opening + text,
            tokens=tokens,
            logprobs=decoding.logprobs(),
            num_tokens=self._num_tokens,
            seconds=time.perf_counter() - self._started_s,
            cut=decoding.cut,
        )
        reply = self._read(self.answer)
        if not self._is_readable(reply) and self._num_tries < self._tries:
            return self._ask(self._frames.result())
        self._reply, self._decoding, self._frames = reply, None, None
        return HostFence()
