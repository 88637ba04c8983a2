"""Measures how fast a critic decodes: the library's `generate` and our slots, side by side in one process.

Correctness first: greedy tokens and logits against the library's. Then tokens per second, warm, in turn, as
the difference between a long and a short answer to one prompt, so that prefill does not count. Random
weights: speed and memory only.

    python -m bench.perf.vlm_decode --out bench/results/vlm_decode_h200.json
    python -m bench.perf.vlm_decode --size tiny      # on a CPU: that it runs
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.files import write_json
from bench.perf import ceilings
from bench.perf.critic_shapes import SIZES, Size, as_inputs, build, config_of, prompts, quantize
from bench.perf.document import this_machine
from engine.critics.qwen_vl.decode import Decoding
from engine.critics.qwen_vl.footprint import kept_bytes
from engine.critics.qwen_vl.prefill import read_prompt
from engine.critics.qwen_vl.slots import DRAFTS, Slots
from engine.critics.qwen_vl.text_step import TextStep, groups
from engine.quant.four_bit import pack_linears
from engine.words import command_line
from kernels import timing
from kernels.linear import four_bit

Variants = dict[str, tuple[int, Callable[[int], object]]]
"""Name -> replies written at a time, call of a number of tokens."""
NO_END = (-1,)
"""No token ends an answer: all variants write as many."""
LIMIT = 256
GEMMS = ((4096, 6144), (4096, 4096), (4096, 24576), (12288, 4096), (4096, 12288))
"""K -> N of the linear layers of the 8B shape, merged; the last is what the aim names."""
ROWS = (1, 4, 8, 16)
COLD_BYTES = 250e6
"""Weights in turn are larger than any L2 cache, as in a model."""


def generate(model: Any, ids: Tensor, tokens: int, *, cache: str | None = None) -> Tensor:
    """[B, tokens] of the library, greedy; `cache`: the kind that it keeps, "static" compiles the step."""
    out: Tensor = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
        do_sample=False, cache_implementation=cache,
    )  # fmt: skip
    return out[:, ids.shape[1] :]


def decode(model: Any, slots: Slots, ids: Tensor, tokens: int) -> list[list[int]]:
    """The same by our slots, a slot for each prompt."""
    going = []
    for row in ids.cpu():
        going.append(Decoding(model, slots, as_inputs(row[None]), max_new_tokens=tokens, chunk_tokens=16))
        going[-1].prefill()
    while not all(decoding.finished for decoding in going):
        for decoding in going:
            if not decoding.finished:
                decoding.extend().wait()
    return [decoding.tokens() for decoding in going]


def seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(
    variants: Mapping[str, tuple[int, Callable[[int], object]]],
    tokens: int,
    rounds: int,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Name -> tokens per second of all its replies together, and of the prompt, median of the rounds."""
    few = 4
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, (_, call) in variants.items():
            short = seconds(partial(call, few), device)
            long = seconds(partial(call, few + tokens), device)
            if turn:  # the first one warms up: compilation, capture, autotuning
                times[name].append((long - short, short))
            print(f"  {name}: {(long - short) / tokens * 1e3:.2f} ms a token", flush=True)
    found = {}
    for name, (replies, _) in variants.items():
        per_token = statistics.median(decoding for decoding, _ in times[name]) / tokens
        found[name] = {
            "replies": replies,
            "n": rounds,
            "ms_per_step": 1e3 * per_token,
            "tokens_per_s": replies / per_token,
            "prompt_s": statistics.median(prompt for _, prompt in times[name]) / replies,
        }
    return found


def drafted_step_ms(model: Any, slots: Slots, ids: Tensor, rounds: int, device: torch.device) -> float:
    """A step of one reply with drafts: it takes as long whether they hold or not."""
    decoding = Decoding(model, slots, as_inputs(ids), max_new_tokens=LIMIT, chunk_tokens=16)
    decoding.prefill().wait()
    decoding.extend().wait()
    steps = 50
    times = [seconds(partial(slots.advance, 0, steps), device) for _ in range(rounds + 1)]
    return 1e3 * statistics.median(times[1:]) / steps


