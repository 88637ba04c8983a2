"""Real takes of the trained generator under complete and poor prompts, as shards for training the critic.

`python -m engine.demo.training.make_takes --generator DIR --critic DIR --out SHARDS`. The critic folder only
gives the tokenizer and patch geometry. Runs beside the critic's training, which picks the shards up as they
appear.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

from engine.critics.qwen_vl.preprocess import PatchGeometry
from engine.demo.scenes import DEFAULT_WORLD, WORLDS
from engine.demo.scenes.base import SWITCH
from engine.demo.training import prompts
from engine.demo.training.batch_sampler import (
    GUIDANCE_SCALE,
    NUM_INFERENCE_STEPS,
    generate_takes,
    load_generator,
)
from engine.demo.training.clips import Block, ClipFactory, Footage, describe_answer
from engine.demo.training.critic_data import TakeShard, save_shard, window_tensor
from engine.demo.training.critic_rows import PREFIX_INDICES, TAKE_INDICES, RowMaker


def shard_of(block: Block, maker: RowMaker, modules: Any, generator: torch.Generator) -> TakeShard:
    """One take per clip, each under a prompt of `prompts.poor_prompt`."""
    rng = np.random.default_rng([block.records[0].seed, 8])
    asked = [prompts.poor_prompt(r.brief, r.plan, r.wrong, rng) for r in block.records]
    prefixes = block.frames[:, :SWITCH].to(generator.device)
    takes = generate_takes(
        modules,
        prefixes,
        [text for text, _ in asked],
        num_inference_steps=NUM_INFERENCE_STEPS,
        guidance_scale=GUIDANCE_SCALE,
        generator=generator,
    ).cpu()
    last = block.frames[:, SWITCH - 1].numpy()
    seen = [describe_answer(last[i], takes[i].numpy()) for i in range(len(takes))]
    rows = [
        maker.critique_row(record, text, windows, fault)
        for record, (text, fault), windows in zip(block.records, asked, seen, strict=True)
    ]
    return TakeShard(
        prefixes=block.frames[:, PREFIX_INDICES].clone(),
        takes=takes[:, TAKE_INDICES].clone(),
        prefix_windows=window_tensor([r.prefix_windows for r in block.records]),
        take_windows=window_tensor(seen),
        rows=rows,
        sources=["generated"] * len(rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", type=Path, required=True)
    parser.add_argument("--critic", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--world", choices=tuple(WORLDS), default=DEFAULT_WORLD)
    parser.add_argument("--count", type=int, default=6000, help="takes")
    parser.add_argument("--first-seed", type=int, default=600_000)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--workers", type=int, default=max(1, len(os.sched_getaffinity(0)) - 2))
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    factory = ClipFactory(
        num_workers=arguments.workers,
        first_seed=arguments.first_seed,
        block=arguments.block,
        footage=Footage(world=arguments.world),
    )
    config = AutoConfig.from_pretrained(arguments.critic, local_files_only=True)  # nosec B615 # a local folder
    tokenizer = AutoTokenizer.from_pretrained(arguments.critic, local_files_only=True)  # nosec B615
    maker = RowMaker(tokenizer, PatchGeometry.from_config(config, frame_px=128), 128)
    modules, generator = load_generator(arguments.generator, device), torch.Generator(device).manual_seed(7)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for number in range(-(-arguments.count // arguments.block)):
        block = factory.take()
        save_shard(arguments.out / f"{number:04d}.pt", shard_of(block, maker, modules, generator))
        factory.release(block)
    factory.close()


if __name__ == "__main__":
    main()
