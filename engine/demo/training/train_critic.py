"""Trains the bundled critic: `python -m engine.demo.training.train_critic --out DIR [--takes SHARDS]`.

First the vision tower learns places and amounts of motion from its pooled tokens (otherwise the language
model learns the texts and ignores the video), then everything learns to write plans and critiques, with the
first task kept beside. Teacher-forced loss proves nothing here: judge by `retake demo --measure`.
"""

from __future__ import annotations

import argparse
import os
from itertools import filterfalse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from engine.critics.qwen_vl.preprocess import PatchGeometry
from engine.demo.scenes import DEFAULT_WORLD, WIDE, WORLDS, all_kinds, make_scene
from engine.demo.scenes.seeds import TRAINING_PARTS
from engine.demo.training import checkpoint, critic_check, critic_text, prompts
from engine.demo.training.checkpoint import Progress, Trained
from engine.demo.training.clips import ClipFactory, Footage
from engine.demo.training.critic_check import CriticCheck, is_checked
from engine.demo.training.critic_data import CriticData
from engine.demo.training.critic_losses import CriticLosses
from engine.demo.training.critic_model import (
    GROUP_PATCHES,
    build_model,
    build_tokenizer,
    fit_for_training,
    save_critic,
)
from engine.demo.training.critic_rows import RowMaker
from engine.demo.training.schedule import Average, Budget, Curve, make_optimizer
from engine.demo.training.step import TrainingStep
from engine.demo.training.train_dit import load_tokenizer
from engine.demo.training.windows import AMOUNTS, GRID, Window
from engine.errors import ModelError
from engine.types import Fault


def tokenizer_texts(count: int, world: str = DEFAULT_WORLD) -> list[str]:
    """Prompts and replies of `count` scenes, with windows drawn at random: what the tokenizer should know."""
    kinds, faults, texts = all_kinds(world), list(Fault), []
    for seed in range(count):
        scene, rng = make_scene(seed, kinds), np.random.default_rng([seed, 9])
        brief, plan = scene.kind.describe(scene.params, scene.kind.simulate(scene.params))
        one, other = _random_windows(rng), _random_windows(rng)
        texts.append(prompts.poor_prompt(brief, plan, plan, rng)[0])
        texts.append(critic_text.plan_reply(one[:6], plan))
        texts.append(critic_text.critique_reply(one, other, plan, faults[seed % len(faults)]))
    return texts


def _random_windows(rng: np.random.Generator) -> list[Window]:
    return [
        Window(int(amount), int(x), int(y)) if amount else Window(0, -1, -1)
        for amount, x, y in rng.integers(0, (len(AMOUNTS), GRID, GRID), size=(8, 3))
    ]


def train_stage(
    losses: CriticLosses,
    data: CriticData,
    refill: Any,
    curve: Curve,
    arguments: argparse.Namespace,
    *,
    vision: bool,
    trained: Trained | None = None,
    before: Progress | None = None,
) -> dict[str, Any]:
    """One stage of `arguments.vision_seconds` or `arguments.seconds`; returns its facts.

    The second keeps the averages of `trained`, and its learning rate goes on from `before`.
    """
    device, batch_size = data.device, arguments.batch
    parts = [losses.model.model.visual, losses.heads] if vision else [losses]
    optimizer = make_optimizer(parts)

    def step_of(task: Any) -> TrainingStep:
        return TrainingStep(task, parts, device=device, optimizer=optimizer)

    judge = step_of(losses.vision_losses if vision else losses.reply_losses)
    plan = step_of(losses.reply_losses)  # rows of another length, so that its graph is another
    budget, step = Budget(arguments.vision_seconds if vision else arguments.seconds), 0
    past = 0.0 if before is None else before.seconds
    while not budget.over:
        if step % 8 == 0:
            refill()
        done = budget.fraction * 0.6 if vision else part_done(budget, past, arguments)
        judge.set_rate(arguments.learning_rate, step, done)  # of the optimizer, which both steps share
        planning = not vision and step % arguments.plan_every == 0
        if vision:
            batch = data.vision_batch(batch_size)
        else:
            batch = data.plan_batch(batch_size) if planning else data.critique_batch(batch_size)
        curve.add(step, (plan if planning else judge)(*losses.inputs(batch)))
        if trained is not None:
            for average in trained.averages.values():
                average.update()
        step += 1
        if step == 2:  # compilation and captures are over: the budget counts training
            budget.start()
    facts = {"steps": step, "batch": batch_size, "seconds": budget.seconds, "takes": data.num_takes}
    curve.save(arguments.out / "curves", facts)
    return facts


