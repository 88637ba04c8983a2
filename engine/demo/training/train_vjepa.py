"""Trains the bundled V-JEPA 2 (transformers' VJEPA2Model, about 3 M parameters) on clips of the scenes.

Two phases. "learn" is V-JEPA (arXiv 2404.08471, 2506.09985): L1 between predicted and EMA-encoded tokens
under future and block masks. "settle" then freezes the averaged encoder for context and target alike, as the
selector will use it, and trains the predictor on futures only. Ends with AUCs on planted violations.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing as mp
import os
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engine.demo.scenes import DEFAULT_WORLD, WORLDS, all_kinds, make_scene
from engine.demo.scenes.base import FPS, NUM_FRAMES, SWITCH, Scene
from engine.demo.scenes.canvas import VIEWS
from engine.demo.scenes.seeds import CHECK, TRAINING_PARTS
from engine.demo.training.clips import ClipFactory, Footage
from engine.demo.training.schedule import Budget, Curve, make_optimizer, set_learning_rate
from engine.demo.training.train_vae import FrameBank, save_half
from engine.selectors._vjepa_model import (
    CONTEXT_FRAMES,
    WINDOW_FRAMES,
    normalised,
    surprise,
    to_pixels,
    window_starts,
)

PATCH_PX: Final = 16
TUBELET_FRAMES: Final = 2
IMAGE_MEAN: Final = (0.485, 0.456, 0.406)  # what V-JEPA 2 checkpoints use
IMAGE_STD: Final = (0.229, 0.224, 0.225)
FIRST_SEED: Final = TRAINING_PARTS["surprise"].first
CHECK_SEED: Final = CHECK.first
MOMENTUM: Final = 0.996  # of the target encoder, rising to 1
BLOCK_SHARE: Final = 0.25  # of the tokens are context under a block mask
LONG_CONTEXT_EVERY: Final = 4  # every fourth future mask shows 12 frames, not 8
SETTLE_SHARE: Final = 0.25  # of the time
CHECK_SECONDS: Final = 25.0  # left for the check and for saving
PEAK_RATE: Final = 1e-3
JUMP_PX_SHARE: Final = 0.2  # of the picture's width
JUMP_FRAME: Final = SWITCH + 12
VIOLATIONS: Final = ("backwards", "frozen", "jumped", "other scene")


def build_vjepa(size_px: int) -> Any:
    from transformers import VJEPA2Config, VJEPA2Model

    return VJEPA2Model(
        VJEPA2Config(
            patch_size=PATCH_PX, tubelet_size=TUBELET_FRAMES, crop_size=size_px,
            frames_per_clip=WINDOW_FRAMES,
            hidden_size=192, num_attention_heads=3, num_hidden_layers=6, mlp_ratio=3.0,
            pred_hidden_size=96, pred_num_attention_heads=3, pred_num_hidden_layers=4, pred_num_mask_tokens=2,
        )
    )  # fmt: skip


def encode(encoder: Any, pixels: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Features [B, N, D] of pixels [B, W, 3, H, W]; with `ids` [B, N] the encoder sees those tokens only.

    The patches go through one matrix product instead of the library's slow strided convolution.
    """
    weight = encoder.embeddings.patch_embeddings.proj.weight  # [D, 3, t, p, p]
    batch, frames, channels, height, width = pixels.shape
    cut = pixels.view(
        batch, frames // TUBELET_FRAMES, TUBELET_FRAMES, channels, height // PATCH_PX, PATCH_PX,
        width // PATCH_PX, PATCH_PX,
    )  # fmt: skip
    patches = cut.permute(0, 1, 4, 6, 3, 2, 5, 7).reshape(batch, -1, weight[0].numel())
    if ids is not None:
        patches = patches.gather(1, ids[..., None].expand(-1, -1, patches.shape[-1]))
    hidden = functional.linear(patches, weight.flatten(1), encoder.embeddings.patch_embeddings.proj.bias)
    for layer in encoder.layer:
        hidden = layer(hidden, ids)[0]
    features: torch.Tensor = encoder.layernorm(hidden)
    return features


