"""How many tokens a step writes with drafts, by replaying replies that a critic really wrote.

Drafts depend on what replies repeat of each other, so random weights say nothing of them. Here the plans and
critiques of run folders, in their order, are put through the slots' own drafting and choosing; the model's
choice is the token that was written. With the cost of a step from `bench.perf.vlm_decode` follows the rate,
which is added to its file.

    python -m bench.perf.draft_replay runs/demo-1 --critic engine/demo/models/critic \\
        --into bench/results/vlm_decode_h200.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.files import write_json
from engine.critics.qwen_vl import slots
from engine.critics.qwen_vl.critic import NUM_RECENT
from engine.critics.qwen_vl.slots import DRAFTS, LOOKUP
from engine.runs.store import RunStore


def replies_of(run: Path) -> Iterator[list[str]]:
    """The texts of each scenario's replies, plan first."""
    with RunStore.open(run, read_only=True) as store:
        for scenario in store.scenarios():
            history = store.history(scenario.id)
            plan = [] if history.plan is None else [history.plan.raw]
            judged = [attempt.critique for attempt in history.attempts if attempt.critique is not None]
            yield [*plan, *(critique.raw for critique in judged)]


def steps_of(lookup: Sequence[int], target: Sequence[int], *, drafts: int, vocab_size: int) -> int:
    """Steps in which the slots write `target` after its first token, which prefill chooses."""
    end = vocab_size  # a token of its own, so that the reply ends where it ended
    state = slots.State.of(1, len(target) + 1, vocab_size + 1, torch.device("cpu"))
    known = torch.tensor([*lookup][-LOOKUP:], dtype=torch.int64)
    state.history[0, LOOKUP - len(known) : LOOKUP] = known
    state.budget[0] = len(target) + 1
    whole = torch.tensor([*target, *[end] * (drafts + 2)])
    steps, width = -1, 1
    while int(state.budget[0]) > 0:
        drafted = slots.drafted(state, width - 1)
        count = int(state.record[0, -2])
        logits = F.one_hot(whole[count : count + width], vocab_size + 1)[None]
        slots.choose(state, logits, drafted, torch.tensor([end]), steered=False)
        steps, width = steps + 1, 1 + drafts
    assert state.record[0, : len(target)].tolist() == list(target), "drafts changed a reply"
    return steps


def replay(scenarios: Iterable[Sequence[Sequence[int]]], *, drafts: int, vocab_size: int) -> dict[str, float]:
    """Tokens, steps and their ratio over replies given as tokens, in the order in which they were written."""
    recent: deque[Sequence[int]] = deque(maxlen=NUM_RECENT)
    found = {"replies": 0, "tokens": 0, "steps": 0}
    for replies in scenarios:
        for reply in replies:
            lookup = [token for earlier in recent for token in earlier]
            found["steps"] += steps_of(lookup, reply, drafts=drafts, vocab_size=vocab_size)
            found["tokens"] += len(reply)
            found["replies"] += 1
            recent.append(reply)
    return {**found, "tokens_per_step": found["tokens"] / max(found["steps"], 1)}


def main(arguments: Sequence[str] | None = None) -> int:
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(
        prog="python -m bench.perf.draft_replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--critic", type=Path, required=True, help="the model folder that wrote the replies")
    parser.add_argument("--into", type=Path, help="a file of bench.perf.vlm_decode to add the rate to")
    options = parser.parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(options.critic, local_files_only=True)  # nosec B615 # a folder
    texts = [replies for run in options.runs for replies in replies_of(run)]
    tokens = [
        [tokenizer(reply, add_special_tokens=False)["input_ids"] for reply in replies] for replies in texts
    ]
    found = replay(tokens, drafts=DRAFTS, vocab_size=len(tokenizer))
    print(
        f"{found['replies']} replies, {found['tokens']} tokens, {found['steps']} steps: "
        f"{found['tokens_per_step']:.2f} tokens a step"
    )
    if options.into is not None:
        document: dict[str, Any] = json.loads(options.into.read_text(encoding="utf-8"))
        step_ms = document["variants"]["slots, nf4, 1"]["ms_per_drafted_step"]
        document["drafts"] = found | {"drafts": DRAFTS, "ms_per_step": step_ms}
        document["summary"]["tok_s_4bit_1_drafts"] = 1e3 * found["tokens_per_step"] / step_ms
        write_json(options.into, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
