"""Variants of one generator on the same scenes and seeds: their takes, and how each differs from the first.

Shared by the measurements of denoisers. Knows no variant: who calls says how each is loaded. Making may be
split over processes; a variant that cannot be loaded is left out with its reason, the first one must load.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from bench.analysis.bootstrap import mean_ci95
from bench.console import user_error
from bench.files import write_json
from bench.quality.measured_models import manifest_of
from bench.quality.scene_parts import require_bundled_world, require_held_out
from bench.scoring.physics_iq import score_folder
from bench.scoring.view_metrics import Case, case_score, original_score
from engine.build.model_folders import find_generator
from engine.datasets.physics_iq import open_dataset, read_descriptions
from engine.errors import ConfigError, RetakeError
from engine.loop.policy import scenario_seed
from engine.machine.device import resolve_device, use_threads
from engine.settings.config import BUNDLED
from engine.settings.environment import num_threads, offline
from engine.settings.notation import shard_of
from engine.types import Frames, Prompt, Scenario
from engine.video.files import write_mp4
from engine.words import counted

Result = TypeVar("Result")
Step = Callable[[argparse.Namespace, Console], Result]
"""A command's step: its options, and where it tells how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """`load` reads a generator with its `notes`; RetakeError when this one cannot be had here."""

    name: str
    load: Callable[[], Any]


@dataclass(slots=True)
class Shard:
    """What one process makes: records of the takes, kept on disk as they come."""

    path: Path
    generator: Path
    records: list[dict[str, Any]]

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        manifest = manifest_of({"generator": self.generator})
        write_json(self.path, {"manifest": manifest, "records": self.records})


def make(variants: Sequence[Variant], options: argparse.Namespace, console: Console) -> None:
    """Write the clips of this shard below WORK/clips/VARIANT and its records to WORK/records."""
    offline()
    if resolve_device(options.device) == "cpu":
        use_threads(num_threads())
    path = options.work / "records" / f"{options.shard.replace('/', '-of-')}.json"
    shard = Shard(path, find_generator(options.generator).path, [])
    scenarios: list[Scenario] = []
    base: dict[str, Frames] = {}
    for variant in variants:
        try:
            generator = variant.load()
        except RetakeError as error:
            if variant is variants[0]:
                raise
            shard.records.append({"variant": variant.name, "reason": str(error)})
            shard.write()
            console.print(f"{variant.name}: {error}", markup=False, highlight=False)
            continue
        scenarios = scenarios or _scenarios(options, generator.spec.fps)
        take(generator, scenarios[0])  # compiles, probes and tunes before anything is timed
        for scenario in scenarios:
            start_s = time.perf_counter()
            frames, num_steps = take(generator, scenario)
            record = {
                "variant": variant.name,
                "scenario": scenario.id,
                "ms": 1e3 * (time.perf_counter() - start_s),
                "steps": num_steps,
                "choices": dict(generator.notes),
            }
            base.setdefault(scenario.id, frames)
            shard.records.append(record | difference(frames, base[scenario.id]))
            write_mp4(clips(options.work, variant.name) / scenario.output_name, frames, generator.spec.fps)
        console.print(f"{variant.name}: {counted(len(scenarios), 'take')}", markup=False, highlight=False)
        del generator
        gc.collect()
        shard.write()


