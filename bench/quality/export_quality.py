"""What exporting and quantizing the denoiser costs in quality: the eager module against built artifacts.

The same scenes and seeds through the module in fp32 and through each artifact, loaded as `retake run
--denoiser FOLDER` loads it: pixels, benchmark score, time. Knows no critic and no loop.

    python -m bench.quality.export_quality make --dataset DIR --work W --artifacts fp8=DIR [--shard 1/8]
    python -m bench.quality.export_quality score --dataset DIR --work W --out export_quality.json
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.quality import take_comparison
from bench.quality.take_comparison import Variant
from engine.build import exported
from engine.build.model_folders import find_generator
from engine.errors import ConfigError
from engine.machine.device import resolve_device
from engine.settings.config import DenoiseConfig

EAGER = "eager"
DTYPE = "fp32"
NOTES = (
    "Scores are Physics-IQ Verified case scores in percent of the first take of the brief text; difference "
    "is paired, variant minus eager, with a percentile bootstrap over scenes.",
    "Eager is the library's module in fp32. psnr_db and relative_error compare the frames with its take of "
    "the same seed: the distance of trajectories, not a loss of quality.",
    "ms_per_take is wall time with several processes on the machine. ONNX Runtime on a CPU dequantizes and "
    "multiplies in fp32: its times say nothing of an engine on a GPU.",
)


def make(options: argparse.Namespace, console: Console) -> None:
    """Write the clips of this shard below WORK/clips/VARIANT and its records to WORK/records."""
    folders = parse_artifacts(options.artifacts)
    variants = [Variant(name=EAGER, load=functools.partial(_load, options, None))]
    variants += [
        Variant(name=name, load=functools.partial(_load, options, folder)) for name, folder in folders.items()
    ]
    take_comparison.make(variants, options, console)


def score(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The JSON document from all shards below WORK; its rows say which artifact each is."""
    records, _ = take_comparison.read_shards(options.work)
    settings: dict[str, dict[str, str]] = {EAGER: {"dtype": DTYPE}}
    for record in records:
        told = {key: value for key, value in record.get("choices", {}).items() if key in ("target", "recipe")}
        settings.setdefault(record["variant"], told)
    return {
        "schema": 1,
        "kind": "export_quality",
        "command": "python -m bench.quality.export_quality make|score --dataset DIR --work DIR",
        **take_comparison.score(settings, options, console),
        "notes": NOTES,
    }


def parse_artifacts(text: str) -> dict[str, Path]:
    """NAME=FOLDER[,NAME=FOLDER...]; ConfigError for anything else, and for a name that is taken."""
    found: dict[str, Path] = {}
    for part in filter(None, text.split(",")):
        name, sign, folder = part.partition("=")
        if not sign or not name or not Path(folder).is_dir() or name in (*found, EAGER):
            raise ConfigError(
                f"--artifacts: {part!r} is not NAME=FOLDER with a folder of an artifact and a new name",
                fix="give such as fp8=exports/wan_dit-fp8-onnx-here-0123456789abcdef",
            )
        found[name] = Path(folder)
    if not found:
        raise ConfigError("--artifacts names none", fix="give NAME=FOLDER of at least one artifact")
    return found


def _load(options: argparse.Namespace, folder: Path | None) -> Any:
    """The generator with its own module, or with the artifact in `folder` in its place."""
    model, device = find_generator(options.generator), resolve_device(options.device)
    family: Any = model.loader()
    form = None
    if folder is not None:
        denoise = DenoiseConfig(engine=str(folder))
        outline = family.load(model.path, device=device, dtype=DTYPE, with_weights=False)
        found = exported.find(denoise, model.path, outline, device)
        form = exported.load(found, denoise, device)
    return family.load(
        model.path, device=device, dtype=DTYPE, exported=None if form is None else form.assembled
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.export_quality", description=__doc__)
    take_comparison.add_options(parser)
    parser.add_argument("--artifacts", default="", help="of make: NAME=FOLDER[,NAME=FOLDER...]")
    parser.add_argument("--device", default="cpu")
    return take_comparison.run(parser.parse_args(arguments), make, score)


if __name__ == "__main__":
    sys.exit(main())
