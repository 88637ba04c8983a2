"""Slots: replies being written side by side, each with its rows of a static cache; steps as CUDA graphs.

Tokens, budgets and the choice of a token stay on the device: a step is one graph replay, and nothing waits.
A slot joins after its prefill and leaves when its owner forgets it; there are as many as are used at once.

On a GPU a step also tries a few drafted tokens: what followed the last two in earlier replies (prompt lookup
decoding, as transformers' `prompt_lookup_num_tokens`). Reading the weights for several rows costs what one
costs, and a draft counts only where it is the very token that would have been chosen. Invariant: what a slot
writes depends on its own prompt, seed and masks alone, not on other slots and not on drafts.

S slots . V vocabulary . T most tokens of a reply . L positions of the cache . W rows of a slot in a step .
H tokens of its history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.critics.qwen_vl.delta_net import WIDTH
from engine.critics.qwen_vl.projections import ROWS
from engine.critics.qwen_vl.text_step import Prefilled, TextStep
from engine.machine.graphs import captured

SAMPLING_TEMPERATURE = 0.7
LENGTH_STEP = 512
"""The cache has a multiple of so many positions, so that a longer prompt seldom means another capture."""
DRAFTS = WIDTH - 1
"""Most drafted tokens of a step; with several slots fewer, so that all rows fit the GEMMs of few rows."""
MAX_SLOTS = ROWS
LOOKUP = 2048
"""Tokens of earlier replies in which drafts are looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What steps read and write: int64 [S] each, but for the last four.

    token: the last one written, which the next step puts into the cache, at `position`; `rotary`: its rotary
    position; budget: how many more tokens may be written now; seed: below 0 means greedy; record [S, T + 3]:
    the tokens written, a place that nobody reads, their number, whether the last one ends the reply;
    history [S, H + 1]: LOOKUP tokens of earlier replies, then those written, and a place that nobody reads;
    allowed bool [S, V]; logprobs fp32 [S, T + 1]: the natural logarithm of the probability that the model
    itself, before temperature, noise and masks, gives each token written, and a place that nobody reads.
    """

    token: Tensor
    position: Tensor
    rotary: Tensor
    budget: Tensor
    seed: Tensor
    record: Tensor
    history: Tensor
    allowed: Tensor
    logprobs: Tensor

    @classmethod
    def of(cls, slots: int, max_new_tokens: int, vocab_size: int, device: torch.device) -> State:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        return cls(
            token=zeros(slots),
            position=zeros(slots),
            rotary=zeros(slots),
            budget=zeros(slots),
            seed=zeros(slots) - 1,
            record=zeros(slots, max_new_tokens + 3),
            history=zeros(slots, LOOKUP + max_new_tokens + 1) - 1,
            allowed=torch.ones(slots, vocab_size, dtype=torch.bool, device=device),
            logprobs=torch.zeros(slots, max_new_tokens + 1, device=device),
        )

    def parts(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def rows(self, slots: slice) -> State:
        return State(**{name: getattr(self, name)[slots] for name in self.__slots__})


class Published(NamedTuple):
    """What a slot has written, in memory of the host: `State.record` [T + 3] and `State.logprobs` [T + 1]."""

    record: Tensor
    logprobs: Tensor


class Slots:
    """All replies that one model writes at a time, on the stream that is current. One host thread uses it."""

    def __init__(
        self,
        step: TextStep,
        *,
        device: torch.device,
        eos_ids: tuple[int, ...],
        max_new_tokens: int,
        drafts: int | None = None,
        at_once: int = 1,
    ) -> None:
        """`drafts`: most drafted tokens of a step; None is DRAFTS on a GPU and none on a CPU, where each row
        costs its share. `at_once`: how many slots the first one brings with it; more are made when asked."""
        self.device = device
        self.max_new_tokens = max_new_tokens
        self.eos_ids = eos_ids
        self.steps = 0
        """Steps taken so far, in which every slot that had a budget wrote at least one token."""
        self.step = step
        self._drafts = (DRAFTS if device.type == "cuda" else 0) if drafts is None else min(drafts, DRAFTS)
        self._eos = torch.tensor(eos_ids, device=device)
        self._cache = step.empty_cache(0, 0)
        self._state = State.of(0, max_new_tokens, step.vocab_size, device)
        self._at_once = at_once
        self._expected = 0
        self._free: list[int] = []
        self._given_back: deque[int] = deque()
        self._steered: set[int] = set()
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}

    def expect(self, length: int) -> None:
        """The cache has so many positions from the first slot on. One that grows takes the old and the new
        memory at once, leaves the old to nobody but its stream, and has every graph captured again."""
        self._expected = length

    def take(self) -> int:
        """A slot that nobody else has; at most MAX_SLOTS."""
        self._clear()
        if not self._free:
            before = len(self._state.token)
            assert before < MAX_SLOTS, f"all of {MAX_SLOTS} slots are taken"
            slots = max(self._at_once, before + 1)
            self._resize(slots, max(self._cache.length, self._expected))
            self._free += range(before, slots)
        return self._free.pop(0)

    def give_back(self, slot: int) -> None:
        """What the slot still writes nobody sees. Any thread may call it, at any moment."""
        self._given_back.append(slot)

    @torch.inference_mode()
    def _clear(self) -> None:
        """Stops the slots that were given back."""
        while self._given_back:
            slot = self._given_back.popleft()
            self._steered.discard(slot)
            self._state.budget[slot] = 0
            self._state.position[slot] = 0
            self._free.append(slot)

    @torch.inference_mode()
    def admit(
        self,
        slot: int,
        prompt: Prefilled,
        *,
        budget: int,
        seed: int | None,
        allowed: Tensor | None,
        lookup: Sequence[int] = (),
    ) -> None:
        """Begins a reply: the prompt goes into the cache, and the first token is chosen from its logits.

        budget: how many tokens may be written, the first included. seed: None is greedy. allowed bool [V]:
        what the first token may be; with it each further token needs a `grant`. lookup: tokens of earlier
        replies, the likeliest last.
        """
        length = slot_length(prompt.length, self.max_new_tokens)
        self._resize(len(self._state.token), max(self._cache.length, length))
        cache, state = self._cache, self._state
        cache.begin(slot, prompt)
        state.record[slot].zero_()
        state.logprobs[slot].zero_()
        state.position[slot] = prompt.length - 1
        state.rotary[slot] = prompt.next_rotary - 1
        state.seed[slot] = -1 if seed is None else seed
        state.allowed[slot] = True
        known = torch.tensor(list(lookup)[-LOOKUP:], dtype=torch.int64)
        state.history[slot] = -1
        state.history[slot, LOOKUP - len(known) : LOOKUP].copy_(known, non_blocking=True)
        if seed is not None or allowed is not None:
            self._steered.add(slot)
        if allowed is None:
            state.budget[slot] = budget
        else:
            self.grant(slot, allowed)
        rows, nothing = state.rows(slice(slot, slot + 1)), state.token[:0].view(1, 0)
        choose(rows, prompt.logits[:, None], nothing, self._eos, steered=slot in self._steered)

    @torch.inference_mode()
    def grant(self, slot: int, allowed: Tensor) -> None:
        """The slot may write one more token, of those in `allowed` bool [V] (CPU)."""
        self._state.allowed[slot].copy_(allowed, non_blocking=True)
        self._state.budget[slot] = 1

    @torch.inference_mode()
    def advance(self, slot: int, steps: int) -> None:
        """Up to `steps` more tokens for `slot`; on a GPU for every slot that has a budget."""
        self._clear()
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
    def publish(self, slot: int) -> Published:
        """In pinned memory on a GPU, right once what is enqueued so far has run."""
        pinned = self.device.type == "cuda"

        def seen(part: Tensor) -> Tensor:
            copy = torch.empty_like(part, device="cpu", pin_memory=pinned)
            return copy.copy_(part, non_blocking=True)

        return Published(seen(self._state.record[slot]), seen(self._state.logprobs[slot]))

    def _advance(self, which: slice, *, steered: bool) -> None:
        """A step of some slots: the last token of each, and drafts of those that may follow."""
        state = self._state.rows(which)
        num_slots = len(state.token)
        width = 1 if steered else 1 + min(self._drafts, ROWS // num_slots - 1)
        drafts = drafted(state, width - 1)
        ahead = torch.arange(width, device=self.device)
        slots = torch.arange(len(self._state.token), device=self.device)[which]

        def rows(first: Tensor, step: Tensor) -> Tensor:
            return (first[:, None] + step).flatten()

        logits = self.step(
            torch.cat((state.token[:, None], drafts), dim=1).flatten(),
            rows(slots, ahead * 0),
            rows(state.position, ahead),
            rows(state.rotary, ahead),
            self._cache,
            width,
        )
        choose(state, logits.view(num_slots, width, -1), drafts, self._eos, steered=steered)

    def _graph(self, steered: bool) -> torch.cuda.CUDAGraph:
        """One step of all slots, captured at first use."""
        if steered not in self._graphs:
            budget = self._state.budget.clone()
            self._state.budget.zero_()  # nobody writes while kernels are compiled and the graph is captured
            try:
                with torch.cuda.device(self.device):
                    self._graphs[steered], _ = captured(partial(self._advance, slice(None), steered=steered))
            finally:
                self._state.budget.copy_(budget)
        return self._graphs[steered]

    @torch.inference_mode()
    def _resize(self, slots: int, length: int) -> None:
        """Room for so many slots, and for `length` positions in each; what was there goes over.

        Where the device has no room, everything stays as it was.
        """
        length = whole_steps(length)
        before, old = self._state, self._cache
        if len(before.token) == slots and old.length == length:
            return
        if self._graphs:
            torch.cuda.current_stream(self.device).synchronize()  # a graph that is dropped must be over
            self._graphs.clear()
        state = State.of(slots, self.max_new_tokens, self.step.vocab_size, self.device)
        cache = self.step.empty_cache(slots, length)
        new_parts, old_parts = (*state.parts(), *cache.parts()), (*before.parts(), *old.parts())
        for mine, theirs in zip(new_parts, old_parts, strict=True):
            mine[tuple(slice(size) for size in theirs.shape)].copy_(theirs)
        self._state, self._cache = state, cache


def whole_steps(length: int) -> int:
    """The positions that a cache has which must hold `length`."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def slot_length(prompt_tokens: int, max_new_tokens: int) -> int:
    """Positions of a slot that takes such a prompt."""
    return whole_steps(prompt_tokens + max_new_tokens + DRAFTS)


