"""Generates many takes at once with the demo generator's modules, for training and its evaluation.

The engine's own generator runs one scenario at a time; training the critic needs thousands a minute.
Same schedule and prefix rule as the engine (a test compares them).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from engine.autoencoder.vae import decode_pixels, denormalise, encode_mode
from engine.demo.training.train_dit import (
    FLOW_SHIFT,
    PREFIX_LATENTS,
    embed_text,
    load_modules,
    token_timesteps,
    tokenize,
)
from engine.demo.training.train_vae import load_vae, to_pixels

NUM_INFERENCE_STEPS: Final = 12  # what the bundled generator is run with, here and by its retake.json
GUIDANCE_SCALE: Final = 2.5


def make_scheduler() -> Any:
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=FLOW_SHIFT,
        num_train_timesteps=1000,
    )


def load_generator(folder: Path, device: str) -> tuple[Any, Any, Any, Any]:
    """(vae, transformer, text_encoder, tokenizer) of a saved generator folder, fp32, ready to sample."""
    transformer, text_encoder, tokenizer = load_modules(folder)
    return (
        load_vae(folder / "vae").to(device).eval(),
        transformer.to(device).eval(),
        text_encoder.to(device).eval(),
        tokenizer,
    )


@torch.no_grad()
def generate_takes(
    modules: tuple[Any, Any, Any, Any],
    prefixes: torch.Tensor,
    texts: list[str],
    *,
    num_inference_steps: int,
    guidance_scale: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """uint8 prefixes [B, 24, H, W, 3] and B prompts -> uint8 takes [B, 40, H, W, 3] on the same device.

    `modules` is (vae, transformer, text_encoder, tokenizer); `generator` lives on that device.
    """
    vae, transformer, text_encoder, tokenizer = modules
    device = prefixes.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        padded = torch.cat([prefixes[:, :1], prefixes], dim=1)
        clean = encode_mode(vae, to_pixels(padded)).float()
        ids = tokenize(tokenizer, [*texts, *[""] * len(texts)]).to(device)
        text = embed_text(text_encoder, ids)
        shape = (*clean.shape[:2], PREFIX_LATENTS + 10, *clean.shape[3:])
        latents = torch.randn(shape, generator=generator, device=device)
        scheduler = make_scheduler()
        scheduler.set_timesteps(num_inference_steps, device=device)
        for t in scheduler.timesteps:
            latents[:, :, :PREFIX_LATENTS] = clean
            both = torch.cat([latents, latents])
            velocity = transformer(
                hidden_states=both, timestep=token_timesteps(t.float().expand(len(both)), both),
                encoder_hidden_states=text, return_dict=False,
            )[0].float()  # fmt: skip
            cond, uncond = velocity.chunk(2)
            guided = uncond + guidance_scale * (cond - uncond)
            latents = scheduler.step(guided, t, latents, return_dict=False)[0]
        latents[:, :, :PREFIX_LATENTS] = clean
        pixels = decode_pixels(vae, denormalise(vae, latents)).float()
    frames = ((pixels[:, :, 25:] + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return frames.permute(0, 2, 3, 4, 1)
