"""Takes for training the critic, each with its benchmark score: the generator's own, and planted ones.

Most takes are the generator's, under every kind of prompt that a loop or its controls give it; the others are
the true scene's second take, time that runs wrong, and broken physics. Labels are Verified case scores, which
the engine may not see: so this lies here, and training only reads the shards. Batches are balanced over the
scores there. Killed, it goes on with the first shard that is missing.

    python -m bench.quality.critic_takes --generator G --critic C --out SHARDS --count 9600
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

from bench.quality.prompt_kinds import FILLER, SUFFIX, Asked, prompt_texts
from bench.quality.take_score import RealTakes, reduced, score_take
from engine.critics.qwen_vl.preprocess import PatchGeometry
from engine.demo.scenes import WIDE, WORLDS, all_kinds, make_scene
from engine.demo.scenes.base import SWITCH
from engine.demo.scenes.broken import Violation, break_scene
from engine.demo.scenes.seeds import TRAINING_PARTS
from engine.demo.training import prompts
from engine.demo.training.batch_sampler import (
    GUIDANCE_SCALE,
    NUM_INFERENCE_STEPS,
    generate_takes,
    load_generator,
)
from engine.demo.training.clips import (
    Block,
    ClipFactory,
    ClipRecord,
    Footage,
    describe_answer,
    view_of,
)
from engine.demo.training.critic_data import TakeShard, save_shard, window_tensor
from engine.demo.training.critic_rows import (
    PLANTS,
    PREFIX_INDICES,
    TAKE_INDICES,
    RowMaker,
    planted_indices,
)
from engine.types import Fault, Frames

SOURCES: Final = {"generated": 0.7, "broken": 0.15, "time": 0.1, "true": 0.05}
"""Where a take is from, and the share of it."""


@dataclass(frozen=True, slots=True)
class Judge:
    """What a take of one scene is scored against, and the take itself where it is planted."""

    takes: RealTakes
    source: str  # "generated", "true", "time: KIND" or "broken: VIOLATION"
    planted: Frames | None  # uint8 [40, S, S, 3]
    violation: Violation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeMaker:
    """Runs in the render workers: both takes of a scene, reduced, and its planted take by seed."""

    world: str

    def __call__(self, record: ClipRecord, frames: np.ndarray) -> Judge:
        scene, view = make_scene(record.seed, all_kinds(self.world)), view_of(record.seed)
        second = scene.render(2, view, frames.shape[1])
        rng = np.random.default_rng([record.seed, 15])
        source = str(rng.choice(list(SOURCES), p=list(SOURCES.values())))
        planted: Frames | None = None
        violation: Violation | None = None
        if source == "true":
            planted = second[SWITCH:]
        elif source == "broken":
            made = break_scene(scene, frames, view, rng)
            if made is not None:
                planted, violation = made[0][SWITCH:], made[1]
                source = f"broken: {violation.name}"
        elif source == "time":
            kind = PLANTS[int(rng.integers(len(PLANTS)))]
            chosen = frames[planted_indices(kind, rng)]
            planted = np.ascontiguousarray(chosen[:, :, ::-1] if kind == "mirror" else chosen)
            source = f"time: {kind}"
        takes = reduced(frames[SWITCH:]), reduced(second[SWITCH:])
        return Judge(takes, "generated" if planted is None else source, planted, violation)


def asked_prompt(record: ClipRecord, rng: np.random.Generator) -> tuple[str, Fault]:
    """As the loop's prompts are, and in a tenth of takes as a control's, whose fault is that clues lack."""
    if rng.random() < 0.9:
        return prompts.poor_prompt(record.brief, record.plan, record.wrong, rng)
    kind = FILLER if rng.random() < 0.5 else SUFFIX
    asked = Asked(brief=record.brief, plan=record.plan, group=record.kind)
    return prompt_texts(kind, [asked])[0], Fault.MISSING_CLUES


def shard_of(
    block: Block, maker: RowMaker, modules: Any, noise: torch.Generator, pool: ProcessPoolExecutor
) -> TakeShard:
    """One take a clip; `block.extras` are Judges."""
    rng = np.random.default_rng([block.records[0].seed, 8])
    asked = [asked_prompt(record, rng) for record in block.records]
    own = [place for place, judge in enumerate(block.extras) if judge.planted is None]
    made: dict[int, Frames] = {}
    if own:
        takes = generate_takes(
            modules, block.frames[own, :SWITCH].to(noise.device), [asked[place][0] for place in own],
            num_inference_steps=NUM_INFERENCE_STEPS, guidance_scale=GUIDANCE_SCALE, generator=noise,
        )  # fmt: skip
        made = dict(zip(own, takes.cpu().numpy(), strict=True))
    shown = [made.get(place, judge.planted) for place, judge in enumerate(block.extras)]
    tasks = [(judge.takes, frames) for judge, frames in zip(block.extras, shown, strict=True)]
    scores = list(pool.map(score_take, tasks, chunksize=4))
    last = block.frames[:, SWITCH - 1].numpy()
    seen = [describe_answer(frame, take) for frame, take in zip(last, shown, strict=True)]
    return TakeShard(
        prefixes=block.frames[:, PREFIX_INDICES].clone(),
        takes=torch.from_numpy(np.stack(shown)[:, TAKE_INDICES]),
        prefix_windows=window_tensor([record.prefix_windows for record in block.records]),
        take_windows=window_tensor(seen),
        rows=[
            maker.critique_row(record, text, windows, fault, score, judge.violation)
            for record, (text, fault), windows, score, judge in zip(
                block.records, asked, seen, scores, block.extras, strict=True
            )
        ],
        sources=[judge.source for judge in block.extras],
    )


def make_shards(options: argparse.Namespace, device: str) -> None:
    """Every shard of --count takes that is not there yet; numbers say which scenes they are of."""
    numbers = range(-(-options.count // options.block))
    missing = {number for number in numbers if not (options.out / f"{number:04d}.pt").exists()}
    config = AutoConfig.from_pretrained(options.critic, local_files_only=True)  # nosec B615 # a local folder
    tokenizer = AutoTokenizer.from_pretrained(options.critic, local_files_only=True)  # nosec B615
    maker = RowMaker(tokenizer, PatchGeometry.from_config(config, frame_px=options.size), options.size)
    options.out.mkdir(parents=True, exist_ok=True)
    if not missing:
        return
    factory = ClipFactory(
        num_workers=options.workers, first_seed=options.first_seed + min(missing) * options.block,
        block=options.block, num_slots=options.workers + 4, size_px=options.size,
        extra=JudgeMaker(world=options.world), footage=Footage(world=options.world),
    )  # fmt: skip
    modules = load_generator(options.generator, device)  # after the fork: workers inherit no device
    with ProcessPoolExecutor(
        options.workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        done: list[float] = []
        while missing:
            block = factory.take()  # in the order in which workers finish
            number = (block.records[0].seed - options.first_seed) // options.block
            if number not in missing:
                factory.release(block)
                continue
            missing.discard(number)
            noise = torch.Generator(device).manual_seed(number)
            shard = shard_of(block, maker, modules, noise, pool)
            factory.release(block)
            save_shard(options.out / f"{number:04d}.pt", shard)
            done += [row.score for row in shard.rows]
            accepted = float(np.mean([row.accepted for row in shard.rows]))
            print(f"shard {number}: mean {np.mean(done):.1f}, accepted {accepted:.2f}", flush=True)
    factory.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.critic_takes", description=__doc__)
    parser.add_argument("--generator", type=Path, required=True)
    parser.add_argument("--critic", type=Path, required=True, help="only its tokenizer and geometry are read")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--world", choices=tuple(WORLDS), default=WIDE)
    parser.add_argument("--count", type=int, default=9600, help="takes")
    parser.add_argument("--first-seed", type=int, default=TRAINING_PARTS["takes"].first)
    parser.add_argument("--block", type=int, default=60)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=max(1, len(os.sched_getaffinity(0)) // 2))
    options = parser.parse_args(arguments)
    torch.set_float32_matmul_precision("high")
    cv2.setNumThreads(1)  # each core has a worker, which is forked and inherits this
    make_shards(options, "cuda" if torch.cuda.is_available() else "cpu")
    return 0


if __name__ == "__main__":
    sys.exit(main())
