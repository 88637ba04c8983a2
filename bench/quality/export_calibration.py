"""The scales file of the bundled generator, and what each recipe then does to each of its layers.

Magnitudes are seen on training scenes, errors on held-out ones, both along real denoise trajectories. The
file is bound to the checkpoint by its digest; `retake export demo` takes it instead of recording.

    python -m bench.quality.export_calibration scales --scenes 12
    python -m bench.quality.export_calibration errors --scenes 2 --plots docs --out export_errors.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.console import user_error
from bench.files import write_json
from bench.quality import export_trajectories
from bench.quality.measured_models import manifest_of
from engine.build.model_folders import MODELS, find_generator
from engine.errors import RetakeError
from engine.generators.wan import generator as wan
from engine.machine.device import use_threads
from engine.settings.config import BUNDLED
from engine.settings.environment import num_threads, offline
from engine.words import counted
from export import generator_inputs
from export.forms import DENSE
from export.pipeline import ONNX
from export.quantization.calibrate import OUTPUT, ErrorTable, Forward, errors, observe, plot, worst
from export.quantization.quantize import quantize
from export.quantization.scales import Scales, read_scales, write_scales
from export.spec import Profile, Subject
from export.subjects import wan_dit, wan_forms

SCALES = MODELS / "scales" / f"{wan_dit.SUBJECT}.safetensors"
RECIPES = ("fp8", "fp8-attention", "int8", "int4")
NUM_WORST = 5
NOTES = (
    "A layer's error is norm(difference) / norm(exact) of its output when it is given the inputs of the "
    "unquantized fp32 module, so that a bad layer shows where it is; the row `output` is the velocity of the "
    "whole module, where errors add up.",
    "Timesteps go from noise (1000) to clean; scenes are held out, calibration saw training scenes alone.",
)


def calibrate(folder: Path, num_scenes: int) -> Scales:
    """The magnitudes in `num_scenes` takes of training scenes, by the generator of `folder` in fp32."""
    forwards, profile = _forwards(folder, num_scenes, held_out=False)
    producer = (
        f"bench.quality.export_calibration: {counted(num_scenes, 'training scene')}, seeds from "
        f"{export_trajectories.SEED0}, fp32"
    )
    return observe(_subject(folder, profile), forwards, producer=producer)


def tables(
    folder: Path, scales: Scales, recipes: Sequence[str], num_scenes: int, tell: Callable[[str], None]
) -> list[ErrorTable]:
    """One table a recipe, all on the same forwards."""
    forwards, profile = _forwards(folder, num_scenes, held_out=True)
    found = []
    for recipe in recipes:
        quantized = quantize(_subject(folder, profile), recipe, scales)
        found.append(errors(_subject(folder, profile), quantized, recipe, forwards))
        tell(f"{recipe}: worst layers {worst(found[-1], NUM_WORST)}")
    return found


def document(
    made: Sequence[ErrorTable], scales: Scales, num_scenes: int, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """A row a recipe for the page of results, and the whole tables."""
    return {
        "schema": 1,
        "kind": "export_errors",
        "command": "python -m bench.quality.export_calibration errors",
        "num_scenarios": num_scenes,
        "scales": {"producer": scales.producer, "num_forwards": scales.num_forwards},
        "rows": [_row(table) for table in made],
        "tables": [table.record() for table in made],
        "notes": NOTES,
        "manifest": manifest,
    }


def _row(table: ErrorTable) -> dict[str, Any]:
    whole = [table.cells[OUTPUT, timestep] for timestep in table.timesteps]
    peak = worst(table, 1)
    ((layer, error),) = peak.items()
    return {
        "name": table.recipe,
        "num_layers": len(table.layers) - 1,
        "largest_output_error": max(cell.relative for cell in whole),
        "smallest_output_cosine": min(cell.cosine for cell in whole),
        "worst_layer": layer,
        "worst_layer_error": error,
    }


def _forwards(folder: Path, num_scenes: int, *, held_out: bool) -> tuple[list[Forward], Profile]:
    generator = wan.load(folder, device="cpu", dtype="fp32")
    profile = export_trajectories.bundled_profile(generator)
    spec = _subject(folder, profile).spec
    return list(export_trajectories.collect(spec, generator, num_scenes, held_out=held_out)), profile


def _subject(folder: Path, profile: Profile) -> Subject:
    """In the form that a graph of this generator has."""
    _, made = generator_inputs.outline(str(folder))
    form = generator_inputs.form_of(folder, made, DENSE, wan_dit.SUBJECT, ONNX)
    return wan_forms.prepare(folder, profiles=(profile,), form=form, dtype="fp32")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.export_calibration", description=__doc__)
    parser.add_argument("step", choices=("scales", "errors"))
    parser.add_argument("--generator", default=BUNDLED, help='"demo" or a folder')
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--scales", type=Path, default=SCALES, help="written by scales, read by errors")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--plots", type=Path, help="of errors: folder of the SVG files")
    parser.add_argument("--out", type=Path, help="of errors: the JSON file")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    offline()
    use_threads(num_threads())
    try:
        folder = find_generator(options.generator).path
        with torch.inference_mode():
            if options.step == "scales":
                made = calibrate(folder, options.scenes)
                write_scales(options.scales, made)
                console.print(f"{options.scales}: {counted(made.num_forwards, 'forward')}")
                return 0
            scales = read_scales(options.scales)
            found = tables(folder, scales, options.recipes.split(","), options.scenes, console.print)
    except RetakeError as error:
        return user_error(error)
    if options.out is not None:
        write_json(options.out, document(found, scales, options.scenes, manifest_of({"generator": folder})))
    if options.plots is not None:
        for table in found:
            plot(table, options.plots / f"export-errors-{table.recipe}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