def part_done(budget: Budget, past: float, arguments: argparse.Namespace) -> float:
    """How far the whole training is, 0 to 1."""
    total = arguments.total_seconds or arguments.seconds
    return min((past + budget.fraction * float(arguments.seconds)) / float(total), 1.0)


def make_refill(data: CriticData, factory: ClipFactory, shards: Path | None) -> Any:
    """A function that takes in at most one rendered block and one shard of takes, without waiting."""
    seen: set[Path] = set()

    def refill() -> None:
        if not data.full and factory.ready():
            block = factory.take()
            data.add(block)
            factory.release(block)
        if shards is not None and data.num_sharded < data.take_capacity:
            fresh = sorted(set(filterfalse(is_checked, shards.rglob("*.pt"))) - seen)[:1]
            for path in fresh:
                seen.add(path)
                data.add_shard(path)

    return refill


def load_start(folder: Path) -> tuple[Any, Any]:
    """(tokenizer, model) of a saved critic, fp32 on the CPU."""
    from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

    model = Qwen3VLForConditionalGeneration.from_pretrained(  # nosec B615 # a local folder
        folder, dtype=torch.float32, local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)  # nosec B615 # the same
    return tokenizer, model


def begin(arguments: argparse.Namespace, progress: Progress | None) -> tuple[Any, Any]:
    """(tokenizer, model) to train, on the CPU: new, of --start, or with the tokenizer of the last stage."""
    if progress is not None:
        tokenizer = load_tokenizer(arguments.state)
        return tokenizer, build_model(tokenizer)
    if arguments.start is not None:
        return load_start(arguments.start)
    tokenizer = build_tokenizer(tokenizer_texts(arguments.tokenizer_scenes, arguments.world))
    return tokenizer, build_model(tokenizer)


def with_averages(losses: CriticLosses) -> Trained:
    """The model and, without an average that anything reads, the heads of the side task."""
    modules = {"critic": losses.model, "heads": losses.heads}
    return Trained(modules, {name: Average(module, 0.998) for name, module in modules.items()})


def make_factory(
    arguments: argparse.Namespace, tokenizer: Any, model: Any, progress: Progress | None
) -> ClipFactory:
    """Scenes of this stage's own, with their rows."""
    first = {WIDE: TRAINING_PARTS["critic"].first}.get(arguments.world, 300_000)
    first = first if arguments.first_seed is None else arguments.first_seed
    first = first if progress is None else progress.next_seed
    geometry = PatchGeometry.from_config(model.config, frame_px=arguments.size)
    block = min(60 if arguments.world == WIDE else 64, arguments.clips)
    return ClipFactory(
        num_workers=arguments.workers, first_seed=first, block=block, size_px=arguments.size,
        extra=RowMaker(
            tokenizer, geometry, arguments.size, first_seed=first, block=block,
            judged=rendered_takes_are_judged(arguments, progress),
        ),
        footage=Footage(world=arguments.world),
    )  # fmt: skip


def rendered_takes_are_judged(arguments: argparse.Namespace, progress: Progress | None) -> bool:
    """Scored takes come in shards; the vision tower's stage, the first, looks at rendered ones."""
    return not arguments.scored or progress is None


def check_factory(arguments: argparse.Namespace, tokenizer: Any, model: Any) -> ClipFactory:
    """Scenes at the end of the critic's part, which no stage comes to."""
    part = TRAINING_PARTS["critic"]
    count = min(critic_check.NUM_CLIPS, arguments.clips)
    geometry = PatchGeometry.from_config(model.config, frame_px=arguments.size)
    return ClipFactory(
        num_workers=1, first_seed=part.first + part.count - count, block=count, size_px=arguments.size,
        num_slots=1, extra=RowMaker(tokenizer, geometry, arguments.size, judged=False),
        footage=Footage(world=arguments.world),
    )  # fmt: skip


def prepare(model: Any, device: str) -> None:
    """Move the model and make its layers fast: one call for all groups, compiled on a GPU."""
    model.to(device)
    fit_for_training(model, GROUP_PATCHES)
    if device == "cuda":
        torch._dynamo.config.recompile_limit = 16  # three shapes in two kinds of layers
        for layer in (*model.model.visual.blocks, *model.model.language_model.layers):
            layer.compile(dynamic=False)


