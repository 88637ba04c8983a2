"""Trains the bundled critic: `python -m engine.demo.training.train_critic --out DIR [--takes SHARDS]`.

First the vision tower learns places and amounts of motion from its pooled tokens (otherwise the language
model learns the texts and ignores the video), then everything learns to write plans and critiques, with the
first task kept beside. Teacher-forced loss proves nothing here: judge by `retake demo --measure`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engine.critics.qwen_vl.preprocess import PatchGeometry, patchify
from engine.demo.scenes import all_kinds, make_scene
from engine.demo.training import critic_text, prompts
from engine.demo.training.clips import ClipFactory
from engine.demo.training.critic_data import CriticData
from engine.demo.training.critic_model import (
    GROUP_PATCHES,
    batch_vision_attention,
    build_model,
    build_tokenizer,
    save_critic,
)
from engine.demo.training.critic_rows import RowMaker
from engine.demo.training.schedule import Average, Budget, Curve, make_optimizer, set_learning_rate
from engine.demo.training.windows import AMOUNTS, GRID, Window
from engine.types import Fault

VISION_WEIGHT = 0.1  # of the side task in the second stage


def tokenizer_texts(count: int) -> list[str]:
    """Prompts and replies of `count` scenes, with windows drawn at random: what the tokenizer should know."""
    kinds, faults, texts = all_kinds(), list(Fault), []
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


class CriticLosses(nn.Module):
    """The two losses over one model; knows the fixed layout of each task, so nothing waits for the device."""

    def __init__(self, model: Any, geometry: PatchGeometry) -> None:
        super().__init__()
        self.model, self.geometry = model, geometry
        self.heads = nn.Linear(model.config.vision_config.out_hidden_size, len(AMOUNTS) + 2 * GRID)
        self._positions: dict[int, torch.Tensor] = {}

    def see(self, frames: torch.Tensor) -> Any:
        """The vision tower's output for uint8 frames [B, T, S, S, 3] of one clip or two in a row."""
        pixels, grid = patchify(frames, self.geometry)
        return self.model.model.visual(pixels.flatten(0, 1), grid.to(frames.device))

    def vision_loss(self, output: Any, windows: torch.Tensor) -> torch.Tensor:
        """Cross entropy of amount, and of x and y where something moves; windows int64 [B, G, 3]."""
        pooled = output.pooler_output.unflatten(0, (*windows.shape[:2], -1)).mean(dim=2)
        amount, x, y = self.heads(pooled).float().split([len(AMOUNTS), GRID, GRID], dim=-1)
        place = functional.cross_entropy(x.flatten(0, 1), windows[..., 1].flatten(), ignore_index=-1)
        place = place + functional.cross_entropy(y.flatten(0, 1), windows[..., 2].flatten(), ignore_index=-1)
        return functional.cross_entropy(amount.flatten(0, 1), windows[..., 0].flatten()) + place

    def reply_loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy of the reply tokens, and the vision loss, of one batch of one task."""
        ids, labels, core = batch["ids"], batch["labels"], self.model.model
        output = self.see(batch["frames"])
        shown = ids == self.model.config.video_token_id
        embeds = core.language_model.embed_tokens(ids)
        features = output.pooler_output.to(embeds.dtype)
        hidden = core.language_model(
            inputs_embeds=embeds.masked_scatter(shown[..., None], features),
            position_ids=self._position_ids(ids[:1], shown[:1]).expand(-1, len(ids), -1),
            visual_pos_masks=shown,
            deepstack_visual_embeds=[d.to(embeds.dtype) for d in output.deepstack_features],
            use_cache=False,
        ).last_hidden_state
        logits = self.model.lm_head(hidden[:, :-1]).float()
        reply = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return reply, self.vision_loss(output, batch["windows"])

    def _position_ids(self, ids: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """[3, 1, L], computed once per task: the places of the clips are the same in all rows."""
        length = ids.shape[1]
        if length not in self._positions:
            side = int(GROUP_PATCHES**0.5)
            groups = int(shown.sum()) * 4 // GROUP_PATCHES
            counts = [6] if groups == 6 else [6, groups - 6]
            grid = torch.tensor([[count, side, side] for count in counts], device=ids.device)
            positions, _ = self.model.model.get_rope_index(
                ids, mm_token_type_ids=shown.long() * 2, video_grid_thw=grid
            )
            self._positions[length] = positions
        return self._positions[length]


def train_stage(
    losses: CriticLosses,
    data: CriticData,
    refill: Any,
    curve: Curve,
    arguments: argparse.Namespace,
    *,
    vision: bool,
) -> dict[str, Any]:
    """One stage of `arguments.vision_seconds` or `arguments.seconds`; returns its facts."""
    device, batch_size = data.device, arguments.batch
    parts = [losses.model.model.visual, losses.heads] if vision else [losses]
    parameters = [p for part in parts for p in part.parameters()]
    optimizer, average = make_optimizer(parts), Average(losses.model, 0.998)
    budget, step = Budget(arguments.vision_seconds if vision else arguments.seconds), 0
    while not budget.over:
        if step % 8 == 0:
            refill()
        set_learning_rate(
            optimizer, arguments.learning_rate, step, budget.fraction * (0.6 if vision else 1.0)
        )
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            if vision:
                batch = data.vision_batch(batch_size)
                parts_of_loss = {"vision": losses.vision_loss(losses.see(batch["frames"]), batch["windows"])}
                loss = parts_of_loss["vision"]
            else:
                plan = step % 3 == 0
                batch = data.plan_batch(batch_size) if plan else data.critique_batch(batch_size)
                reply, side = losses.reply_loss(batch)
                parts_of_loss = {"reply": reply, "vision": side}
                loss = reply + VISION_WEIGHT * side
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if not vision:
            average.update()
        curve.add(step, parts_of_loss)
        step += 1
    if not vision:
        average.apply()
    facts = {"steps": step, "batch": batch_size, "seconds": budget.seconds, "takes": data.num_takes}
    curve.save(arguments.out / "curves", facts)
    return facts


def make_refill(data: CriticData, factory: ClipFactory, shards: Path | None) -> Any:
    """A function that takes in at most one rendered block and one shard of takes, without waiting."""
    seen: set[Path] = set()

    def refill() -> None:
        if not data.full and factory.ready():
            block = factory.take()
            data.add(block)
            factory.release(block)
        if shards is not None and data.generated_rows.count < data.capacity:
            fresh = sorted(set(shards.rglob("*.pt")) - seen)[:1]
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


def train(arguments: argparse.Namespace, device: str) -> None:
    torch.manual_seed(0)
    if arguments.start is None:
        tokenizer = build_tokenizer(tokenizer_texts(arguments.tokenizer_scenes))
        model: Any = build_model(tokenizer)
    else:
        tokenizer, model = load_start(arguments.start)
    save_critic(model, tokenizer, arguments.out, arguments.size)  # make_takes reads tokenizer and geometry
    geometry = PatchGeometry.from_config(model.config, frame_px=arguments.size)
    block = min(64, arguments.clips)
    factory = ClipFactory(
        num_workers=arguments.workers,
        first_seed=arguments.first_seed,
        block=block,
        size_px=arguments.size,
        extra=RowMaker(tokenizer, geometry, arguments.size, first_seed=arguments.first_seed, block=block),
    )
    model.to(device)
    batch_vision_attention(model, GROUP_PATCHES)
    if device == "cuda":
        torch._dynamo.config.recompile_limit = 16  # three shapes in two kinds of layers
        for layer in (*model.model.visual.blocks, *model.model.language_model.layers):
            layer.compile(dynamic=False)
    losses = CriticLosses(model, geometry).to(device)
    data = CriticData(arguments.clips // block * block, device, arguments.size)
    refill = make_refill(data, factory, arguments.takes)
    for _ in range(min(16, arguments.clips // block)):
        first = factory.take()
        data.add(first)
        factory.release(first)
    every = 100 if device == "cuda" else 2
    facts = {}
    for stage, vision in (("critic_vision", True), ("critic", False)):
        facts[stage] = train_stage(losses, data, refill, Curve(stage, every), arguments, vision=vision)
    save_critic(model, tokenizer, arguments.out, arguments.size)
    factory.close()
    rows = (data.plan_rows, data.critique_rows, data.generated_rows)
    print(f"critic: {facts}", [(r.count, r.dropped) for r in rows], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--takes", type=Path, help="folder in which make_takes writes shards of generated takes"
    )
    parser.add_argument("--start", type=Path, help="continue this critic folder instead of a fresh one")
    parser.add_argument("--first-seed", type=int, default=300_000)
    parser.add_argument("--vision-seconds", type=float, default=120.0)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--clips", type=int, default=12_800)
    parser.add_argument("--tokenizer-scenes", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=max(1, len(os.sched_getaffinity(0)) - 2))
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    train(arguments, "cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    main()