def agreement(model: Any, slots: Slots, ids: Tensor, tokens: int) -> dict[str, float]:
    """How far ours are the library's: equal leading tokens of the greedy answer, and logits.

    Logits are those after the prompt and one more token, which the step computes. With random weights many
    are nearly tied, so that the first rounding decides a token; hence the errors of both against the
    library's own forward in fp32, where the weights are floats.
    """
    expected = generate(model, ids[:1], tokens)[0].tolist()
    ours = decode(model, slots, ids[:1], tokens)[0]
    same = next((i for i, (a, b) in enumerate(zip(expected, ours, strict=True)) if a != b), tokens)
    whole = torch.cat((ids[:1], torch.tensor([expected[:1]], device=ids.device)), dim=1)
    library = model(input_ids=whole, logits_to_keep=1).logits[0, -1].float()
    step = step_logits(model, slots, ids[:1], expected[0]).float()
    found = {
        "equal_leading_tokens": same,
        "of_tokens": tokens,
        "logits_to_library": _error(step, library),
    }
    if all(parameter.is_floating_point() for parameter in model.parameters()):
        exact = copy.deepcopy(model).float()(input_ids=whole, logits_to_keep=1).logits[0, -1]
        found |= {"logits_to_fp32": _error(step, exact), "library_to_fp32": _error(library, exact)}
    return found


def _error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def step_logits(model: Any, slots: Slots, ids: Tensor, token: int) -> Tensor:
    """[V] of one step after the prompt, by the slots' own step on a cache of its own."""
    cache = slots.step.empty_cache(1, ids.shape[1] + 1)
    cache.begin(0, read_prompt(model, as_inputs(ids)))
    place = torch.tensor([ids.shape[1]], device=ids.device)
    return slots.step(torch.tensor([token], device=ids.device), place * 0, place, place, cache)[0]


