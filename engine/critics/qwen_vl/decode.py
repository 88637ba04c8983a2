"""Prefill and decoding of one Qwen-VL prompt, without a host synchronization per token.

Does not know what the text means. The model's own position state (`rope_deltas`) is never read: positions are
computed here and passed. Invariant: the greedy tokens are those of `model.generate`.
Legend: L prompt tokens . V vocabulary . n tokens written so far.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from engine.critics.qwen_vl.grammar import Grammar
from engine.protocols import Fence

RETRY_TEMPERATURE = 0.7


class Ready:
    """The fence of work that was done when `launch` returned."""

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        return None


class EventFence:
    """The fence of work enqueued on the current stream so far."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(device))

    def done(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()


class Decoding:
    """One prompt being answered (B=1, exact length, growing cache).

    `prefill` once, then `extend` until `finished`. Tokens and the done flag stay on the device; each chunk
    ends with an asynchronous copy of both to pinned memory, which is looked at once its fence is done. After
    the end of the answer the rest of a chunk writes padding. On CUDA the vision tower of the library itself
    waits for the stream during prefill (it reads the clip grid); decoding steps never wait.

    A seed selects sampling (Gumbel-max at RETRY_TEMPERATURE) instead of greedy choice. A grammar needs each
    token on the host before the next: chunks shrink to one token, and `extend` writes none before the fence
    of the last one is done.
    """

    def __init__(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        *,
        max_new_tokens: int,
        eos_ids: tuple[int, ...],
        chunk_tokens: int,
        seed: int | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        from transformers import DynamicCache

        self._model = model
        self._inputs = inputs
        self._max_new_tokens = max_new_tokens
        self._chunk_tokens = chunk_tokens if grammar is None else 1
        self._grammar = grammar
        self._device = torch.device(model.device)
        self._on_cpu = self._device.type == "cpu"
        self._on_cuda = self._device.type == "cuda"
        self._cache = DynamicCache(config=model.config.get_text_config())
        self._eos_ids = frozenset(eos_ids)
        self._eos = torch.tensor(eos_ids, device=self._device)
        self._written = torch.full((max_new_tokens + 1,), eos_ids[0], device=self._device)  # [-1]: done
        self._written[-1] = 0
        self._seen = torch.zeros(max_new_tokens + 1, dtype=torch.int64, pin_memory=self._on_cuda)
        self._num_written = 0
        self._fence: Fence = Ready()
        self._next_position = 0
        self._random = None if seed is None else torch.Generator(self._device).manual_seed(seed)

    @property
    def steps_left(self) -> int:
        """Upper bound of the calls of `extend` still to be made."""
        return math.ceil((self._max_new_tokens - self._num_written) / self._chunk_tokens)

    @property
    def finished(self) -> bool:
        """Whether the end of the answer, or the token limit, is known to be reached. Never waits."""
        if not self._fence.done():
            return False
        return bool(self._seen[-1]) or self._num_written == self._max_new_tokens

    @property
    def cut(self) -> bool:
        """Whether the token limit ended the answer, not its end token; ask when `finished`."""
        return len(self.tokens()) == self._max_new_tokens

    def tokens(self) -> list[int]:
        """The answer so far without its end token; call when `finished`."""
        ids: list[int] = self._seen[: self._num_written].tolist()
        end = next((i for i, token in enumerate(ids) if token in self._eos_ids), len(ids))
        return ids[:end]

    @torch.inference_mode()
    def prefill(self) -> Fence:
        """Reads the prompt and writes the first token."""
        inputs = self._inputs
        positions, _ = self._model.model.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            video_grid_thw=inputs.get("video_grid_thw"),
            second_per_grid_ts=inputs.get("second_per_grid_ts"),
        )  # CPU tensors in and out: [3, 1, L]
        # As generate goes on. The delta is to the largest position, which with Qwen2.5-VL may be a clip's.
        self._next_position = int(positions[0, 0, -1]) + 1
        media = ("pixel_values_videos", "video_grid_thw")
        output = self._model(
            input_ids=inputs["input_ids"].to(self._device, non_blocking=True),
            position_ids=positions.to(self._device, non_blocking=True),
            **{key: inputs[key].to(self._device, non_blocking=True) for key in media if key in inputs},
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._inputs = {}
        self._write(output.logits[:, -1])
        return self._publish()

    @torch.inference_mode()
    def extend(self) -> Fence:
        """Writes up to `chunk_tokens` more tokens."""
        if self._grammar is not None:
            if not self._fence.done():
                return self._fence
            self._grammar.consume(int(self._seen[self._num_written - 1]))
        language_model, head = self._model.model.language_model, self._model.lm_head
        for _ in range(min(self._chunk_tokens, self._max_new_tokens - self._num_written)):
            if self._on_cpu and bool(self._written[-1]):
                break  # free to ask on a CPU; on a GPU the flag is looked at once per chunk
            last = self._written[self._num_written - 1].view(1, 1)
            position = torch.full((3, 1, 1), self._next_position, device=self._device)
            hidden = language_model(
                input_ids=last, position_ids=position, past_key_values=self._cache, use_cache=True
            ).last_hidden_state
            self._next_position += 1
            self._write(head(hidden[:, -1]))
        return self._publish()

    def _write(self, logits: torch.Tensor) -> None:
        """Chooses one token from logits [1, V] and appends it; padding once the answer has ended."""
        if self._grammar is not None:
            allowed = self._grammar.allowed().to(self._device, non_blocking=True)
            logits = logits.masked_fill(~allowed, float("-inf"))
        if self._random is not None:
            uniform = torch.rand(logits.shape, generator=self._random, device=self._device).clamp_(
                1e-10, 1 - 1e-7
            )
            logits = logits.float() / RETRY_TEMPERATURE - torch.log(-torch.log(uniform))
        done = self._written[-1:]
        token = torch.where(done.bool(), self._eos[:1], logits.argmax(-1))  # [1]
        self._written[self._num_written : self._num_written + 1].copy_(token)
        done |= (token == self._eos).any()
        self._num_written += 1

    def _publish(self) -> Fence:
        self._seen.copy_(self._written, non_blocking=True)
        self._fence = EventFence(self._device) if self._on_cuda else Ready()
        return self._fence
