"""How many tokens a step writes with drafts, by replaying replies that a critic really wrote.

Drafts depend on what replies repeat of each other, so random weights say nothing of them. Here the plans and
critiques of run folders, in their order, are put through the slots' own drafting and choosing; the model's
choice is the token that was written. The same once more with the critiques as patches, which say the same.
With the cost of a step and of a prompt from `bench.perf.vlm_decode` follow the rate, and the seconds of a
critique in both forms, without its clips' encoding; they are added to its file.

    python -m bench.perf.draft_replay runs/demo-1 --critic engine/demo/models/critic \\
        --into bench/results/vlm_decode_h200.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.console import user_error
from bench.files import write_json
from bench.perf.critique_forms import Written, replies_of
from engine.critics.qwen_vl import slots
from engine.critics.qwen_vl.critic import NUM_RECENT
from engine.critics.qwen_vl.slots import DRAFTS, LOOKUP
from engine.errors import RetakeError
from engine.words import counted

FULL_TOKENS = 400
"""Of a full critique whose seconds are stated, as in bench.perf.end_to_end."""


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


def replay(scenarios: Iterable[Sequence[Sequence[int]]], *, drafts: int, vocab_size: int) -> list[list[int]]:
    """The steps of each reply; replies are given as tokens, in the order in which they were written."""
    recent: deque[Sequence[int]] = deque(maxlen=NUM_RECENT)
    found: list[list[int]] = []
    for replies in scenarios:
        found.append([])
        for reply in replies:
            lookup = [token for earlier in recent for token in earlier]
            found[-1].append(steps_of(lookup, reply, drafts=drafts, vocab_size=vocab_size))
            recent.append(reply)
    return found


def totals(tokens: Iterable[int], steps: Iterable[int]) -> dict[str, float]:
    """Of some replies: tokens, steps and their ratio."""
    lengths, counts = list(tokens), list(steps)
    found = {"replies": len(lengths), "tokens": sum(lengths), "steps": sum(counts)}
    return {**found, "tokens_per_step": sum(lengths) / max(sum(counts), 1)}


def measure(scenarios: Sequence[Sequence[Written]], tokenizer: Any) -> dict[str, dict[str, float]]:
    """Totals of all replies and of the critiques alone, under "all" and "critiques"."""
    tokens = [
        [tokenizer(reply.text, add_special_tokens=False)["input_ids"] for reply in replies]
        for replies in scenarios
    ]
    steps = replay(tokens, drafts=DRAFTS, vocab_size=len(tokenizer))
    rows = [
        (reply.is_critique, len(ids), count)
        for found in zip(scenarios, tokens, steps, strict=True)
        for reply, ids, count in zip(*found, strict=True)
    ]
    judged = [row for row in rows if row[0]]
    return {
        name: totals((row[1] for row in some), (row[2] for row in some))
        for name, some in (("all", rows), ("critiques", judged))
    }


def add_to(
    document: dict[str, Any], full: Mapping[str, dict[str, float]], patch: Mapping[str, dict[str, float]]
) -> None:
    """Rates and seconds into a document of bench.perf.vlm_decode.

    A critique takes its prompt and FULL_TOKENS, as a patch the share of these that real ones take.
    """
    decoding = document["variants"]["slots, nf4, 1"]
    step_ms, prompt_s = decoding["ms_per_drafted_step"], decoding["prompt_s"]
    document["drafts"] = {
        **full["all"], "drafts": DRAFTS, "ms_per_step": step_ms,
        "full_critiques": full["critiques"], "patch_critiques": patch["critiques"],
    }  # fmt: skip
    summary = document["summary"]
    summary["tok_s_4bit_1_drafts"] = 1e3 * full["all"]["tokens_per_step"] / step_ms
    for name, form in (("critique_full_s", full), ("critique_patch_s", patch)):
        steps = FULL_TOKENS * form["critiques"]["steps"] / full["critiques"]["tokens"]
        summary[name] = prompt_s + steps * step_ms / 1e3


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
    try:
        written = [replies for run in options.runs for replies in replies_of(run)]
    except RetakeError as error:
        return user_error(error)
    patches = [[reply.as_patch() for reply in replies] for replies in written]
    full, patch = (measure(replies, tokenizer) for replies in (written, patches))
    for form, some in (("in full", full), ("as patches, which merge to the same plans", patch)):
        for name, found in some.items():
            nouns = {"replies": "reply", "tokens": "token", "steps": "step"}
            told = ", ".join(counted(int(found[key]), noun) for key, noun in nouns.items())
            print(f"{name}, {form}: {told}: {found['tokens_per_step']:.2f} tokens a step")
    if options.into is not None:
        document: dict[str, Any] = json.loads(options.into.read_text(encoding="utf-8"))
        add_to(document, full, patch)
        write_json(options.into, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
