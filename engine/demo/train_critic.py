"""Trains the bundled critic on one GPU: `python -m engine.demo.train_critic --out DIR --generator DIR`.

First the vision tower learns places and amounts of motion by regression from its pooled tokens (otherwise the
language model learns the texts and ignores the video), then everything learns to write plans and critiques.
Judged by free-running generation only, with shuffled frames as the control that must fall to chance.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engine.critics._preprocess import PatchGeometry, patchify
from engine.demo import critic_text, prompts
from engine.demo.batch_sampler import generate_takes
from engine.demo.clips import Block, ClipFactory
from engine.demo.critic_data import CriticData, TakeMaker
from engine.demo.critic_model import batch_vision_attention, build_model, build_tokenizer, save_critic
from engine.demo.training import Average, Budget, Curve, make_optimizer, set_learning_rate
from engine.demo.windows import AMOUNTS, GRID
from engine.types import Fault

GROUP_PATCHES = 256


def vision_heads(width: int) -> nn.Linear:
    """One linear layer from a pooled group to the logits of amount, x and y."""
    return nn.Linear(width, len(AMOUNTS) + 2 * GRID)


def features(model: Any, frames: torch.Tensor, geometry: PatchGeometry) -> torch.Tensor:
    """Vision tokens averaged over each pair of frames: uint8 [B, T, S, S, 3] -> [B, T/2, hidden]."""
    pixels, grid = patchify(frames, geometry)
    output = model.model.visual(pixels.flatten(0, 1), grid.to(frames.device))
    return torch.as_tensor(
        output.pooler_output.unflatten(0, (len(frames), frames.shape[1] // 2, -1)).mean(dim=2)
    )


def vision_loss(heads: nn.Linear, pooled: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """Cross entropy of amount, and of x and y where something moves."""
    logits = heads(pooled).float()
    amount, x, y = logits.split([len(AMOUNTS), GRID, GRID], dim=-1)
    place = functional.cross_entropy(x.flatten(0, 1), windows[..., 1].flatten(), ignore_index=-1)
    place = place + functional.cross_entropy(y.flatten(0, 1), windows[..., 2].flatten(), ignore_index=-1)
    return functional.cross_entropy(amount.flatten(0, 1), windows[..., 0].flatten()) + place


def reply_loss(model: Any, batch: dict[str, torch.Tensor], geometry: PatchGeometry) -> torch.Tensor:
    """Cross entropy of the reply tokens of one batch of one task."""
    ids, labels = batch["ids"], batch["labels"]
    clips = [batch[key] for key in ("prefix", "take") if key in batch]
    pixels, grids = zip(*(patchify(clip, geometry) for clip in clips), strict=True)
    # the model takes clips in the order of the rows: row 0 prefix, row 0 take, row 1 prefix, ...
    values = torch.cat(pixels, dim=1).flatten(0, 1)
    grid = torch.stack(grids, dim=1).flatten(0, 1).to(ids.device)
    kinds = (ids == model.config.video_token_id).long() * 2
    positions, _ = model.model.get_rope_index(
        ids[:1], mm_token_type_ids=kinds[:1], video_grid_thw=grid[: len(clips)]
    )
    output = model.model(
        input_ids=ids, pixel_values_videos=values, video_grid_thw=grid, mm_token_type_ids=kinds,
        position_ids=positions.expand(-1, len(ids), -1), use_cache=False,
    )  # fmt: skip
    answers = int((labels != -100).any(dim=0).float().argmax())  # the first column with a reply token
    hidden = output.last_hidden_state[:, answers - 1 : -1]
    logits = model.lm_head(hidden).float()
    return functional.cross_entropy(logits.flatten(0, 1), labels[:, answers:].flatten(), ignore_index=-100)


def load_generator(folder: Path, device: str) -> TakeMaker:
    """The trained generator as a function that makes a block of takes."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import AutoTokenizer, UMT5EncoderModel

    settings = json.loads((folder / "retake.json").read_text())
    modules = (
        AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device).eval(),
        WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
        .to(device)
        .eval(),
        UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).to(device).eval(),
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
    )
    generator = torch.Generator(device).manual_seed(7)

    def make(prefixes: torch.Tensor, texts: list[str]) -> torch.Tensor:
        return generate_takes(
            modules, prefixes, texts, num_inference_steps=settings["num_inference_steps"],
            guidance_scale=settings["guidance_scale"], generator=generator,
        )  # fmt: skip

    return make


