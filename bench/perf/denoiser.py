"""Measures one forward of full-size denoisers, stock and ours, side by side in one process.

Correctness first: a variant whose velocity is not close to the library's is reported and not timed. Then all
variants run in turn, warm, and one line per variant says how far it is from the machine's limit. Random
weights: speed and memory only.

    python -m bench.perf.denoiser --subjects 1.3b,draft --out bench/results/denoiser_h100.json
    python -m bench.perf.denoiser --variants everywhere --subjects draft     # any GPU
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.perf import ceilings, variants
from bench.perf.denoisers.base import Subject, attention_operators
from bench.perf.denoisers.by_name import SUBJECTS
from bench.perf.document import this_machine
from bench.perf.kernel_sum import times_ms
from bench.perf.variants import Variant, build
from engine.errors import RetakeError
from engine.runs.manifest import write_manifest
from engine.settings.environment import cache_folder
from engine.settings.presets import DenoiseSettings
from engine.words import command_line
from kernels import dispatch, timing

AIMS_MS = {SUBJECTS["1.3b"]: 330.0, SUBJECTS["14b"]: 1800.0, SUBJECTS["draft"]: 42.0}
"""What we want of one forward on an H200."""
SETS = {
    "hopper": (*variants.STOCK, *variants.LIBRARY, *variants.OURS),
    "hopper-large": (*variants.STOCK[:2], variants.STOCK[3], variants.OURS[2]),
    "hopper-short": (*variants.STOCK, *variants.LIBRARY, *variants.OURS[:3]),
    "library": (variants.STOCK[0], *variants.LIBRARY),
    "alone": (variants.OURS[2], *variants.ALONE),
    "chosen": (variants.OURS[2], *variants.ALONE[:3]),
    "everywhere": variants.EVERYWHERE,
}
CLOSE = 0.3
"""Largest relative error against the library at which a variant is timed. A wrong forward is near 1. Random
layers add up the rounding of 8 bits as they come: 0.02 after Wan's, 0.2 after Cosmos3's."""
SUSTAINED = 4
"""Forwards in a row while power and clock are read."""


def measure(subject: Subject, wanted: Sequence[Variant], rounds: int, limits: Mapping[str, float]) -> Any:
    """The document of one subject."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    transformer = subject.build(device)
    forwards, rows, expected = {}, [], None
    with torch.inference_mode():
        for variant in wanted:
            row, forward, velocity = _prepare(variant, transformer, subject, expected)
            expected = velocity if expected is None else expected
            rows.append(row)
            if forward is not None:
                forwards[variant.name] = forward
            said = row.get("reason") or f"first call {row['first_call_s']:.1f} s"
            print(f"  {variant.name}: {said}", flush=True)
        times = timing.alternate(forwards, rounds, warmup=2)
        for row in rows:
            if row["name"] in times:
                row |= _figures(times[row["name"]], subject, limits)
                row |= _sustained(forwards[row["name"]])
        last = [variant for variant in wanted if variant.name in times and variant.cumulative][-1]
        on_gpu = device.type == "cuda"
        chosen = next(row.get("choices", {}) for row in rows if row["name"] == last.name)
        timed = resolved(last.settings, chosen) if last.settings and on_gpu else None
        kernels = {} if timed is None else times_ms(subject.kernels(timed))
    total = sum(kernels.values())
    for row in rows:
        if total and row["name"] == last.name:
            row["percent_of_kernel_sum"] = 100 * total / row["summary"]["median"]
    return {
        "name": subject.name,
        "note": subject.note,
        "tokens": subject.num_tokens,
        "tflop_per_forward": subject.flops / 1e12,
        "roofline_ms": _roofline(subject, limits),
        "aim_ms": AIMS_MS.get(subject),
        "kernel_sum_of": last.name,
        "kernel_sum_ms": kernels,
        "variants": rows,
    }


def resolved(settings: DenoiseSettings, choices: Mapping[str, str]) -> DenoiseSettings:
    """The settings with what "auto" became, by the notes of the denoiser: its kernels are those to time."""

    def kernel(note: str) -> tuple[str, ...]:
        name = re.split(r"[ ,:]", choices.get(note, ""), maxsplit=1)[0]
        return (name,) if name in dispatch.names() else ()

    return replace(
        settings,
        linear=choices.get("linear", settings.linear).partition(":")[0],
        attention=kernel("attention") or settings.attention,
        quantized_attention=kernel("quantized_attention"),
    )