def drafted(state: State, count: int) -> Tensor:
    """[S, count]: what followed the last two tokens where they stand latest in the history; else anything."""
    history = state.history[:, :-1]
    if count == 0:
        return history[:, :0]
    end = LOOKUP + state.record[:, -2:-1]  # [S, 1]: behind the last token written
    last = history.gather(1, end - 1)
    before = history.gather(1, end - 2)
    place = torch.arange(history.shape[1] - 2, device=history.device)
    same = (history[:, :-2] == before) & (history[:, 1:-1] == last) & (place < end - 2)
    start = torch.where(same, place, -1).amax(dim=1, keepdim=True) + 2
    at = start + torch.arange(count, device=history.device)
    return history.gather(1, at.clamp_(max=history.shape[1] - 1)).clamp_(min=0)


def choose(state: State, logits: Tensor, drafts: Tensor, eos: Tensor, *, steered: bool) -> None:
    """The next tokens of each slot that has a budget, from logits [S, W, V] after its last token and after
    each draft [S, W - 1]; in place.

    As many drafts count as are what was chosen before them; the choice after the last of these counts too.
    """
    plain, total = logits, _log_total(logits)
    if steered:
        scores = logits[:, 0].float()
        noisy = scores / SAMPLING_TEMPERATURE + _gumbel(state.seed, state.record[:, -2], scores.shape[1])
        scores = torch.where((state.seed >= 0)[:, None], noisy, scores)
        logits = scores.masked_fill(~state.allowed, float("-inf"))[:, None]
    chosen = logits.argmax(-1)  # [S, W]
    ends = torch.isin(chosen, eos)
    right = F.pad((drafts == chosen[:, :-1]) & ~ends[:, :-1], (1, 0), value=True)
    right = right.long().cumprod(dim=1).bool()  # whether all before was right and did not end the reply
    ahead = torch.arange(chosen.shape[1], device=chosen.device)
    written = right & (ahead < state.budget[:, None])
    num = written.sum(dim=1)  # 0 without a budget
    count, ended = state.record[:, -2], state.record[:, -1]
    place = count[:, None] + ahead
    nobody = state.record.shape[1] - 3
    state.record.scatter_(1, torch.where(written, place, nobody), chosen)
    state.history.scatter_(1, torch.where(written, LOOKUP + place, LOOKUP + nobody), chosen)
    logprobs = plain.gather(-1, chosen[..., None])[..., 0].double() - total
    state.logprobs.scatter_(1, torch.where(written, place, nobody), logprobs.float())
    last = chosen.gather(1, (num - 1).clamp_(min=0)[:, None])[:, 0]
    state.token.copy_(torch.where(num > 0, last, state.token))
    state.position.add_(num)
    state.rotary.add_(num)
    count.add_(num)
    ended.bitwise_or_((written & ends).any(dim=1))
    state.budget.copy_((state.budget - num) * (1 - ended))


def _log_total(logits: Tensor) -> Tensor:
    """fp64 [S, W]: the logarithm of the sum of exp(logits) [S, W, V].

    Added up in fp64: the order of a sum depends on the number of rows, and what an order changes is then far
    below the fp32 that is kept. So a slot's log-probabilities do not depend on the others either.
    """
    scores = logits.float()
    most = scores.amax(-1, keepdim=True)
    return (scores - most).exp_().sum(-1, dtype=torch.float64).log_() + most[..., 0]


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
