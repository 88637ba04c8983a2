"""Trains the bundled generator on one GPU: `python -m engine.demo.training.train_generator --out DIR`.

Two stages, autoencoder then transformer, each bounded by seconds; `--stage` runs one on the other's result.
Writes a diffusers folder (WanImageToVideoPipeline layout, expand_timesteps), curves and contact sheets.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from engine.demo.scenes import all_kinds, make_scene
from engine.demo.scenes.base import FPS, HELD_OUT_SEED0, NUM_ANSWER_FRAMES, NUM_PREFIX_FRAMES, SWITCH
from engine.demo.training import prompts
from engine.demo.training.batch_sampler import (
    GUIDANCE_SCALE,
    NUM_INFERENCE_STEPS,
    generate_takes,
    make_scheduler,
)
from engine.demo.training.clips import ClipFactory, describe_answer
from engine.demo.training.train_dit import train_dit
from engine.demo.training.train_vae import load_vae, train_vae
from engine.demo.training.windows import agreement_score

CHECK_SEED0 = HELD_OUT_SEED0 + 500_000  # looked at while training; the published measurement uses other seeds


def write_folder(out: Path, size_px: int) -> None:
    """model_index.json, scheduler and the retake.json sidecar next to the trained components."""
    make_scheduler().save_pretrained(out / "scheduler")
    index = {
        "_class_name": "WanImageToVideoPipeline",
        "_diffusers_version": "0.42.1",
        "expand_timesteps": True,
        "image_encoder": [None, None],
        "image_processor": [None, None],
        "transformer_2": [None, None],
        "boundary_ratio": None,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    sidecar = {
        "fps": FPS, "width": size_px, "height": size_px, "prefix_frames": NUM_PREFIX_FRAMES,
        "num_frames": NUM_ANSWER_FRAMES, "num_inference_steps": NUM_INFERENCE_STEPS,
        "guidance_scale": GUIDANCE_SCALE, "negative_prompt": "",
        "clip_prompts": True,
    }  # fmt: skip
    (out / "retake.json").write_text(json.dumps(sidecar, indent=2) + "\n")


def check(modules: tuple[Any, Any, Any, Any], out: Path, *, per_kind: int, device: str, size_px: int) -> None:
    """Takes of held-out scenes under brief and complete prompts at some guidance scales: table, sheets."""
    kinds = all_kinds()
    scenes = [make_scene(CHECK_SEED0 + i, kinds) for i in range(per_kind * len(kinds))]
    clips = np.stack([scene.render(1, "center", size_px) for scene in scenes])
    prefixes = torch.from_numpy(clips[:, :SWITCH]).to(device)
    texts = {
        "brief": [scene.brief for scene in scenes],
        "complete": [prompts.complete(scene.brief, scene.truth) for scene in scenes],
    }
    truth = [describe_answer(clip[SWITCH - 1], clip[SWITCH:]) for clip in clips]
    rows = []
    for name, prompt_texts in texts.items():
        for guidance in (1.0, 2.5, 4.0):
            generator = torch.Generator(device).manual_seed(1)
            takes = generate_takes(
                modules, prefixes, prompt_texts, num_inference_steps=NUM_INFERENCE_STEPS,
                guidance_scale=guidance, generator=generator,
            ).cpu().numpy()  # fmt: skip
            scores = [
                agreement_score(describe_answer(clip[SWITCH - 1], take), expected)
                for clip, take, expected in zip(clips, takes, truth, strict=True)
            ]
            rms = float(np.sqrt(np.mean((takes.astype(np.float32) - clips[:, SWITCH:]) ** 2)))
            by_kind = {kind.name: float(np.mean(scores[i :: len(kinds)])) for i, kind in enumerate(kinds)}
            rows.append(
                {
                    "prompt": name,
                    "guidance": guidance,
                    "agreement": float(np.mean(scores)),
                    "rms": rms,
                    "kinds": by_kind,
                }
            )
            print(
                f"check {name} guidance {guidance}: agreement {np.mean(scores):.1f} rms {rms:.2f}", flush=True
            )
            if guidance == GUIDANCE_SCALE:
                write_sheet(out / "curves" / f"check_{name}.png", clips, takes, len(kinds))
    (out / "curves" / "check.json").write_text(json.dumps(rows, indent=1))


def write_sheet(path: Path, clips: np.ndarray, takes: np.ndarray, count: int) -> None:
    """One row pair per kind: truth above, take below, every fifth answer frame."""
    rows = []
    for clip, take in zip(clips[:count], takes[:count], strict=True):
        rows.append(np.concatenate(list(clip[SWITCH - 1 :: 5]), axis=1))
        rows.append(np.concatenate([clip[SWITCH - 1], *take[4::5]], axis=1)[:, : rows[-1].shape[1]])
    width = min(row.shape[1] for row in rows)
    sheet = np.concatenate([row[:, :width] for row in rows], axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray(sheet[..., ::-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", choices=("all", "vae", "dit", "decoder"), default="all")
    parser.add_argument("--dit-from", type=Path, help="continue the transformer from this folder")
    parser.add_argument(
        "--new-text", action="store_true", help="with --dit-from: new tokenizer and text encoder"
    )
    parser.add_argument("--vae-from", type=Path, help="continue the autoencoder from this folder")
    parser.add_argument("--vae-seconds", type=float, default=420.0)
    parser.add_argument("--dit-seconds", type=float, default=900.0)
    parser.add_argument("--vae-batch", type=int, default=48)
    parser.add_argument("--dit-batch", type=int, default=64)
    parser.add_argument(
        "--clips", type=int, default=40_000, help="clips for the transformer; the autoencoder uses a fifth"
    )
    parser.add_argument("--workers", type=int, default=max(1, len(os.sched_getaffinity(0)) - 2))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--check-per-kind", type=int, default=8)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    block = 64 if arguments.clips >= 64 else arguments.clips
    first_seed = {"dit": 100_000, "decoder": 200_000}.get(arguments.stage, 0)
    if arguments.dit_from is not None:
        first_seed = 700_000
    factory = ClipFactory(
        num_workers=arguments.workers, first_seed=first_seed, block=block, size_px=arguments.size
    )
    if arguments.stage in ("all", "vae", "decoder"):
        vae = train_vae(
            factory, arguments.out, seconds=arguments.vae_seconds, batch=arguments.vae_batch,
            capacity=max(arguments.clips // 5, block), device=device, size_px=arguments.size,
            start=arguments.vae_from, decoder_only=arguments.stage == "decoder",
        )  # fmt: skip
    if arguments.stage in ("all", "dit"):
        vae = load_vae(arguments.vae_from or arguments.out / "vae").to(device).eval()
        modules = train_dit(
            factory, vae, arguments.out, seconds=arguments.dit_seconds, batch=arguments.dit_batch,
            capacity=arguments.clips, device=device, size_px=arguments.size,
            start=arguments.dit_from, new_text=arguments.new_text,
        )  # fmt: skip
        write_folder(arguments.out, arguments.size)
        check(
            (vae, *modules),
            arguments.out,
            per_kind=arguments.check_per_kind,
            device=device,
            size_px=arguments.size,
        )
    factory.close()


if __name__ == "__main__":
    main()