def read_shards(work: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records of all shards, and the manifest of the first."""
    shards = [json.loads(path.read_text()) for path in sorted((work / "records").glob("*.json"))]
    if not shards:
        raise ConfigError(f"{work} holds no records", fix="run `make` first")
    return [record for shard in shards for record in shard["records"]], shards[0]["manifest"]


def score(
    settings: Mapping[str, Mapping[str, Any]], options: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """What every document of a comparison has: rows of the variants in `settings`, the first is the base."""
    records, manifest = read_shards(options.work)
    base, made = next(iter(settings)), [name for name in settings if _taken(name, records)]
    cases: dict[str, dict[str, Any]] = {}
    for name in made:
        scores = score_folder(clips(options.work, name), options.dataset)
        cases[name] = {case.scenario_id: case for case in scores.cases}
        console.print(f"scored {name}: {counted(len(cases[name]), 'clip')}", markup=False, highlight=False)
    return {
        "num_scenarios": len(cases[base]),
        "rows": [
            _row(name, settings[name], _taken(name, records), cases[name], cases[base]) for name in made
        ],
        "not_run": {r["variant"]: r["reason"] for r in records if "reason" in r},
        "manifest": manifest,
    }


def take(generator: Any, scenario: Scenario) -> tuple[Frames, int]:
    """The first take of a run with seed 0, and its number of denoising steps."""
    seed = scenario_seed(0, scenario.id)
    prompt = Prompt(text=scenario.text, negative=generator.negative_prompt, seed=seed, revision=0)
    job, last = generator.start(scenario, prompt), None
    while job.steps_left:
        last = job.launch()
    if last is not None:
        last.wait()
    return job.result().frames, job.num_denoised


def difference(frames: Frames, base: Frames) -> dict[str, float | None]:
    """PSNR in dB (None for equal frames) and ||a - b|| / ||b|| of the pixels."""
    a, b = frames.astype(np.float64), base.astype(np.float64)
    mse = float(np.mean((a - b) ** 2))
    return {
        "psnr_db": None if mse == 0 else 10 * float(np.log10(255.0**2 / mse)),
        "relative_error": float(np.linalg.norm(a - b) / np.linalg.norm(b)),
    }


def paired(cases: Mapping[str, Case], base: Mapping[str, Case]) -> dict[str, Any]:
    """Case scores over the scenarios that both have, at least one, by id: of each, and the difference."""
    common = sorted(cases.keys() & base.keys())
    scenes = [cases[key].scene for key in common]
    scores, before = ([case_score(found[key].metrics).score for key in common] for found in (cases, base))
    return {
        "num_scenarios": len(common),
        "score": mean_ci95(scores, scenes),
        "base_score": mean_ci95(before, scenes),
        "difference": mean_ci95([a - b for a, b in zip(scores, before, strict=True)], scenes),
    }


def clips(work: Path, variant: str) -> Path:
    return work / "clips" / variant.replace(" ", "_")


def print_rows(document: Mapping[str, Any], console: Console) -> None:
    for row in document["rows"]:
        found = row["difference"]
        console.print(
            f"{row['name']:36s} score {row['score']['mean']:6.2f}  difference {found['mean']:+.2f} "
            f"({found['ci95'][0]:+.2f} to {found['ci95'][1]:+.2f})  {row['ms_per_take']:.0f} ms",
            markup=False,
            highlight=False,
        )


def run(options: argparse.Namespace, make: Step[None], score: Step[dict[str, Any]]) -> int:
    """The step that was asked for; the exit status. A user's error is told in a line."""
    console = Console(soft_wrap=True)
    try:
        if options.step == "make":
            make(options, console)
            return 0
        document = score(options, console)
    except RetakeError as error:
        return user_error(error)
    print_rows(document, console)
    if options.out is not None:
        write_json(options.out, document)
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of both steps; --variants and the like are the caller's own."""
    parser.add_argument("step", choices=("make", "score"))
    parser.add_argument(
        "--dataset", type=Path, required=True, help="scenes of `retake scenes`, or a benchmark"
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--generator", default=BUNDLED, help='"demo" or a folder')
    parser.add_argument("--shard", default="1/1", help="K/N: the K-th of N parts of the scenes")
    parser.add_argument("--out", type=Path, help="of score: the JSON file")


def _scenarios(options: argparse.Namespace, fps: float) -> list[Scenario]:
    part, parts = shard_of(options.shard)
    found = list(open_dataset(options.dataset).scenarios(fps))[part - 1 :: parts]
    if not found:
        raise ConfigError(f"part {options.shard} of {options.dataset} holds no scene", fix="use fewer parts")
    if options.generator == BUNDLED:
        scenes = {row.scene for row in read_descriptions(options.dataset)}
        require_bundled_world(scenes)
        require_held_out(scenes)
    return found


def _taken(name: str, records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [record for record in records if record["variant"] == name and "ms" in record]


def _row(
    name: str,
    settings: Mapping[str, Any],
    own: Sequence[Mapping[str, Any]],
    cases: Mapping[str, Any],
    base: Mapping[str, Any],
) -> dict[str, Any]:
    common = sorted(cases.keys() & base.keys())
    found = paired(cases, base)
    psnr = [record["psnr_db"] for record in own if record["psnr_db"] is not None]
    errors = [record["relative_error"] for record in own]
    return {
        "name": name,
        "settings": dict(settings),
        **{key: found[key] for key in ("num_scenarios", "score", "difference")},
        "physics_iq": original_score([cases[key] for key in common]),
        "psnr_db": None
        if not psnr
        else {"median": float(np.median(psnr)), "p10": float(np.percentile(psnr, 10))},
        "relative_error": {"median": float(np.median(errors)), "p90": float(np.percentile(errors, 90))},
        "ms_per_take": float(np.median([record["ms"] for record in own])),
        "steps": float(np.mean([record["steps"] for record in own])),
        "choices": own[0]["choices"],
    }
