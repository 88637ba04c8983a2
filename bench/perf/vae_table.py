"""Decoding of latents to pixels: the library's way, the same modules in larger chunks, and ours, fused.

Random weights of the Wan2.1 autoencoder: speed, memory, the difference to the library's own result, and on a
GPU the kernels in which the time goes. All ways alternate in one process.

    python -m bench.perf.vae_table --sizes 480p,draft --out FILE
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.files import write_json
from bench.perf.document import this_machine
from engine.autoencoder.vae import decode_pixels, decode_preview, use_channels_last
from engine.autoencoder.vae_fused import use_fused_vae
from kernels import timing

SIZES = {"480p": (21, 60, 104), "draft": (21, 30, 52), "tiny": (3, 4, 6)}
"""Latent frames, height, width: 81 frames of 480x832 and 240x416 pixels, and one for a dry run."""
TINY = {"base_dim": 8, "num_res_blocks": 1}
LIBRARY = "library"
PREVIEW_FRAMES = (0, 5, 10, 15, 20)
NUM_KERNELS = 15
BEST = "fused, merged and paired, chunks of 4"
PROFILED = (LIBRARY, BEST)
"""A profile takes longer than the timing of all ways."""

Way = Callable[[], Tensor]


def build(size: str, device: torch.device) -> AutoencoderKLWan:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**(TINY if size == "tiny" else {}))
    return vae.to(device, torch.bfloat16).eval().requires_grad_(False)


def with_surgery(vae: AutoencoderKLWan, surgery: Callable[[AutoencoderKLWan], int]) -> AutoencoderKLWan:
    other = copy.deepcopy(vae)
    surgery(other)
    return other


def tuned(way: Way) -> Way:
    """cuDNN measures its algorithms at the first call of each shape instead of guessing."""

    def run() -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
            return way()

    return run


def ways_of(vae: AutoencoderKLWan, latents: Tensor) -> dict[str, Way]:
    """The first is what all are compared with."""
    nothing, finest = frozenset[int](), frozenset({vae.config.base_dim})

    def fused(*, merge: bool, paired: frozenset[int]) -> AutoencoderKLWan:
        return with_surgery(vae, partial(use_fused_vae, merge_upsampling=merge, paired=paired))

    def chunks(module: AutoencoderKLWan, chunk_latents: int) -> Way:
        return lambda: decode_pixels(module, latents, chunk_latents)

    def library() -> Tensor:
        pixels: Tensor = vae.decode(latents, return_dict=False)[0]
        return pixels

    both = fused(merge=True, paired=finest)
    return {
        LIBRARY: library,
        "chunks of 4": chunks(vae, 4),
        "chunks of 4, channels last": chunks(with_surgery(vae, use_channels_last), 4),
        "fused, chunks of 4": chunks(fused(merge=False, paired=nothing), 4),
        "fused, upsampling merged, chunks of 4": chunks(fused(merge=True, paired=nothing), 4),
        "fused, columns paired, chunks of 4": chunks(fused(merge=False, paired=finest), 4),
        "fused, merged and paired, chunks of 1": chunks(both, 1),
        BEST: chunks(both, 4),
        "fused, merged and paired, chunks of 10": chunks(both, 10),
        "library, cuDNN tuned": tuned(library),
        f"{BEST}, cuDNN tuned": tuned(chunks(both, 4)),
    }


def measured(size: str, repeats: int, device: torch.device) -> tuple[list[dict[str, Any]], dict[str, Way]]:
    """The rows, and the ways behind them, which are checked against the library's result and run in turn."""
    vae = build(size, device)
    shape = (1, vae.config.z_dim, *SIZES[size])
    generator = torch.Generator(device).manual_seed(0)
    latents = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
    problem = f"decode {size} {list(shape)} bf16"
    ways = ways_of(vae, latents)
    rows, names = check(problem, ways, exact_pixels(vae, latents))
    usable = {name: ways[name] for name in names}
    rows.append(check_preview(problem, vae, latents, usable))
    times = timing.alternate(usable, repeats, warmup=1, device=device.type)
    for row in rows:
        if row["name"] in times:
            row |= {"ms": times[row["name"]], "summary": asdict(timing.summary(times[row["name"]]))}
    library = next((row["summary"]["median"] for row in rows if row["name"] == LIBRARY), None)
    tflop = tflop_of(vae, shape)
    for row in rows:
        if "summary" in row:
            row["speedup"] = library / row["summary"]["median"] if library is not None else None
            if "preview" not in row["name"]:
                row["tflop_per_s"] = tflop / row["summary"]["median"] * 1e3
        print(line_of(row), flush=True)
    return rows, usable


