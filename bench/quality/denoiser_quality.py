"""What every optimization of the denoiser costs in quality: same scenes and seeds, one part at a time.

Makes the takes of the bundled generator, or of another folder, and compares each variant with the exact one:
pixels, benchmark score, time. Knows no critic and no loop. Making may be split over processes and GPUs.

    python -m bench.quality.denoiser_quality make --dataset DIR --work W [--shard 1/8] [--device cuda]
    python -m bench.quality.denoiser_quality score --dataset DIR --work W --out denoiser_quality.json
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from bench.quality import take_comparison
from bench.quality.take_comparison import Variant
from engine.build.model_folders import find_generator
from engine.errors import ConfigError
from engine.generators.wan.own_prefix import told_prefix_attention
from engine.generators.wan.settings import OWN
from engine.machine.device import resolve_device, resolve_dtype
from engine.settings.environment import cache_folder
from engine.settings.presets import PRESETS, STEP_CACHES, DenoiseSettings

EXACT = "exact"
FAST = DenoiseSettings(forward="fast")
EAGER_8_BIT = replace(FAST, quantized_first=0.0, quantized_last=0.0)
SPARSE = ("triton_prefix_sparse",)
"""Runs its formula on a CPU; on a GPU fa3_prefix_sparse chooses the same blocks."""
CACHED = replace(PRESETS["exact"], step_cache=0.25)


def _preset(name: str, *, forced: bool = False) -> DenoiseSettings:
    """Not compiled: many processes a GPU would each compile, and what that costs has a row of its own.

    forced: with 8-bit kernels where "auto" takes none, since they are not faster for a small model.
    """
    found = replace(PRESETS[name], compile="off", graphs="off")
    return replace(found, linear="fp8", quantized_attention=("fa3_fp8",)) if forced else found


VARIANTS: dict[str, DenoiseSettings] = {
    EXACT: PRESETS["exact"],
    "fast forward": FAST,
    "FP8 linear": replace(FAST, linear="fp8"),
    "INT8 linear": replace(FAST, linear="int8"),
    "FA3 FP8 attention": replace(EAGER_8_BIT, quantized_attention=("fa3_fp8",)),
    "FA3 FP8 attention but the ends": replace(FAST, quantized_attention=("fa3_fp8",)),
    "Triton INT8 attention": replace(EAGER_8_BIT, quantized_attention=("triton_int8",)),
    "skip-softmax attention": replace(FAST, attention=("triton_skip_softmax",)),
    "sparse attention behind the prefix": replace(EAGER_8_BIT, quantized_attention=SPARSE),
    "sparse attention where the policy admits it": replace(FAST, quantized_attention=SPARSE, policy="auto"),
    **{f"prefix kept through {kept:g}": replace(FAST, prefix_kept=kept) for kept in (0.1, 0.15, 0.2)},
    "guidance gated at 0.5": replace(PRESETS["exact"], cfg_gate=0.5),
    "steps cached 0.25": CACHED,
    **{f"steps cached 0.25 by {rule}": replace(CACHED, step_cache_by=rule) for rule in STEP_CACHES[1:]},
    "early stop 0.02": replace(PRESETS["exact"], early_stop=0.02),
    "fused VAE": replace(PRESETS["exact"], vae="fused"),
    "preset fast": _preset("fast"),
    "preset fast, 8 bits forced": _preset("fast", forced=True),
    "preset fastest": _preset("fastest"),
    "preset fastest, 8 bits forced": _preset("fastest", forced=True),
    "fast forward compiled": replace(FAST, compile="on"),
}
NOTES = (
    "Scores are Physics-IQ Verified case scores in percent of the first take of the brief text; difference "
    "is paired, variant minus exact, with a percentile bootstrap over scenes.",
    "psnr_db and relative_error compare the frames with those of the exact preset of the same seed: the "
    "distance of trajectories, not a loss of quality.",
    "ms_per_take is wall time with several processes on the machine: a ratio of presets, not a speed record.",
)


def make(options: argparse.Namespace, console: Console) -> None:
    """Write the clips of this shard below WORK/clips/VARIANT and its records to WORK/records."""
    wanted = [EXACT, *(name for name in _wanted(options.variants) if name != EXACT)]
    variants = [Variant(name=name, load=functools.partial(_load, options, VARIANTS[name])) for name in wanted]
    take_comparison.make(variants, options, console)


def score(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The JSON document from all shards below WORK."""
    settings = {name: asdict(variant) for name, variant in VARIANTS.items()}
    return {
        "schema": 1,
        "kind": "denoiser_quality",
        "command": "python -m bench.quality.denoiser_quality make|score --dataset DIR --work DIR",
        **take_comparison.score(settings, options, console),
        **({"of": options.of} if options.of else {}),
        "notes": NOTES,
    }


def _wanted(text: str) -> list[str]:
    if text == "all":
        return list(VARIANTS)
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in VARIANTS]:
        raise ConfigError(f"{unknown[0]!r} is not a variant", fix=f"use some of: {', '.join(VARIANTS)}")
    return names


def _load(options: argparse.Namespace, settings: DenoiseSettings) -> Any:
    found = find_generator(options.generator)
    if settings.prefix_kept and told_prefix_attention(found.path) == OWN:
        raise ConfigError(
            "the prefix of this generator looks at itself alone: it is computed once a take and has no price",
            fix="leave the variant out",
        )
    device = resolve_device(options.device)
    family: Any = found.loader()
    return family.load(
        found.path,
        device=device,
        dtype=resolve_dtype(options.dtype, device),
        denoise=settings,
        cache=cache_folder() / "kernels",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.denoiser_quality", description=__doc__)
    take_comparison.add_options(parser)
    parser.add_argument("--variants", default="all", help=f"all, or some of: {', '.join(VARIANTS)}")
    parser.add_argument("--of", help="of score: which generator it is, where it is not the bundled one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return take_comparison.run(parser.parse_args(arguments), make, score)


if __name__ == "__main__":
    sys.exit(main())
