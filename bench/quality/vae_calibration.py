"""Which convolutions of a decoder may be FP8: what each costs the picture, alone and all together.

Pictures of training scenes (no held-out seed) are encoded and decoded by the library in fp32, which is exact
here; then with one convolution in FP8 at a time, then with as many as keep the worst clip above --min-psnr.
Writes the choice beside the model, bound to the weights of its autoencoder, for `denoise.vae = "fp8"`.

    python -m bench.quality.vae_calibration --generator demo --out vae_calibration.json
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from rich.console import Console
from torch import Tensor, nn

from bench.console import user_error
from bench.files import write_json
from bench.quality.measured_models import manifest_of
from engine.autoencoder.fp8_choice import (
    FILE,
    MIN_PSNR_DB,
    Errors,
    Fp8Choice,
    choose,
    limit_of,
    mean_squares,
    psnr_db,
)
from engine.autoencoder.fp8_conv import fp8_convolutions
from engine.autoencoder.vae import decode_pixels, denormalise, encode_mode
from engine.autoencoder.vae_fused import use_fused_vae
from engine.build.model_folders import find_generator
from engine.demo.scenes import all_kinds, make_scene
from engine.demo.training.clips import draw_clip, view_of
from engine.errors import ConfigError, RetakeError
from engine.machine.device import resolve_device, use_threads
from engine.quant.precision_policy import checkpoint_digest
from engine.settings.config import BUNDLED
from engine.settings.environment import num_threads, offline
from engine.words import counted

COMMAND = "python -m bench.quality.vae_calibration"
CHUNK_LATENTS = 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NOTES = (
    "exact is the library's decode in fp32, chunk by chunk; errors are mean squares of pixels in [-1, 1] of "
    "the worst clip, PSNR with a peak of 2",
    "on a CPU the rounded values are multiplied in fp32: what FP8 sums in a GPU's tensor cores lose is in "
    "measurements on a GPU alone",
)


def clips(num_clips: int, num_frames: int, height: int, width: int) -> Tensor:
    """Training scenes, whole in the middle of a picture of that size: [N, 3, T, H, W] in [-1, 1]."""
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    found = []
    for seed in range(num_clips):
        scene = make_scene(seed, all_kinds())
        frames, _ = draw_clip(scene, view_of(seed), side, 0.0)
        cut = np.ascontiguousarray(frames[:num_frames, top : top + height, left : left + width])
        found.append(torch.from_numpy(cut))
    return torch.stack(found).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def work_of(vae: AutoencoderKLWan, names: Collection[str], latents: Tensor) -> dict[str, float]:
    """Multiplications of each convolution in a decode of one latent, counted on a module without values."""
    nowhere = copy.deepcopy(vae).to("meta")
    found: dict[str, float] = dict.fromkeys(names, 0.0)

    def counting(name: str, weight: Tensor) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> None:
            found[name] += out[0, 0].numel() * weight.numel()

        return hook

    for name in names:
        conv = nowhere.get_submodule(name)
        conv.register_forward_hook(counting(name, conv.weight))
    decode_pixels(nowhere, torch.empty_like(latents[:1], device="meta"), CHUNK_LATENTS)
    return found


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Clip by clip, in main memory: [N, 3, T, H, W]."""
    return torch.cat([decode_pixels(vae, one[None], CHUNK_LATENTS).float().cpu() for one in latents])


@torch.inference_mode()
def measure(
    vae: AutoencoderKLWan, pixels: Tensor, min_psnr_db: float, say: Any = print
) -> tuple[list[str], float, list[dict[str, Any]]]:
    """(the convolutions that may be FP8, PSNR with them, a row for each one and for several together)."""
    wide, wide_pixels = copy.deepcopy(vae).float(), pixels.to(vae.device, torch.float32)
    latents = denormalise(wide, torch.cat([encode_mode(wide, one[None]) for one in wide_pixels]))
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        exact = decode(wide, latents)
    del wide
    latents = latents.to(vae.dtype)
    rows: list[dict[str, Any]] = []

    def of(names: Collection[str]) -> Errors:
        fused = copy.deepcopy(vae)
        use_fused_vae(fused, fp8=names)
        errors = mean_squares(decode(fused, latents), exact)
        label = next(iter(names)) if len(names) == 1 else f"{counted(len(names), 'convolution')}"
        rows.append({"name": label, "mean_squares": errors, "psnr_db": psnr_db(errors)})
        say(f"{label:48s} {psnr_db(errors):6.2f} dB")
        return errors

    possible = fp8_convolutions(vae)
    rows += [{"name": name, "reason": reason} for name, reason in possible.items() if reason is not None]
    names = [name for name, reason in possible.items() if reason is None]
    if vae.dtype != torch.float32:  # in which it is exact
        found = mean_squares(decode(vae, latents), exact)
        rows.append({"name": "library", "mean_squares": found, "psnr_db": psnr_db(found)})
    work = work_of(vae, names, latents)
    chosen, errors = choose(of, work, limit_of(min_psnr_db))
    if len(chosen) < len(names):
        of(names)
    for row in rows:
        if row["name"] in work:
            row |= {"multiplications": work[row["name"]], "chosen": row["name"] in chosen}
    return chosen, psnr_db(errors), rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--generator", default=BUNDLED, help='"demo" or a folder')
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=17, help="of each clip: 4 k + 1")
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--min-psnr", type=float, default=MIN_PSNR_DB, metavar="DB")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16 is what a GPU runs")
    parser.add_argument("--table", type=Path, help=f"default: {FILE} in the generator's folder")
    parser.add_argument("--out", type=Path, help="the JSON file of all errors")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    offline()
    use_threads(num_threads())
    try:
        if options.frames % 4 != 1:
            raise ConfigError(f"--frames {options.frames} is not 4 k + 1", fix="such as 17")
        folder = find_generator(options.generator).path
        source = checkpoint_digest(folder, "vae")
        vae = AutoencoderKLWan.from_pretrained(folder, subfolder="vae", torch_dtype=DTYPES[options.dtype])
        vae = vae.to(resolve_device(options.device)).eval().requires_grad_(False)
        multiple = vae.config.scale_factor_spatial
        if options.height % multiple or options.width % multiple:
            sizes = f"{options.width} x {options.height} pixels"
            raise ConfigError(f"{sizes} are no multiples of {multiple}", fix="give other sizes")
        pixels = clips(options.clips, options.frames, options.height, options.width)
        chosen, kept_db, rows = measure(vae, pixels, options.min_psnr, console.print)
    except RetakeError as error:
        return user_error(error)
    shown = f"{counted(options.clips, 'clip')} of {counted(options.frames, 'frame')}"
    size = f"{shown} at {options.width}x{options.height}"
    producer = f"bench.quality.vae_calibration: {size}, {options.dtype}, {vae.device.type}"
    choice = Fp8Choice(source=source, producer=producer, psnr_db=kept_db, convolutions=tuple(sorted(chosen)))
    path = options.table or folder / FILE
    choice.save(path)
    console.print(f"{path}: {counted(len(chosen), 'convolution')}, {choice.psnr_db:.2f} dB")
    if options.out is not None:
        write_json(
            options.out,
            {
                "schema": 1,
                "kind": "vae_calibration",
                "command": f"{COMMAND} --clips {options.clips} --frames {options.frames}",
                "min_psnr_db": options.min_psnr,
                "source": source,
                "rows": rows,
                "chosen": sorted(chosen),
                "notes": NOTES,
                "manifest": manifest_of({"generator": folder}),
            },
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