def predict(
    predictor: Any, context: torch.Tensor, context_ids: torch.Tensor, target_ids: torch.Tensor
) -> torch.Tensor:
    """Predicted features [B, targets, D] from context [B, N, D], which holds the tokens `context_ids` only.

    The library's own forward gathers its context from a fully encoded clip, which would show it the targets.
    """
    known = predictor.embeddings.predictor_embeddings(context)
    mask_token = predictor.embeddings.mask_tokens[1, 0]  # the one that the library uses for a single mask
    asked = mask_token.to(known.dtype).expand(len(known), target_ids.shape[1], -1)
    hidden, ids = torch.cat([known, asked], dim=1), torch.cat([context_ids, target_ids], dim=1)
    for layer in predictor.layer:
        hidden = layer(hidden, ids)[0]
    predicted: torch.Tensor = predictor.proj(predictor.layernorm(hidden[:, known.shape[1] :]))
    return predicted


def future_ids(
    batch: int, num_context: int, num_tokens: int, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Context and target ids of a future mask: the first `num_context` tokens, and the rest."""
    ids = torch.arange(num_tokens, device=device).expand(batch, -1)
    return ids[:, :num_context], ids[:, num_context:]


def block_ids(batch: int, depth: int, side: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Context and target ids of block masks, half of them tubes.

    The context is where smooth noise is highest: its shape varies, its number of tokens does not.
    """
    places, num_context = side * side, round(BLOCK_SHARE * side * side) * depth
    noise = torch.rand(batch, 1, 3, 4, 4, device=device)
    smooth = functional.interpolate(noise, size=(depth, side, side), mode="trilinear", align_corners=True)
    blocks = smooth.flatten(1).argsort(dim=1, descending=True)
    best = smooth[:, 0, 0].flatten(1).argsort(dim=1, descending=True)  # [B, places]
    times = torch.arange(depth, device=device) * places
    tubes = (best[:, :, None] + times).flatten(1)  # all times of the best place, then of the next
    order = torch.where(torch.arange(batch, device=device)[:, None] % 2 == 0, tubes, blocks)
    return order[:, :num_context], order[:, num_context:]


class Trainer:
    """Model, target encoder and data of one run; `learn` and `settle` are the two phases."""

    def __init__(self, bank: FrameBank, *, size_px: int, batch: int, device: str, compiled: bool) -> None:
        self.bank, self.batch, self.device = bank, batch, device
        self.model = build_vjepa(size_px).to(device).train()
        self.target = copy.deepcopy(self.model.encoder).requires_grad_(False)
        self.depth, self.side = WINDOW_FRAMES // TUBELET_FRAMES, size_px // PATCH_PX
        self.mean, self.std = (torch.tensor(values, device=device) for values in (IMAGE_MEAN, IMAGE_STD))
        every = 50 if device == "cuda" else 2
        self.curves = Curve("vjepa", every), Curve("vjepa_settle", every)
        if compiled:
            torch._dynamo.config.recompile_limit = 64  # a handful of token counts, with and without gradient
            for layer in (*self.model.encoder.layer, *self.model.predictor.layer, *self.target.layer):
                layer.compile(dynamic=False)

    def pixels(self) -> torch.Tensor:
        self.bank.refill()
        return to_pixels(self.bank.crops(self.batch, WINDOW_FRAMES), self.mean, self.std)

    def future_loss(
        self, encoder: Any, pixels: torch.Tensor, wanted: torch.Tensor, frames: int
    ) -> torch.Tensor:
        """L1 of the tokens after the first `frames` frames, which alone are encoded."""
        per_step = self.side**2
        num_context = frames // TUBELET_FRAMES * per_step
        known, asked = future_ids(len(pixels), num_context, self.depth * per_step, self.device)
        with torch.set_grad_enabled(encoder is not self.target):
            context = encode(encoder, pixels[:, :frames])
        return functional.l1_loss(
            predict(self.model.predictor, context, known, asked).float(), wanted[:, num_context:]
        )

    def block_loss(self, pixels: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        known, asked = block_ids(len(pixels), self.depth, self.side, self.device)
        predicted = predict(self.model.predictor, encode(self.model.encoder, pixels, known), known, asked)
        picked = wanted.gather(1, asked[..., None].expand(-1, -1, wanted.shape[-1]))
        return functional.l1_loss(predicted.float(), picked)

    def learn(self, seconds: float) -> int:
        """V-JEPA for `seconds`; returns the number of steps."""
        optimizer, step = make_optimizer([self.model], 0.04), 0
        online, averaged = list(self.model.encoder.parameters()), list(self.target.parameters())
        budget = Budget(seconds)
        while not budget.over:
            fraction = budget.fraction
            set_learning_rate(optimizer, PEAK_RATE, step, fraction)
            frames = 12 if step % LONG_CONTEXT_EVERY == LONG_CONTEXT_EVERY - 1 else CONTEXT_FRAMES
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                pixels = self.pixels()
                with torch.no_grad():
                    wanted = normalised(encode(self.target, pixels))
                future = self.future_loss(self.model.encoder, pixels, wanted, frames)
                block = self.block_loss(pixels, wanted)
            self.update(optimizer, future + block)
            with torch.no_grad():
                torch._foreach_lerp_(averaged, online, (1.0 - MOMENTUM) * (1.0 - fraction))
            losses = {"future": future, "block": block}
            self.curves[0].add(step, {**losses, **spread(wanted, self.side)})
            step += 1
        return step

    def settle(self, seconds: float) -> int:
        """The predictor alone, on futures, from the frozen target encoder; returns the number of steps."""
        self.model.encoder.load_state_dict(self.target.state_dict())
        optimizer, step = make_optimizer([self.model.predictor], 0.04), 0
        budget = Budget(seconds)
        while not budget.over:
            set_learning_rate(optimizer, PEAK_RATE / 2, step, budget.fraction)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                pixels = self.pixels()
                with torch.no_grad():
                    wanted = normalised(encode(self.target, pixels))
                future = self.future_loss(self.target, pixels, wanted, CONTEXT_FRAMES)
            self.update(optimizer, future)
            self.curves[1].add(step, {"future": future})
            step += 1
        return step

    def update(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()


def spread(wanted: torch.Tensor, side: int) -> dict[str, torch.Tensor]:
    """Signs of collapse in targets [B, N, D]: near 0 when all tokens, or all times, look the same."""
    over_time = wanted.unflatten(1, (-1, side * side)).diff(dim=1)
    return {"std": wanted.flatten(0, 1).std(dim=0).mean(), "change": over_time.abs().mean()}


def planted(frames: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    """Frames [T, H, W, 3] with each violation in the answer; `other` shows another scene of the kind."""
    prefix, answer = frames[:SWITCH], frames[SWITCH:]
    still = np.median(frames, axis=0).astype(np.int16)  # what moves differs from it
    shift = round(JUMP_PX_SHARE * frames.shape[2])
    moved = np.roll(frames[JUMP_FRAME:].astype(np.int16) - still, shift, axis=2) + still
    answers = {
        "backwards": answer[::-1],
        "frozen": np.repeat(prefix[-1:], len(answer), axis=0),
        "jumped": np.concatenate([frames[SWITCH:JUMP_FRAME], moved.clip(0, 255).astype(np.uint8)]),
        "other scene": other[SWITCH:],
    }
    assert answers.keys() == set(VIOLATIONS)
    return {name: np.concatenate([prefix, changed]) for name, changed in answers.items()}


def check_clips(task: tuple[int, int, str]) -> np.ndarray:
    """The truth of a held-out scene, then one clip for each violation: uint8 [1 + V, T, H, W, 3]."""
    seed, size_px, world = task
    torch.set_num_threads(1)
    scene = make_scene(seed, all_kinds(world))
    view = VIEWS[int(np.random.default_rng([seed, 3]).integers(len(VIEWS)))]
    other = Scene(scene.kind, seed, scene.kind.sample(np.random.default_rng([seed, 5])))
    frames = scene.render(1, view, size_px)
    changed = planted(frames, other.render(1, view, size_px))
    return np.stack([frames, *(changed[name] for name in VIOLATIONS)])


def auc(truth: np.ndarray, violated: np.ndarray) -> float:
    """Probability that a violation surprises more than a truth, over all pairs; ties count half."""
    difference = violated[:, None] - truth[None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def check(model: Any, clips: list[np.ndarray], device: str) -> dict[str, Any]:
    """Surprise of truths and violations: AUC over all scenes, and the share of scenes told apart."""
    mean, std = (torch.tensor(values, device=device) for values in (IMAGE_MEAN, IMAGE_STD))
    starts = torch.tensor(window_starts(NUM_FRAMES, SWITCH))
    index = starts[:, None] + torch.arange(WINDOW_FRAMES)
    rows = []
    for versions in clips:  # [1 + V, T, H, W, 3]
        windows = torch.from_numpy(versions)[:, index].flatten(0, 1).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            found = surprise(model, to_pixels(windows, mean, std))
        rows.append(found.view(len(versions), -1).mean(dim=1))
    values = torch.stack(rows).cpu().numpy()  # [scenes, 1 + V]
    truth = values[:, 0]
    result: dict[str, Any] = {"scenes": len(values), "surprise": {"truth": float(truth.mean())}}
    result |= {"auc": {}, "paired": {}}
    for column, name in enumerate(VIOLATIONS, start=1):
        result["surprise"][name] = float(values[:, column].mean())
        result["auc"][name] = auc(truth, values[:, column])
        result["paired"][name] = float(np.mean(values[:, column] > truth))
    return result


def save(model: Any, folder: Path, size_px: int) -> None:
    """An fp16 folder in the layout of published V-JEPA 2 checkpoints; "fps" is the rate of its clips."""
    save_half(model, folder)
    preprocessor = {
        "video_processor_type": "VJEPA2VideoProcessor",
        "crop_size": {"height": size_px, "width": size_px},
        "size": {"height": size_px, "width": size_px},
        "do_center_crop": False,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "fps": FPS,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "rescale_factor": 1 / 255,
    }
    (folder / "video_preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="gets vjepa/ and curves/vjepa.json")
    parser.add_argument("--world", choices=tuple(WORLDS), default=DEFAULT_WORLD)
    parser.add_argument("--seconds", type=float, default=520.0, help="for everything after the imports")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--clips", type=int, default=12_800)
    parser.add_argument("--workers", type=int, default=max(1, len(os.sched_getaffinity(0)) - 2))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--check-scenes", type=int, default=104)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    arguments = parser.parse_args()
    began = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    block = min(64, arguments.clips)
    factory = ClipFactory(
        num_workers=arguments.workers, first_seed=FIRST_SEED, block=block, size_px=arguments.size,
        footage=Footage(world=arguments.world),
    )  # fmt: skip
    checked_on = range(CHECK_SEED, CHECK_SEED + arguments.check_scenes)
    seeds = [(seed, arguments.size, arguments.world) for seed in checked_on]
    with mp.get_context("fork").Pool(min(4, arguments.workers)) as pool:
        held_out = pool.map_async(check_clips, seeds)
        bank = FrameBank(factory, arguments.clips, (NUM_FRAMES, arguments.size, arguments.size, 3), device)
        bank.refill(wait=True)
        trainer = Trainer(
            bank, size_px=arguments.size, batch=arguments.batch, device=device, compiled=arguments.compile
        )
        parameters = sum(p.numel() for p in trainer.model.parameters())
        print(f"vjepa: {parameters / 1e6:.2f} M parameters on {device}", flush=True)
        left = max(arguments.seconds - (time.perf_counter() - began) - CHECK_SECONDS, 1.0)
        learned = trainer.learn(left * (1.0 - SETTLE_SHARE))
        settled = trainer.settle(left * SETTLE_SHARE)
        clips = held_out.get()
    factory.close()
    plain = build_vjepa(arguments.size)  # without the compiled layers, whose shapes the check does not have
    plain.load_state_dict(trainer.model.state_dict())
    checked = check(plain.to(device).eval(), clips, device)
    facts = {
        "parameters": parameters, "seconds": left, "batch": arguments.batch, "clips": bank.count,
        "learn_steps": learned, "settle_steps": settled, "check": checked,
    }  # fmt: skip
    save(plain, arguments.out / "vjepa", arguments.size)
    for curve in trainer.curves:
        curve.save(arguments.out / "curves", facts)
    rate = (learned + settled) / left
    print(f"vjepa: {learned} + {settled} steps of {arguments.batch}, {rate:.1f} steps/s, {bank.count} clips")
    print(json.dumps(checked, indent=1), flush=True)


if __name__ == "__main__":
    main()