def _prepare(
    variant: Variant, transformer: Any, subject: Subject, expected: Tensor | None
) -> tuple[dict[str, Any], Any, Tensor | None]:
    """Build, run once, compare. (row, forward or None, velocity)."""
    row: dict[str, Any] = {"name": variant.name, "adds": variant.adds, "cumulative": variant.cumulative}
    row["stock"] = variant.stock
    if variant.against:
        row["against"] = variant.against
    try:
        forward, row["choices"] = build(variant, transformer, subject, cache_folder() / "kernels")
        start_s = time.perf_counter()
        velocity = forward()
        _wait()
        row["first_call_s"] = time.perf_counter() - start_s
        if variant.stock and (ran := attention_operators(forward)):
            row["note"] = "it ran " + ", ".join(f"{name} {count} times" for name, count in ran.items())
    except dispatch.failures(RetakeError, AssertionError) as error:
        traceback.print_exc(limit=-6)
        return row | {"reason": f"{type(error).__name__}: {error}"}, None, None
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        forward()
        _wait()
        row["activation_peak_bytes"] = torch.cuda.max_memory_allocated() - held
        row["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
        row["peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
    if expected is not None:
        difference, norm = (velocity - expected).double(), expected.double()
        row["relative_error"] = float(difference.norm() / norm.norm())
        cosine = torch.nn.functional.cosine_similarity(velocity.double().flatten(), norm.flatten(), dim=0)
        row["cosine"] = float(cosine)
        if not row["relative_error"] <= CLOSE:
            reason = f"relative error {row['relative_error']:.3g} against the library: not timed"
            return row | {"reason": reason}, None, velocity
    return row, forward, velocity


def _figures(times_ms: list[float], subject: Subject, limits: Mapping[str, float]) -> dict[str, Any]:
    summary = asdict(timing.summary(times_ms))
    roof = _roofline(subject, limits)
    found: dict[str, Any] = {"ms": times_ms, "summary": summary}
    found["tflops"] = subject.flops / summary["median"] / 1e9
    if roof:
        found["percent_of_roofline"] = 100 * roof["fp8"] / summary["median"]
        found["percent_of_bf16_roofline"] = 100 * roof["bf16"] / summary["median"]
    return found


def _roofline(subject: Subject, limits: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds at the measured matrix rates, attention and GEMMs alike, in each format."""
    return {
        name: subject.flops / limits[key] / 1e9
        for name, key in (("bf16", "bf16_gemm_tflops"), ("fp8", "fp8_gemm_tflops"))
        if key in limits
    }


def _sustained(forward: Any) -> dict[str, Any]:
    """Power and SM clock while several forwards run back to back."""
    if not torch.cuda.is_available():
        return {}
    for _ in range(SUSTAINED):
        forward()
    return ceilings.power_and_clock()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.perf.denoiser", description=__doc__)
    parser.add_argument("--subjects", default="draft", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--variants", default="everywhere", help=f"of {', '.join(SETS)}; several join")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    wanted = list(dict.fromkeys(v for name in options.variants.split(",") for v in SETS[name]))
    names = options.subjects.split(",")
    document: dict[str, Any] = {
        "schema": 1,
        "kind": "denoiser",
        "command": command_line(
            *("python", "-m", "bench.perf.denoiser", "--subjects", options.subjects),
            *("--variants", options.variants, "--rounds", options.rounds),
        ),
        "manifest": this_machine(),
        "ceilings": ceilings.measure(),
        "notes": ["random weights: speed and memory only, errors are against the library in bf16"],
        "subjects": [],
    }
    for name in names:
        print(SUBJECTS[name].name, flush=True)
        found = measure(SUBJECTS[name], wanted, options.rounds, document["ceilings"])
        document["subjects"].append(found)
        for row in found["variants"]:
            if "summary" in row:
                print(
                    f"{row['name']:44s} {row['summary']['median']:9.2f} ms {row['tflops']:6.0f} TFLOP/s "
                    f"error {row.get('relative_error', 0):.4f} {row.get('power_w') or 0:.0f} W "
                    f"{row.get('sm_clock_mhz') or 0} MHz",
                    flush=True,
                )
        if options.out is not None:
            write_manifest(options.out, document)
        torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
