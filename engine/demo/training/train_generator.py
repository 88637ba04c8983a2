"""Trains the bundled generator on one GPU: `python -m engine.demo.training.train_generator --out DIR`.

Two stages, autoencoder then transformer, each bounded by seconds; `--stage` runs one on the other's result.
With `--state` the transformer is trained in several calls, each on scenes of its own under one learning-rate
schedule; `--stage assemble` makes folders of such a state. Writes a diffusers folder (layout of
WanImageToVideoPipeline, expand_timesteps), curves and contact sheets.
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

from engine.demo.scenes import DEFAULT_WORLD, WIDE, WORLDS, all_kinds, make_scene
from engine.demo.scenes.base import FPS, NUM_ANSWER_FRAMES, NUM_PREFIX_FRAMES, SWITCH
from engine.demo.scenes.seeds import CHECK, TRAINING_PARTS
from engine.demo.training import checkpoint, prompts
from engine.demo.training.batch_sampler import (
    GUIDANCE_SCALE,
    NUM_INFERENCE_STEPS,
    generate_takes,
    make_scheduler,
)
from engine.demo.training.checkpoint import Progress
from engine.demo.training.clips import ClipFactory, Footage, describe_answer
from engine.demo.training.train_dit import VARIANT_SHARES, VARIANTS, DitOptions, assemble_state, train_dit
from engine.demo.training.train_vae import load_vae, train_vae
from engine.demo.training.windows import agreement_score
from engine.generators.wan.settings import ALL, PREFIX_ATTENTION


def write_folder(out: Path, size_px: int, prefix_attention: str = ALL) -> None:
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
    told = {} if prefix_attention == ALL else {"prefix_attention": prefix_attention}
    (out / "retake.json").write_text(json.dumps(sidecar | told, indent=2) + "\n")


def check(modules: tuple[Any, Any, Any, Any], arguments: argparse.Namespace, *, device: str) -> None:
    """Takes of held-out scenes under brief and complete prompts at some guidance scales: table, sheets."""
    kinds, out = all_kinds(arguments.world), arguments.out
    scenes = [make_scene(CHECK.first + i, kinds) for i in range(arguments.check_per_kind * len(kinds))]
    if not scenes:
        return
    clips = np.stack([scene.render(1, "center", arguments.size) for scene in scenes])
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", choices=("all", "vae", "dit", "decoder", "assemble"), default="all")
    parser.add_argument("--world", choices=tuple(WORLDS), default=DEFAULT_WORLD)
    parser.add_argument("--broken-share", type=float, default=0.0, help="of clips in which physics is broken")
    parser.add_argument(
        "--prefix-attention", choices=PREFIX_ATTENTION, default=ALL, help="what prefix tokens look at"
    )
    parser.add_argument(
        "--shares", type=float, nargs=len(VARIANTS), default=VARIANT_SHARES, metavar="SHARE",
        help=f"how often each prompt is shown: {', '.join(VARIANTS)}",
    )  # fmt: skip
    parser.add_argument("--state", type=Path, help="folder with the state of the training, to end and go on")
    parser.add_argument("--total-seconds", type=float, help="of all stages with this --state; default: one")
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
    return parser


def first_seed(arguments: argparse.Namespace, progress: Progress | None) -> int:
    """Each stage sees scenes of its own; the plain world keeps the seeds that its models were made with."""
    if progress is not None:
        return progress.next_seed
    if arguments.world == WIDE:
        return TRAINING_PARTS["generator" if arguments.stage == "dit" else "autoencoder"].first
    if arguments.dit_from is not None:
        return 700_000
    return {"dit": 100_000, "decoder": 200_000}.get(arguments.stage, 0)


def dit_options(arguments: argparse.Namespace, device: str) -> DitOptions:
    """Of one stage; `settings` are those that decide what is trained, as text."""
    decisive = ("world", "broken_share", "prefix_attention", "shares", "dit_batch", "size")
    settings = {name: str(getattr(arguments, name)) for name in decisive}
    return DitOptions(
        seconds=arguments.dit_seconds, total_seconds=arguments.total_seconds or arguments.dit_seconds,
        batch=arguments.dit_batch, capacity=arguments.clips, device=device, size_px=arguments.size,
        start=arguments.dit_from, new_text=arguments.new_text, state=arguments.state,
        prefix_attention=arguments.prefix_attention, shares=tuple(arguments.shares), settings=settings,
    )  # fmt: skip


def main() -> None:
    arguments = _parser().parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    cv2.setNumThreads(1)  # each core has a render worker, which is forked and inherits this
    if arguments.stage == "assemble":
        write_folder(arguments.out, arguments.size, assemble_state(arguments.state, arguments.out))
        return
    progress = None if arguments.state is None else checkpoint.read_progress(arguments.state)
    factory = ClipFactory(
        num_workers=arguments.workers, first_seed=first_seed(arguments, progress),
        block=64 if arguments.clips >= 64 else arguments.clips, size_px=arguments.size,
        footage=Footage(world=arguments.world, broken_share=arguments.broken_share),
    )  # fmt: skip
    if arguments.stage in ("all", "vae", "decoder"):
        vae = train_vae(
            factory, arguments.out, seconds=arguments.vae_seconds, batch=arguments.vae_batch,
            capacity=max(arguments.clips // 5, min(64, arguments.clips)), device=device,
            size_px=arguments.size, start=arguments.vae_from, decoder_only=arguments.stage == "decoder",
        )  # fmt: skip
    if arguments.stage in ("all", "dit"):
        vae = load_vae(arguments.vae_from or arguments.out / "vae").to(device).eval()
        modules = train_dit(factory, vae, arguments.out, dit_options(arguments, device))
        write_folder(arguments.out, arguments.size, arguments.prefix_attention)
        check((vae, *modules), arguments, device=device)
    factory.close()


if __name__ == "__main__":
    main()
