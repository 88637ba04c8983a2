"""The critic of the pytest-benchmark suites: its language model in the shape of 8B, and steps of decoding.

Random weights, made once for the suites that follow one another. R replies written at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bench.perf.benchmark_tools import DEVICE, DTYPE, HAS_GPU, TINY
from bench.perf.critic_shapes import SIZES, Size, as_inputs, build, prompts, quantize
from engine.critics.qwen_vl.prefill import read_prompt
from engine.critics.qwen_vl.text_step import TextStep, groups
from engine.machine.graphs import captured
from engine.quant.four_bit import pack_linears

SIZE_OF = {"8b": SIZES["8b"], TINY: SIZES["tiny"]}
WEIGHTS = ("bf16", "nf4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Critic:
    """`model` is the library's, whose weights `step` shares."""

    model: Any
    step: TextStep
    size: Size


def missing(weights: str) -> str | None:
    """Why weights of that kind cannot be made here."""
    if weights == "nf4" and find_spec("bitsandbytes") is None:
        return "the package bitsandbytes is not installed"
    return None


@functools.lru_cache(maxsize=1)
def critic(weights: str, size: str) -> Critic:
    """One lies in memory at a time. On a CPU weights are fp32, and NF4 layers the library's."""
    model = build(SIZE_OF[size], DEVICE, DTYPE if HAS_GPU else torch.float32)
    if weights == "nf4":
        quantize(model)
        if HAS_GPU:
            pack_linears(groups(model))
    return Critic(model=model, step=TextStep(model), size=SIZE_OF[size])


def prompt(of: Critic) -> Tensor:
    """int64 [1, L]."""
    return prompts(of.size, 1).to(DEVICE)


def decode_step(of: Critic, replies: int) -> tuple[Callable[[], Any], Tensor]:
    """A step of `replies` replies behind the same prompt, and its logits [R, V], right after each call.

    On a GPU a CUDA graph, as the critic's.
    """
    ids = prompt(of)
    length = ids.shape[1]
    cache, read = of.step.empty_cache(replies, length), read_prompt(of.model, as_inputs(ids[:, :-1]))
    for slot in range(replies):
        cache.begin(slot, read)
    slots = torch.arange(replies, device=DEVICE)
    place = torch.full_like(slots, length - 1)
    call = partial(of.step, ids[0, -1].expand(replies).contiguous(), slots, place, place, cache)
    if HAS_GPU:
        graph, logits = captured(call)
        graph.replay()
        return graph.replay, logits
    logits = call()

    def again() -> None:
        logits.copy_(call())

    return again, logits


def expected_logits(of: Critic) -> Tensor:
    """[V] after the prompt, by the library."""
    found: Tensor = of.model(input_ids=prompt(of), logits_to_keep=1).logits[0, -1]
    return found