def train(arguments: argparse.Namespace, device: str) -> None:
    torch.manual_seed(0)
    settings = {name: str(getattr(arguments, name)) for name in ("world", "scored", "batch", "size")}
    progress = None if arguments.state is None else checkpoint.read_progress(arguments.state)
    checkpoint.require_settings(progress, settings)
    tokenizer, model = begin(arguments, progress)
    save_critic(model, tokenizer, arguments.out, arguments.size)  # takes are made with tokenizer and geometry
    factory = make_factory(arguments, tokenizer, model, progress)
    unseen = check_factory(arguments, tokenizer, model)
    prepare(model, device)
    losses = CriticLosses(model, PatchGeometry.from_config(model.config, frame_px=arguments.size)).to(device)
    trained = with_averages(losses)
    before = progress or Progress(seconds=0.0, steps=0, stages=0, next_seed=0, settings={})
    if progress is not None:
        checkpoint.load(arguments.state, trained)
    data = CriticData(
        arguments.clips // factory.block * factory.block, device, arguments.size, scored=arguments.scored,
        take_capacity=arguments.take_capacity, judged=rendered_takes_are_judged(arguments, progress),
        augment=arguments.augment,
    )  # fmt: skip
    refill = make_refill(data, factory, arguments.takes)
    for _ in range(min(16, arguments.clips // factory.block)):
        first = factory.take()
        data.add(first)
        factory.release(first)
    every, facts = 100 if device == "cuda" else 2, {}
    if before.stages == 0:
        curve = Curve("critic_vision", every)
        facts["vision"] = train_stage(losses, data, refill, curve, arguments, vision=True)
    check = CriticCheck(unseen, device, arguments.size, arguments.batch)
    for _ in range(0 if arguments.takes is None else len(list(arguments.takes.rglob("*.pt")))):
        refill()  # those of the stage before, at once
    while arguments.scored and data.num_sharded < min(256, arguments.clips):
        refill()  # scored takes come from another process
    curve = Curve(f"critic{before.stages + 1}" if arguments.state else "critic", every)
    facts["critic"] = train_stage(
        losses, data, refill, curve, arguments, vision=False, trained=trained, before=before
    )
    after = Progress(
        seconds=before.seconds + arguments.seconds, steps=before.steps + facts["critic"]["steps"],
        stages=before.stages + 1, next_seed=factory.next_seed, settings=settings,
    )  # fmt: skip
    factory.close()
    finish(trained, tokenizer, arguments, after)
    facts["unseen"] = check.losses(losses, arguments.takes)
    rows = (data.plan_rows, data.critique_rows, data.generated_rows)
    print(f"critic: {facts}", [(r.count, r.dropped) for r in rows], flush=True)


def finish(trained: Trained, tokenizer: Any, arguments: argparse.Namespace, after: Progress) -> None:
    """Keep the state where one is kept, and save the folder of the averaged weights."""
    if arguments.state is not None:
        tokenizer.save_pretrained(arguments.state / "tokenizer")
        checkpoint.save(arguments.state, trained, after)
    trained.averages["critic"].apply()
    save_critic(trained.modules["critic"], tokenizer, arguments.out, arguments.size)


def assemble_state(arguments: argparse.Namespace) -> None:
    """Save what a state holds as a critic's folder; needs no GPU. ModelError for an empty one."""
    if checkpoint.read_progress(arguments.state) is None:
        raise ModelError(f"{arguments.state} holds no training", fix="give the --state folder of a stage")
    tokenizer = load_tokenizer(arguments.state)
    model = build_model(tokenizer)
    losses = CriticLosses(model, PatchGeometry.from_config(model.config, frame_px=arguments.size))
    trained = with_averages(losses)
    checkpoint.load(arguments.state, trained)
    trained.averages["critic"].apply()
    save_critic(model, tokenizer, arguments.out, arguments.size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--takes", type=Path, help="folder in which shards of takes appear while this trains")
    parser.add_argument("--world", choices=tuple(WORLDS), default=DEFAULT_WORLD)
    parser.add_argument(
        "--scored",
        action="store_true",
        help="judge those takes alone, which have scores",
    )
    parser.add_argument("--state", type=Path, help="folder with the state of the training, to end and go on")
    parser.add_argument("--total-seconds", type=float, help="of all stages with this --state; default: one")
    parser.add_argument("--assemble", action="store_true", help="only make the folder of a --state")
    parser.add_argument("--start", type=Path, help="continue this critic folder instead of a fresh one")
    parser.add_argument("--first-seed", type=int, help="of the first stage")
    parser.add_argument("--vision-seconds", type=float, default=120.0)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--plan-every", type=int, default=3, help="every how many steps are of plans")
    parser.add_argument("--clips", type=int, default=12_800)
    parser.add_argument("--take-capacity", type=int, help="takes in shards; default: as many as clips")
    parser.add_argument(
        "--augment", action="store_true", help="move and brighten each clip a little, anew in each batch"
    )
    parser.add_argument("--tokenizer-scenes", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=max(1, len(os.sched_getaffinity(0)) - 2))
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    cv2.setNumThreads(1)  # each core has a render worker, which is forked and inherits this
    if arguments.assemble:
        assemble_state(arguments)
        return
    train(arguments, "cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    main()