def train(arguments: argparse.Namespace, device: str) -> None:
    size_px, rng = arguments.size, np.random.default_rng(11)
    first_seed = 300_000 if arguments.resume is None else 600_000
    factory = ClipFactory(
        num_workers=arguments.workers, first_seed=first_seed, block=min(64, arguments.clips), size_px=size_px
    )
    make_takes = load_generator(arguments.generator, device) if arguments.generator else None
    blocks = [factory.take() for _ in range(max(1, min(12, arguments.clips // 64)))]
    model, tokenizer = build_or_resume(arguments, blocks, device)
    batch_vision_attention(model, GROUP_PATCHES * (size_px // 128) ** 2)
    geometry = PatchGeometry.from_config(model.config, frame_px=size_px)
    data = CriticData(tokenizer, geometry, device, size_px)
    for block in blocks:
        data.add(block, rng, make_takes)
        factory.release(block)

    def refill() -> None:
        if data.num_clips < arguments.clips and factory.ready():
            block = factory.take()
            data.add(block, rng, make_takes)
            factory.release(block)

    every = 100 if device == "cuda" else 2
    steps = {}
    if arguments.vision_seconds > 0:
        steps["vision"] = train_vision(
            model, data, geometry, refill, arguments, Curve("critic_vision", every), device
        )
    steps["reply"] = train_replies(
        model, data, geometry, refill, arguments, Curve("critic", every), rng, device
    )
    save_critic(model, tokenizer, arguments.out, size_px)
    factory.close()
    print(f"critic: {steps} steps, {data.num_clips} clips, {data.num_takes} takes", flush=True)


def build_or_resume(arguments: argparse.Namespace, blocks: list[Block], device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    if arguments.resume is not None:
        model = AutoModelForImageTextToText.from_pretrained(arguments.resume, dtype=torch.float32)
        return model.to(device), AutoTokenizer.from_pretrained(arguments.resume)
    tokenizer = build_tokenizer(tokenizer_texts(blocks))
    torch.manual_seed(0)
    return build_model(tokenizer).to(device), tokenizer


def tokenizer_texts(blocks: list[Block]) -> list[str]:
    """Prompts and replies of a few blocks: what the tokenizer should know."""
    rng, faults, texts = np.random.default_rng(5), list(Fault), []
    for block in blocks:
        for index, record in enumerate(block.records):
            other, fault = block.records[index - 1], faults[index % len(faults)]
            texts.append(prompts.poor_prompt(record.brief, record.plan, other.plan, rng)[0])
            texts.append(critic_text.plan_reply(record.prefix_windows, record.plan))
            texts.append(
                critic_text.critique_reply(other.answer_windows, record.answer_windows, record.plan, fault)
            )
    return texts


def train_vision(
    model: Any, data: CriticData, geometry: PatchGeometry, refill: Any, arguments: argparse.Namespace,
    curve: Curve, device: str,
) -> int:  # fmt: skip
    """Stage one: returns the number of steps."""
    heads = vision_heads(model.config.vision_config.out_hidden_size).to(device)
    optimizer, budget, step = make_optimizer([model.model.visual, heads]), Budget(arguments.vision_seconds), 0
    while not budget.over:
        refill()
        set_learning_rate(optimizer, 1e-3, step, 0.7 * budget.fraction)
        frames, windows = data.vision_batch(arguments.batch)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = vision_loss(heads, features(model, frames, geometry), windows)
        _descend(optimizer, loss, [*model.model.visual.parameters(), *heads.parameters()])
        curve.add(step, {"loss": loss})
        step += 1
    curve.save(arguments.out / "curves", {"steps": step, "batch": arguments.batch, "seconds": budget.seconds})
    return step


def train_replies(
    model: Any, data: CriticData, geometry: PatchGeometry, refill: Any, arguments: argparse.Namespace,
    curve: Curve, rng: np.random.Generator, device: str,
) -> int:  # fmt: skip
    """Stage two: everything learns to write; returns the number of steps."""
    optimizer, average = make_optimizer([model]), Average(model, 0.998)
    budget, step = Budget(arguments.seconds), 0
    while not budget.over:
        if step % 6 == 0:
            refill()
        set_learning_rate(optimizer, arguments.learning_rate, step, budget.fraction)
        task = "plan" if step % 3 == 0 else "critique"
        batch = data.batch(task, arguments.batch, rng)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = reply_loss(model, batch, geometry)
        _descend(optimizer, loss, list(model.parameters()))
        average.update()
        curve.add(step, {"loss": loss})
        step += 1
    average.apply()
    facts = {"steps": step, "batch": arguments.batch, "seconds": budget.seconds, "takes": data.num_takes}
    curve.save(arguments.out / "curves", facts)
    return step


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: list[nn.Parameter]) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--generator", type=Path, help="trained generator folder whose real takes are critiqued"
    )
    parser.add_argument("--resume", type=Path, help="continue from this critic folder")
    parser.add_argument("--vision-seconds", type=float, default=120.0)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--clips", type=int, default=16_000)
    parser.add_argument("--workers", type=int, default=max(1, len(os.sched_getaffinity(0)) - 2))
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    train(arguments, "cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    main()