def tflop_of(vae: AutoencoderKLWan, shape: Sequence[int]) -> float:
    """TFLOP of the library's way, counted without computing: what every way's TFLOP/s are stated in."""
    nowhere = copy.deepcopy(vae).to("meta")
    with FlopCounterMode(display=False) as counter:
        nowhere.decode(torch.empty(shape, device="meta", dtype=vae.dtype))
    return float(counter.get_total_flops()) / 1e12


def exact_pixels(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """By the library in fp32 from the same rounded weights; two results in bf16 differ by both errors."""
    wide = copy.deepcopy(vae).float()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        pixels: Tensor = wide.decode(latents.float(), return_dict=False)[0]
    return pixels


def check(problem: str, ways: dict[str, Way], exact: Tensor) -> tuple[list[dict[str, Any]], list[str]]:
    """One row for each way with its errors and peak memory, and the names of those that ran."""
    rows: list[dict[str, Any]] = []
    usable, expected = [], None
    for name, way in ways.items():
        row: dict[str, Any] = {"problem": problem, "name": name, "accuracy": "all frames", "reason": None}
        rows.append(row)
        start_s = time.perf_counter()
        try:
            pixels = way()
            if torch.cuda.is_available():
                del pixels
                row["peak_allocated_bytes"], pixels = peak_of(way)
            print(f"  {name}: two calls {time.perf_counter() - start_s:.1f} s", flush=True)
        except RuntimeError as error:  # out of memory, or a size that a convolution does not take
            row["reason"] = str(error).splitlines()[0]
            continue
        row["error_to_fp32"] = relative(pixels, exact)
        expected = pixels if name == LIBRARY else expected
        if expected is not None:
            row["error_to_library"] = relative(pixels, expected)
        usable.append(name)
    return rows, usable


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.float() - expected.float()).norm() / expected.float().norm())


def check_preview(
    problem: str, vae: AutoencoderKLWan, latents: Tensor, usable: dict[str, Way]
) -> dict[str, Any]:
    """The row of the quick look, which joins the ways that are timed."""
    fused = with_surgery(vae, use_fused_vae)
    frames = [frame for frame in PREVIEW_FRAMES if frame < latents.shape[2]]

    def way() -> Tensor:
        return decode_preview(fused, latents, frames)

    name = f"fused, preview of {len(frames)} frames"
    usable[name] = way
    row: dict[str, Any] = {"problem": problem, "name": name, "accuracy": "a few frames", "reason": None}
    row["error_to_library"] = relative(way()[0], decode_pixels(vae, latents[:, :, :1])[0, :, 0])
    return row


def peak_of(way: Way) -> tuple[int, Tensor]:
    """(bytes allocated above what was there before, result) of a warm run."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    pixels = way()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before, pixels


def kernels_of(way: Way) -> list[dict[str, Any]]:
    """The kernels that take most of the time of one run."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        way()
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    return [
        {"kernel": event.key, "ms": event.self_device_time_total / 1e3, "calls": event.count}
        for event in events[:NUM_KERNELS]
    ]


def line_of(row: dict[str, Any]) -> str:
    if "summary" not in row:
        return f"{row['name']:52s} {row['reason']}"
    speedup = "" if row["speedup"] is None else f"{row['speedup']:6.2f}x"
    rate, peak = row.get("tflop_per_s", 0.0), row.get("peak_allocated_bytes", 0) / 2**30
    time = f"{row['name']:52s} {row['summary']['median']:9.1f} ms {speedup}"
    text = f"{time} {rate:6.1f} TFLOP/s {peak:6.2f} GiB"
    errors = [
        f"{key.replace('_', ' ')} {row[key]:.1e}"
        for key in ("error_to_fp32", "error_to_library")
        if key in row
    ]
    return "  ".join([text, *errors])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.perf.vae_table", description=__doc__)
    parser.add_argument("--sizes", default="480p", help=f"comma-separated, of {', '.join(SIZES)}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    document: dict[str, Any] = {
        "schema": 1,
        "kind": "vae",
        "command": f"python -m bench.perf.vae_table --sizes {options.sizes} --repeats {options.repeats}",
        "manifest": this_machine(),
        "rows": [],
    }

    def write() -> None:
        if options.out is not None:
            write_json(options.out, document)

    with torch.inference_mode():
        for size in options.sizes.split(","):
            rows, ways = measured(size, options.repeats, device)
            document["rows"] += rows
            write()
            for row in rows:
                if device.type == "cuda" and row["name"] in PROFILED and row["name"] in ways:
                    row["kernels"] = kernels_of(ways[row["name"]])
                    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
