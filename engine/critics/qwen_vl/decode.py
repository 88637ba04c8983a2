"""One Qwen-VL prompt being answered: prefill by the library's model, then tokens in a slot.

Does not know what the text means. Invariant: the greedy tokens are those of `model.generate`.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from engine.critics.qwen_vl.grammar import Grammar
from engine.critics.qwen_vl.prefill import read_prompt
from engine.critics.qwen_vl.slots import Published, Slots
from engine.machine.streams import HostFence, fence
from engine.protocols import Fence


class Decoding:
    """One answer (exact prompt length, no padding). `prefill` once, then `extend` until `finished`.

    Each chunk ends with an asynchronous copy of what was written to pinned memory, which is looked at once
    its fence is done: the end is seen while the next chunk runs. On CUDA the vision tower of the library
    itself waits for the stream during prefill (it reads the clip grid); decoding steps never wait. The slot
    is given back when the object goes.

    `lookup`: tokens of earlier replies, the likeliest last; they make it faster where it repeats them, and
    change nothing else. A seed selects sampling instead of greedy choice. A grammar needs each token on the
    host before the next: chunks shrink to one token, and `extend` writes none before the fence of the last
    one is done.
    """

    def __init__(
        self,
        model: Any,
        slots: Slots,
        inputs: dict[str, torch.Tensor],
        *,
        max_new_tokens: int,
        chunk_tokens: int,
        seed: int | None = None,
        grammar: Grammar | None = None,
        lookup: Sequence[int] = (),
    ) -> None:
        assert 1 <= max_new_tokens <= slots.max_new_tokens, (
            f"{max_new_tokens} new tokens, the slots hold {slots.max_new_tokens}"
        )
        self._model = model
        self._slots = slots
        self._inputs = inputs
        self._max_new_tokens = max_new_tokens
        self._chunk_tokens = chunk_tokens if grammar is None else 1
        self._seed = seed
        self._grammar = grammar
        self._lookup = lookup
        self._fence: Fence = HostFence()
        self._slot = -1
        self._published: deque[tuple[Fence, Published]] = deque()
        self._known = torch.zeros(2, dtype=torch.int64)  # before prefill: nothing written
        self._logprobs = torch.zeros(0)
        self._num_asked = 0
        self._first_step = 0

    @property
    def steps_left(self) -> int:
        """Upper bound of the calls of `extend` still to be made."""
        return math.ceil((self._max_new_tokens - self._num_asked) / self._chunk_tokens)

    @property
    def finished(self) -> bool:
        """Whether the end of the answer, or the token limit, is known to be reached. Never waits."""
        while self._published and self._published[0][0].done():
            self._known, self._logprobs = self._published.popleft()[1]
        return bool(self._known[-1]) or int(self._known[-2]) == self._max_new_tokens

    @property
    def cut(self) -> bool:
        """Whether the token limit ended the answer, not its end token; ask when `finished`."""
        return not bool(self._known[-1])

    def tokens(self) -> list[int]:
        """The answer so far without its end token; call when `finished`."""
        ids: list[int] = self._known[: int(self._known[-2])].tolist()
        return ids[:-1] if bool(self._known[-1]) else ids

    def logprobs(self) -> list[float]:
        """Of each of `tokens()` the natural logarithm of its probability to the model, whatever temperature
        and masks it was chosen by; call when `finished`."""
        values: list[float] = self._logprobs[: len(self.tokens())].tolist()
        return values

    @torch.inference_mode()
    def prefill(self) -> Fence:
        """Reads the prompt and writes the first token."""
        self._slot = self._slots.take()
        weakref.finalize(self, self._slots.give_back, self._slot).atexit = False
        prompt = read_prompt(self._model, self._inputs)
        self._inputs = {}
        self._slots.admit(
            self._slot,
            prompt,
            budget=self._max_new_tokens,
            seed=self._seed,
            allowed=None if self._grammar is None else self._grammar.allowed(),
            lookup=self._lookup,
        )
        self._first_step = self._slots.steps
        return self._publish(1)

    def extend(self) -> Fence:
        """Writes up to `chunk_tokens` more tokens; with drafts that hold, more than these."""
        num_asked = min(self._num_asked + self._chunk_tokens, self._max_new_tokens)
        if self._grammar is not None:
            if not self._fence.done():
                return self._fence
            assert not self.finished, "the answer is over"
            self._grammar.consume(int(self._known[self._num_asked - 1]))
            self._slots.grant(self._slot, self._grammar.allowed())
        # what the steps of other slots wrote here meanwhile need not be written again
        steps = num_asked - self._num_asked if self._grammar is not None else num_asked - self._num_written
        self._slots.advance(self._slot, max(steps, 0))
        return self._publish(num_asked)

    @property
    def _num_written(self) -> int:
        """Tokens that are written, or enqueued, unless the answer ended before."""
        return max(self._num_asked, 1 + self._slots.steps - self._first_step)

    def _publish(self, num_asked: int) -> Fence:
        self._num_asked = num_asked
        written = self._slots.publish(self._slot)
        self._fence = fence(self._slots.device)
        self._published.append((self._fence, written))
        return self._fence
