"""Scouts that share each forward beside scouts that are made one at a time: seconds, and whether bits differ.

Whole scouts of one scene, of its sentence with as many seeds, as `--scout-batch` denoises them. Timed are
their denoise steps: all else is the same in both. Each way comes once before it is timed, so that what is
compiled, captured or encoded once is over.

    python -m bench.perf.scout_batches --generator DIR --dataset CLIPS --together 2 4 8 --out found.json
    python -m bench.perf.scout_batches --generator demo --together 2 --rounds 1 --out tiny.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.console import user_error
from bench.files import write_json
from bench.perf.document import check, headed, told
from bench.perf.takes_alone import denoise_steps_s, relative_error, seeing
from engine.build.model_folders import find_generator
from engine.build.opened_dataset import open_dataset
from engine.build.prepare import load_generator
from engine.demo.layout import write_dataset
from engine.demo.scenes import choose_kinds, make_scene
from engine.demo.scenes.base import FPS, HELD_OUT_SEED0
from engine.errors import ConfigError, RetakeError
from engine.machine.device import resolve_device, resolve_dtype
from engine.settings.config import BUNDLED, RunConfig, load_config
from engine.settings.environment import offline
from engine.types import Prompt, Scenario, ScoutForm
from engine.words import command_line

LARGEST_ERROR = 0.05
"""Of latents of a batch against those of scouts alone (L2): beyond rounding, a row would see the others."""


def row(generator: Any, scenario: Scenario, form: ScoutForm, rounds: int) -> dict[str, Any]:
    """Of `form.together` scouts; medians over `rounds`, which take turns."""
    prompts = [
        Prompt(text=scenario.text, negative=generator.negative_prompt, seed=seed, revision=0)
        for seed in range(form.together)
    ]
    shown = tuple(range(len(prompts)))
    single = replace(form, together=1)
    together = _latents(generator, generator.scouts(scenario, prompts, form, shown))
    alone = torch.cat([_latents(generator, generator.scout(scenario, one, single)) for one in prompts])
    together_s, alone_s = [], []
    for _ in range(rounds):
        together_s.append(sum(denoise_steps_s(generator.scouts(scenario, prompts, form, shown))))
        jobs = (generator.scout(scenario, one, single) for one in prompts)
        alone_s.append(sum(sum(denoise_steps_s(job)) for job in jobs))
    found = {"alone_s": statistics.median(alone_s), "together_s": statistics.median(together_s)}
    return {
        "together": form.together,
        **found,
        "times_as_fast": found["alone_s"] / found["together_s"],
        "is_bit_equal": torch.equal(together, alone),
        "relative_error": relative_error(together, alone),
    }


def _latents(generator: Any, job: Any) -> Tensor:
    """That the autoencoder is given, [N, Z, F, h, w]."""
    with seeing(generator.parts.vae.post_quant_conv) as seen:
        while job.steps_left:
            job.launch().wait()
    return torch.cat(seen)


def measure(options: argparse.Namespace, config: RunConfig, dataset: Path) -> dict[str, Any]:
    device = resolve_device(config.device)
    place = (device, resolve_dtype(config.dtype, device))
    generator: Any = load_generator(config, find_generator(config.generator.name), *place, with_weights=True)
    if options.dataset is None and generator.spec.fps != FPS:
        raise ConfigError(
            f"the simulated scene has {FPS} frames a second, {options.generator} takes "
            f"{generator.spec.fps:g}",
            fix="give clips of that rate, a folder of them is enough: --dataset DIR",
        )
    scenario = open_dataset(dataset).scenarios(generator.spec.fps)[0]
    rows = []
    for count in options.together:
        form = ScoutForm(steps=options.scout_steps, whole=True, shrink=options.shrink, together=count)
        rows.append(row(generator, scenario, form, options.rounds))
        print(rows[-1], flush=True)
    worst = max(one["relative_error"] for one in rows)
    settings = {
        **{"device": place[0], "dtype": place[1], "preset": options.preset, "shrink": options.shrink},
        **{"scout_steps": options.scout_steps, "rounds": options.rounds},
    }
    checks = [check("a scout is the one that it is alone, but for rounding", worst < LARGEST_ERROR, worst)]
    head = headed("scout_batches", _command(options), settings, checks)
    return {**head, "generator": dict(generator.notes), "rows": rows}


def _command(options: argparse.Namespace) -> str:
    words = ("bench.perf.scout_batches", "--preset", options.preset, "--together", *options.together)
    return command_line("python", "-m", *words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.perf.scout_batches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the JSON file to write")
    add("--generator", default=BUNDLED, help='"demo" or a folder')
    add(
        "--dataset",
        type=Path,
        help=f"its first scenario; default: a simulated scene, of {FPS} frames a second",
    )
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--dtype", default="auto")
    add("--preset", default="exact", help="of the denoiser")
    add("--together", type=int, nargs="+", default=[2, 4, 8], help="scouts that share each forward")
    add("--scout-steps", type=int, default=2)
    add("--shrink", type=int, default=1, help="as loop.scout_shrink")
    add("--rounds", type=int, default=3)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    offline()
    with tempfile.TemporaryDirectory(prefix="scouts-") as made:
        try:
            dataset = options.dataset
            if dataset is None:
                dataset = Path(made) / "dataset"
                scene = make_scene(HELD_OUT_SEED0, choose_kinds([]))
                write_dataset(dataset, [scene], fps=FPS, views=("perspective-center",), workers=1)
            given = {
                **{"dataset": str(dataset), "out": str(Path(made) / "run")},
                **{"generator.name": options.generator, "denoise.preset": options.preset},
                **{"device": options.device, "dtype": options.dtype},
            }
            document = measure(options, load_config(None, given), dataset)
            write_json(options.out, document)
        except RetakeError as error:
            return user_error(error)
    print(told(document))
    return 0 if document["all_checks_hold"] else 1


if __name__ == "__main__":
    sys.exit(main())