def gemms(limit_gb_s: float) -> list[dict[str, Any]]:
    """The 4-bit GEMM against the library's bf16 GEMM and against reading its weights once."""
    rows = []
    for k, n in GEMMS:
        codes = torch.randint(0, 16, (n, k), dtype=torch.uint8, device="cuda")
        scales = torch.rand(n, k // 64, device="cuda") * 0.01 + 0.005
        one = four_bit.pack(codes, scales, torch.linspace(-1, 1, 16))
        num_bytes = one.tiles.numel()
        copies = [
            four_bit.FourBitWeight(one.tiles.clone(), one.table, one.unit)
            for _ in range(max(2, int(COLD_BYTES // num_bytes)))
        ]
        plain = [four_bit.dequantize(one).clone() for _ in range(3)]
        for m in ROWS:
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            ours = _graph_us([partial(four_bit.run, x, weight) for weight in copies])
            library = _graph_us([partial(nn.functional.linear, x, weight) for weight in plain])
            roofline = num_bytes / limit_gb_s / 1e3
            rows.append(
                {
                    "k": k, "n": n, "rows": m, "four_bit_us": ours, "bf16_us": library,
                    "roofline_us": roofline, "of_roofline": roofline / ours,
                }
            )  # fmt: skip
            print(f"  {k} -> {n}, {m} rows: {ours:.1f} us, bf16 {library:.1f}, roofline {roofline:.1f}")
    return rows


def _graph_us(calls: Sequence[Callable[[], object]], inner: int = 20) -> float:
    """Of one call, in a graph of `inner`, which takes them in turn."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(inner):
            calls[i % len(calls)]()
    return 1e3 * timing.summary(timing.time_gpu(graph.replay, repeats=15, warmup=3)).median / inner


def run(size: Size, device: torch.device, counts: list[int], rounds: int, limit: float) -> dict[str, Any]:
    """All variants of one shape; one set of weights lies in memory at a time."""
    found: dict[str, Any] = {}
    for weights in ("bf16", "nf4"):
        found |= _of_weights(weights, size, device, counts, rounds, limit)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found


@torch.inference_mode()
def _of_weights(
    weights: str, size: Size, device: torch.device, counts: list[int], rounds: int, limit: float
) -> dict[str, Any]:
    on_gpu, most = device.type == "cuda", max(counts)
    ids = prompts(size, most).to(device)
    model = build(size, device, torch.bfloat16 if on_gpu else torch.float32)
    if weights == "nf4":
        quantize(model)
    stock: Variants = {
        f"generate, {weights}": (1, partial(generate, model, ids[:1])),
        f"generate, {weights}, batch of {most}": (most, partial(generate, model, ids)),
    }
    if weights == "bf16" and on_gpu:
        static = partial(generate, model, ids[:1], cache="static")
        stock["generate, static cache, bf16"] = (1, static)
    found = measure(stock, min(size.tokens, 32), rounds, device)
    if weights == "nf4" and on_gpu:
        pack_linears(groups(model))  # the layers of bitsandbytes were measured before
    ours: Variants = {}
    step = TextStep(model)
    make = partial(Slots, step, device=device, eos_ids=NO_END, max_new_tokens=LIMIT)
    slots = [make(drafts=0) for _ in counts]  # with random weights drafts hold by chance
    for count, own in zip(counts, slots, strict=True):
        ours[f"slots, {weights}, {count}"] = (count, partial(decode, model, own, ids[:count]))
    own_found = measure(ours, size.tokens, rounds, device)
    num_bytes = weight_bytes(model)
    for row in own_found.values():
        roofline_ms = (num_bytes + row["replies"] * cache_bytes(size)) / limit / 1e6
        row |= {"roofline_ms": roofline_ms, "of_roofline": roofline_ms / row["ms_per_step"]}
    first = own_found[f"slots, {weights}, {counts[0]}"]
    first |= agreement(model, slots[0], ids, 32)
    first["ms_per_drafted_step"] = drafted_step_ms(model, make(drafts=DRAFTS), ids[:1], rounds, device)
    return found | own_found


def weight_bytes(model: Any) -> int:
    """What a step reads: all of the language model and the head; of the embeddings hardly anything."""
    text = model.model.language_model
    tensors = [*text.layers.parameters(), *text.layers.buffers(), *model.lm_head.parameters()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def cache_bytes(size: Size) -> int:
    """Of one reply behind its prompt, in bf16."""
    token, memories = kept_bytes(config_of(size).get_text_config(), 2)
    return token * size.prompt + memories


def summary(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The figures that the aims name."""
    wanted = {
        "tok_s_4bit_1": "slots, nf4, 1",
        "tok_s_4bit_8": "slots, nf4, 8",
        "tok_s_bf16_1": "slots, bf16, 1",
    }
    return {key: found[name]["tokens_per_s"] for key, name in wanted.items() if name in found}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.perf.vlm_decode",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="8b", help="shape of the critic")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 8], help="replies written at a time")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--out", type=Path, help="where the results go")
    options = parser.parse_args(arguments)
    size, on_gpu = SIZES[options.size], torch.cuda.is_available()
    limits = ceilings.measure()
    limit = 1e3 * limits.get("copy_tb_per_s", 0.02)
    table = gemms(limit) if on_gpu else []
    device = torch.device("cuda" if on_gpu else "cpu")
    found = run(size, device, options.slots, options.rounds, limit)
    for name, row in found.items():
        print(f"{name}: {row['tokens_per_s']:.0f} tokens/s, {row['ms_per_step']:.2f} ms a step")
    document = {
        "schema": 1,
        "kind": "vlm_decode",
        "command": command_line("python", "-m", "bench.perf.vlm_decode", "--size", options.size),
        "summary": summary(found),
        "prompt_tokens": size.prompt,
        "notes": ["random weights: speed and memory only", "prefill does not count in tokens per second"],
        "variants": found,
        "gemms": table,
        "ceilings": limits,
        "manifest": this_machine(),
    }
    if options.out is not None:
        write_json(options.out, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
