"""The critic reads a prompt: the library's forward, its keys and values moved into a slot, the first token.

The token is compared with the library's before it is timed; on a CPU a tiny model.
"""

from __future__ import annotations

import pytest
import torch

from bench.perf.benchmark_tools import DEVICE, Benchmark, measure, need, sizes
from bench.perf.critic_steps import WEIGHTS, Critic, critic, expected_logits, missing, prompt
from engine.critics.qwen_vl.decode import Decoding
from engine.critics.qwen_vl.slots import Slots

NO_END = (-1,)


def decoding(of: Critic, slots: Slots) -> Decoding:
    ids = prompt(of).cpu()
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    return Decoding(of.model, slots, inputs, max_new_tokens=1, chunk_tokens=1)


def flops(of: Critic) -> float:
    """Of the linear layers and attention of one prompt."""
    text, tokens = of.size.text, of.size.prompt
    hidden, heads, size = text["hidden_size"], text["num_attention_heads"], text["head_dim"]
    kv = text["num_key_value_heads"]
    layer = hidden * (2 * heads + 2 * kv) * size + 3 * hidden * text["intermediate_size"]
    causal = tokens * heads * size  # two products over half of the pairs
    return float(2 * text["num_hidden_layers"] * tokens * (layer + causal))


@sizes("8b")
@pytest.mark.parametrize("weights", WEIGHTS)
def test_prefill(benchmark: Benchmark, weights: str, size: str) -> None:
    need(weights, missing(weights))
    of = critic(weights, size)
    slots = Slots(of.step, device=DEVICE, eos_ids=NO_END, max_new_tokens=1, drafts=0)
    one = decoding(of, slots)
    one.prefill().wait()
    assert one.finished and one.tokens() == [int(expected_logits(of).argmax())], "not the library's token"
    del one  # gives the slot back
    measure(
        benchmark,
        lambda: decoding(of, slots).prefill(),
        group=f"prefill {size}, {of.size.prompt} tokens",
        flops=flops(of),
    )
    benchmark.extra_info["tokens_per_s"] = 1e3 * of.size.prompt / benchmark.extra_info["device_ms"]["median"]
