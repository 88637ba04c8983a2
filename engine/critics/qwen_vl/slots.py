"""Slots: replies being written side by side, each with its rows of a static KV cache; steps as CUDA graphs.

Tokens, budgets and the choice of a token stay on the device: a step is one graph replay, and nothing waits.
A slot joins after its prefill and leaves when its owner forgets it; there are as many as are used at once.
Invariant: what a slot writes depends on its own prompt, seed and masks alone.

S slots . V vocabulary . T most tokens of a reply . L positions of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.critics.qwen_vl.text_step import Cache, TextStep

RETRY_TEMPERATURE = 0.7
LENGTH_STEP = 512
"""The cache has a multiple of so many positions, so that a longer prompt seldom means another capture."""
WARM_UP_STEPS = 2
"""Before a capture: kernels are compiled and loaded, which must not happen inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """A prompt that was read: keys, values [1, G, n, D] of each layer, logits [1, V] after its last token."""

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    logits: Tensor
    next_rotary: int
    """The rotary position of the first token that is written."""

    @property
    def length(self) -> int:
        return self.keys[0].shape[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What steps read and write: int64 [S] each, but for the last two.

    token: the last one written, which the next step puts into the cache, at `position`; `rotary`: its rotary
    position; budget: how many more tokens may be written now; seed: below 0 means greedy; record [S, T + 2]:
    the tokens written, their number, whether the last one ends the reply; allowed bool [S, V].
    """

    token: Tensor
    position: Tensor
    rotary: Tensor
    budget: Tensor
    seed: Tensor
    record: Tensor
    allowed: Tensor

    @classmethod
    def of(cls, slots: int, max_new_tokens: int, vocab_size: int, device: torch.device) -> _State:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        return cls(
            token=zeros(slots),
            position=zeros(slots),
            rotary=zeros(slots),
            budget=zeros(slots),
            seed=zeros(slots) - 1,
            record=zeros(slots, max_new_tokens + 2),
            allowed=torch.ones(slots, vocab_size, dtype=torch.bool, device=device),
        )

    def parts(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def rows(self, slots: slice) -> _State:
        return _State(**{name: getattr(self, name)[slots] for name in self.__slots__})


class Slots:
    """All replies that one model writes at a time, on the stream that is current. One host thread uses it."""

    def __init__(
        self, step: TextStep, *, device: torch.device, eos_ids: tuple[int, ...], max_new_tokens: int
    ) -> None:
        self.device = device
        self.max_new_tokens = max_new_tokens
        self.eos_ids = eos_ids
        self.steps = 0
        """Steps taken so far, in which every slot that had a budget wrote a token."""
        self.step = step
        self._eos = torch.tensor(eos_ids, device=device)
        self._cache = step.empty_cache(0, 0)
        self._state = _State.of(0, max_new_tokens, step.vocab_size, device)
        self._seen: list[Tensor] = []
        self._free: list[int] = []
        self._steered: set[int] = set()
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}

    def take(self) -> int:
        """A slot that nobody else has."""
        if not self._free:
            self._free.append(len(self._seen))
            pinned = self.device.type == "cuda"
            self._seen.append(torch.zeros(self.max_new_tokens + 2, dtype=torch.int64, pin_memory=pinned))
            self._resize(self._cache.length)
        return self._free.pop(0)

    @torch.inference_mode()
    def give_back(self, slot: int) -> None:
        """What the slot still writes nobody sees."""
        self._steered.discard(slot)
        self._state.budget[slot] = 0
        self._state.position[slot] = 0
        self._free.append(slot)

    @torch.inference_mode()
    def admit(
        self, slot: int, prompt: Prefilled, *, budget: int, seed: int | None, allowed: Tensor | None
    ) -> None:
        """Begins a reply: the prompt goes into the cache, and the first token is chosen from its logits.

        budget: how many tokens may be written, the first included. seed: None is greedy. allowed bool [V]:
        what the first token may be; with it each further token needs a `grant`.
        """
        self._resize(max(self._cache.length, prompt.length + self.max_new_tokens))
        cache, state = self._cache, self._state
        for mine, given in zip((*cache.keys, *cache.values), (*prompt.keys, *prompt.values), strict=True):
            mine[slot, :, : prompt.length].copy_(given[0])
        state.record[slot].zero_()
        state.position[slot] = prompt.length
        state.rotary[slot] = prompt.next_rotary
        state.seed[slot] = -1 if seed is None else seed
        state.allowed[slot] = True
        if seed is not None or allowed is not None:
            self._steered.add(slot)
        if allowed is None:
            state.budget[slot] = budget
        else:
            self.grant(slot, allowed)
        _choose(state.rows(slice(slot, slot + 1)), prompt.logits, self._eos, steered=slot in self._steered)

    @torch.inference_mode()
    def grant(self, slot: int, allowed: Tensor) -> None:
        """The slot may write one more token, of those in `allowed` bool [V] (CPU)."""
        self._state.allowed[slot].copy_(allowed, non_blocking=True)
        self._state.budget[slot] = 1

    @torch.inference_mode()
    def advance(self, slot: int, steps: int) -> None:
        """Up to `steps` more tokens for `slot`; on a GPU for every slot that has a budget."""
        if self.device.type == "cuda":
            for _ in range(steps):
                self._graph(bool(self._steered)).replay()
                self.steps += 1
            return
        for _ in range(steps):
            if int(self._state.budget[slot]) == 0:
                return  # free to ask on a CPU
            self._advance(slice(slot, slot + 1), steered=slot in self._steered)

    @torch.inference_mode()
    def publish(self, slot: int) -> Tensor:
        """[T + 2] in pinned memory, as `_State.record`, right once what is enqueued so far has run."""
        self._seen[slot].copy_(self._state.record[slot], non_blocking=True)
        return self._seen[slot]

    def _advance(self, rows: slice, *, steered: bool) -> None:
        state = self._state.rows(rows)
        cache = Cache(
            keys=tuple(keys[rows] for keys in self._cache.keys),
            values=tuple(values[rows] for values in self._cache.values),
        )
        live = state.budget > 0
        logits = self.step(state.token, state.position, state.rotary, cache)
        state.position.add_(live)
        state.rotary.add_(live)
        _choose(state, logits, self._eos, steered=steered)

    def _graph(self, steered: bool) -> torch.cuda.CUDAGraph:
        """One step of all slots, captured at first use."""
        if steered not in self._graphs:
            budget = self._state.budget.clone()
            self._state.budget.zero_()  # nobody writes while kernels are compiled and the graph is captured
            side = torch.cuda.Stream(self.device)
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_STEPS):
                    self._advance(slice(None), steered=steered)
            torch.cuda.current_stream(self.device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # "thread_local": another lane may allocate meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._advance(slice(None), steered=steered)
            self._state.budget.copy_(budget)
            self._graphs[steered] = graph
        return self._graphs[steered]

    @torch.inference_mode()
    def _resize(self, length: int) -> None:
        """Room for all slots, and for `length` positions in each; what was there goes over."""
        slots, length = len(self._seen), -(-length // LENGTH_STEP) * LENGTH_STEP
        before, cache = self._state, self._cache
        if len(before.token) == slots and cache.length == length:
            return
        if self._graphs:
            torch.cuda.current_stream(self.device).synchronize()  # a graph that is dropped must be over
            self._graphs.clear()
        self._state = _State.of(slots, self.max_new_tokens, self.step.vocab_size, self.device)
        for mine, theirs in zip(self._state.parts(), before.parts(), strict=True):
            mine[: len(theirs)].copy_(theirs)
        self._cache = self.step.empty_cache(slots, length)
        old, new = (*cache.keys, *cache.values), (*self._cache.keys, *self._cache.values)
        for mine, theirs in zip(new, old, strict=True):
            mine[: theirs.shape[0], :, : theirs.shape[2]].copy_(theirs)


def _choose(state: _State, logits: Tensor, eos: Tensor, *, steered: bool) -> None:
    """The next token of each slot that has a budget, from logits [S, V]; in place."""
    if steered:
        scores = logits.float()
        noisy = scores / RETRY_TEMPERATURE + _gumbel(state.seed, state.record[:, -2], scores.shape[1])
        scores = torch.where((state.seed >= 0)[:, None], noisy, scores)
        logits = scores.masked_fill(~state.allowed, float("-inf"))
    live = state.budget > 0
    chosen = logits.argmax(-1)
    count, ended = state.record[:, -2], state.record[:, -1]
    at = count[:, None].clone()
    state.record.scatter_(1, at, torch.where(live[:, None], chosen[:, None], state.record.gather(1, at)))
    state.token.copy_(torch.where(live, chosen, state.token))
    count += live
    ended |= live & torch.isin(chosen, eos)
    state.budget.copy_((state.budget - live.long()) * (1 - ended))


def _gumbel(seed: Tensor, count: Tensor, vocab_size: int) -> Tensor:
    """fp32 [S, V]: Gumbel noise of a counter, the same on every device and whatever the other slots do.

    The mixing function is that of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014); int64 wraps around.
    """
    token = torch.arange(vocab_size, device=seed.device)
    x = (seed * 0x1E3779B97F4A7C15 + count * 0x632BE59BD9B4E019)[:, None] + token * 0x2545F4914F6CDD1D
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    uniform = (((x >> 40) & 0xFFFFFF).float() + 0.5) / 2**24
    return -torch.log(-torch.log(uniform))
