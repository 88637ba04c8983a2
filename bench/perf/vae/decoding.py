"""Whole decodes: each way is compared with fp32 on the first frames, then all are timed in turn on all."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict
from typing import Any, Final

import torch
from torch import Tensor

from bench.perf.vae.models import build, exact_pixels, fp8_pixels, latents_of, tflop_of
from bench.perf.vae.ways import BEST, FP8_ALL, LIBRARY, Way, ways
from engine.autoencoder.vae import decode_preview
from engine.autoencoder.vae_fused import use_fused_vae
from engine.errors import RetakeError
from engine.words import counted
from kernels import dispatch, timing

Row = dict[str, Any]
CHECKED_LATENTS = 9
"""Two chunks and the first frame: fp32 takes as long for them as a whole decode in bf16."""
PREVIEW_FRAMES = (0, 5, 10, 15, 20)
NUM_KERNELS = 15
PROFILED = (BEST, FP8_ALL)
MAX_ERROR_FACTOR = 2.0
"""Of the error of the library in bf16; of FP8 against the library with the same operands rounded."""
SPENT: Final = "the budget was spent"


def measured(size: str, repeats: int, device: torch.device, deadline_s: float, *, every: bool) -> list[Row]:
    """A row for each way: errors, times, or the reason why it was not timed. None is made ready behind
    `deadline_s` of `perf_counter`."""
    vae = build(size, device)
    latents = latents_of(size, vae, device)
    problem = f"decode {size} {list(latents.shape)} bf16"
    usable: dict[str, timing.Function] = {}
    rows: list[Row] = []
    check = _Check(vae, latents[:, :, :CHECKED_LATENTS])
    for way in ways(vae, every=every):
        accuracy = "all frames, FP8" if way.fp8 else "all frames"
        row: Row = {"problem": problem, "name": way.name, "accuracy": accuracy, "reason": None}
        rows.append(row)
        if time.perf_counter() > deadline_s:
            row["reason"] = SPENT
            continue
        try:
            decode = way.make()
            row |= check(way, decode(check.latents))
            if row["reason"] is None:
                row |= _peak(lambda decode=decode: decode(latents))  # type: ignore[misc]
                usable[way.name] = lambda decode=decode: decode(latents)  # type: ignore[misc]
        except dispatch.failures(RetakeError, AssertionError) as fault:  # memory, or a size
            row["reason"] = f"{type(fault).__name__}: {str(fault).strip()[:300]}"
        print(f"  {way.name}: {row['reason'] or 'ready'}", flush=True)
    if every:
        rows.append(_preview(problem, vae, latents, usable))
    times = timing.alternate(usable, repeats, warmup=1, device=device.type) if usable else {}
    for row in rows:
        if row["name"] in times:
            row |= {"ms": times[row["name"]], "summary": asdict(timing.summary(times[row["name"]]))}
    _rates(rows, tflop_of(vae, latents.shape))
    profiled = [row for row in rows if row["name"] in PROFILED and row["name"] in usable]
    for row in profiled if device.type == "cuda" else ():
        if time.perf_counter() < deadline_s:
            row["kernels"] = _kernels(usable[row["name"]])
    return rows


class _Check:
    """Errors of a way on the first frames. PSNR has the range of the exact pixels as its peak: random weights
    make faint pictures, of which a peak of 2 would say too much."""

    def __init__(self, vae: Any, latents: Tensor) -> None:
        self.vae, self.latents = vae, latents
        self.exact = exact_pixels(vae, latents)
        self.peak = float(self.exact.max() - self.exact.min())
        self.plain: float | None = None
        self.rounded: dict[tuple[str, ...], float] = {}

    def __call__(self, way: Way, pixels: Tensor) -> Row:
        error = relative(pixels, self.exact)
        mean_square = float((pixels.float() - self.exact).square().mean())
        psnr = 10 * math.log10(self.peak**2 / max(mean_square, 1e-20))
        row: Row = {"error_to_fp32": error, "psnr_db": psnr, "num_fp8": len(way.fp8), "reason": None}
        if way.name == LIBRARY:
            self.plain = error
        assert self.plain is not None, "the library comes first"
        allowed = MAX_ERROR_FACTOR * self.plain
        if way.fp8:
            row["error_of_rounding"] = self._rounding(tuple(way.fp8))
            allowed = MAX_ERROR_FACTOR * max(row["error_of_rounding"], self.plain)
        if not error <= allowed:
            row["reason"] = f"relative error {error:.3g}, allowed {allowed:.3g}: not timed"
        return row

    def _rounding(self, names: tuple[str, ...]) -> float:
        if names not in self.rounded:
            self.rounded[names] = relative(fp8_pixels(self.vae, self.latents, names), self.exact)
        return self.rounded[names]


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.float() - expected.float()).norm() / expected.float().norm())


def _preview(problem: str, vae: Any, latents: Tensor, usable: dict[str, timing.Function]) -> Row:
    """The row of the quick look, which joins the ways that are timed."""
    fused = copy.deepcopy(vae)
    use_fused_vae(fused)
    frames = [frame for frame in PREVIEW_FRAMES if frame < latents.shape[2]]
    name = f"fused, preview of {counted(len(frames), 'frame')}"
    usable[name] = lambda: decode_preview(fused, latents, frames)
    return {"problem": problem, "name": name, "accuracy": "a few frames", "reason": None}


def _peak(decode: timing.Function) -> Row:
    """Bytes allocated above what was there before, by a whole decode, which also is its first call."""
    if not torch.cuda.is_available():
        return {}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    decode()
    torch.cuda.synchronize()
    return {"peak_allocated_bytes": torch.cuda.max_memory_allocated() - before}


def _rates(rows: list[Row], tflop: float) -> None:
    medians = {row["name"]: row["summary"]["median"] for row in rows if "summary" in row}
    for row in rows:
        if "summary" not in row:
            row["reason"] = row["reason"] or "not timed"
            continue
        row["speedup"] = medians[LIBRARY] / medians[row["name"]] if LIBRARY in medians else None
        if "preview" not in row["name"]:
            row["tflop_per_s"] = tflop / medians[row["name"]] * 1e3


def _kernels(decode: timing.Function) -> list[Row]:
    """The kernels that take most of the time of one run."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        decode()
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    return [
        {"kernel": event.key, "ms": event.self_device_time_total / 1e3, "calls": event.count}
        for event in events[:NUM_KERNELS]
    ]


def line_of(row: Row) -> str:
    if "summary" not in row:
        return f"{row['name']:52s} {row['reason']}"
    speedup = "" if row["speedup"] is None else f"{row['speedup']:6.2f}x"
    rate, peak = row.get("tflop_per_s", 0.0), row.get("peak_allocated_bytes", 0) / 2**30
    text = f"{row['name']:52s} {row['summary']['median']:9.1f} ms {speedup}"
    text += f" {rate:6.1f} TFLOP/s {peak:6.2f} GiB"
    for key in ("error_to_fp32", "error_of_rounding"):
        text += f"  {key.replace('_', ' ')} {row[key]:.1e}" if key in row else ""
    return text + (f"  {row['psnr_db']:.1f} dB" if "psnr_db" in row else "")
