"""What takes of a generator are worth on tuning scenes, without any loop: is there room for one to improve?

For each kind of prompt the mean of the first take, the spread within a scene and the oracle's gain, and the
two baselines that need no model. World and training are tuned on these alone, and never on what a loop chose.
Frames are scored as they are generated, in memory; a run scores them after H.264.

    python -m bench.quality.take_statistics --generator G --count 120 --takes 8 --out statistics.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from bench.analysis.bootstrap import mean_ci95
from bench.console import page_console, user_error
from bench.files import write_json
from bench.quality.measured_models import manifest_of
from bench.quality.prompt_kinds import BRIEF, PLAN, PROMPT_KINDS, Asked, prompt_texts
from bench.quality.take_score import RealTakes, reduced, score_take
from bench.quality.trivial import BASELINES
from engine.build.model_folders import find_generator
from engine.demo.scenes import WIDE, WORLDS, choose_kinds, make_scene
from engine.demo.scenes.base import NUM_ANSWER_FRAMES, SWITCH, Labels, Scene
from engine.demo.scenes.seeds import HELD_OUT, TUNING
from engine.demo.training.batch_sampler import (
    GUIDANCE_SCALE,
    NUM_INFERENCE_STEPS,
    generate_takes,
    load_generator,
)
from engine.errors import ConfigError, RetakeError
from engine.machine.device import resolve_device
from engine.settings.config import BUNDLED
from engine.settings.environment import offline, usable_cores
from engine.types import Frames
from engine.words import counted

SIZE_PX = 128
NOTES = (
    "Scores are Physics-IQ Verified case scores in percent, of frames before H.264; intervals 95 %, "
    "percentile bootstrap over scenes.",
    "first_take: mean of each scene's first take. spread: mean over scenes of the standard deviation of its "
    "takes (n - 1). oracle_minus_mean: the best take by the score itself less the mean of the takes.",
    "minus_brief: mean of all takes of a prompt less that of the brief text's, paired by scene; equal noise.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One scene as takes are judged on it."""

    scene: Scene
    asked: Asked
    labels: Labels | None
    prefix: Frames  # uint8 [24, S, S, 3]
    takes: RealTakes
    baselines: dict[str, float]  # score of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Scores of each kind of prompt, float64 [scenes, takes]."""

    references: Sequence[Reference]
    prompts: Mapping[str, np.ndarray]


def make_reference(scene: Scene) -> Reference:
    """Both takes of a scene, centre view, its texts and the scores of the baselines."""
    one, two = (scene.render(take, "center", SIZE_PX) for take in (1, 2))
    takes = reduced(one[SWITCH:]), reduced(two[SWITCH:])
    found = {
        name: score_take((takes, make(one[:SWITCH], NUM_ANSWER_FRAMES))) for name, make in BASELINES.items()
    }
    brief, plan = scene.kind.describe(scene.params, scene.kind.simulate(scene.params))
    return Reference(
        scene=scene,
        asked=Asked(brief=brief, plan=plan, group=scene.kind.name),
        labels=scene.labels,
        prefix=one[:SWITCH],
        takes=takes,
        baselines=found,
    )


Generate = Callable[[Sequence[Frames], Sequence[str], int], list[Frames]]
"""Prefixes, one text each, and the number of the take, which decides the noise, to takes."""


def generator_of(folder: Path, device: str, *, batch: int, steps: int) -> Generate:
    """Takes in batches by the modules of a demo generator's folder."""
    modules = load_generator(folder, device)

    def generate(prefixes: Sequence[Frames], texts: Sequence[str], take: int) -> list[Frames]:
        made: list[Frames] = []
        for start in range(0, len(prefixes), batch):
            some = torch.from_numpy(np.stack(prefixes[start : start + batch])).to(device)
            noise = torch.Generator(device).manual_seed(1_000_003 * take + start)
            takes = generate_takes(
                modules, some, list(texts[start : start + batch]), num_inference_steps=steps,
                guidance_scale=GUIDANCE_SCALE, generator=noise,
            )  # fmt: skip
            made += list(takes.cpu().numpy())
        return made

    return generate


def score_all(
    references: Sequence[Reference],
    generate: Generate,
    prompts: Sequence[str],
    *,
    takes: int,
    score: Callable[[Iterable[tuple[RealTakes, Frames]]], Iterable[float]],
) -> Scored:
    """Every take of every prompt. The noise of a take is the same under each prompt, as in the loop."""
    prefixes, real = ([getattr(r, name) for r in references] for name in ("prefix", "takes"))
    found = {}
    for kind in prompts:
        texts = prompt_texts(kind, [reference.asked for reference in references])
        columns = [
            list(score(zip(real, generate(prefixes, texts, take), strict=True))) for take in range(takes)
        ]
        found[kind] = np.array(columns, np.float64).T
        print(
            f"{kind}: {found[kind].mean():.1f} over {counted(found[kind].size, 'take')}",
            file=sys.stderr,
            flush=True,
        )
    return Scored(references=references, prompts=found)


def statistics(scored: Scored, chosen: Sequence[int]) -> dict[str, Any]:
    """The figures of the scenes with these places."""
    references = [scored.references[place] for place in chosen]
    names = [reference.scene.name for reference in references]
    found: dict[str, Any] = {"n": len(names)}
    for name in BASELINES:
        found[name] = mean_ci95([reference.baselines[name] for reference in references], names)
    base = scored.prompts[BRIEF][list(chosen)].mean(axis=1) if BRIEF in scored.prompts else None
    for kind, scores in scored.prompts.items():
        own = scores[list(chosen)]
        figures = {
            "first_take": mean_ci95(own[:, 0].tolist(), names),
            "mean": mean_ci95(own.mean(axis=1).tolist(), names),
            "oracle_minus_mean": mean_ci95((own.max(axis=1) - own.mean(axis=1)).tolist(), names),
        }
        if own.shape[1] > 1:
            figures["spread"] = mean_ci95(own.std(axis=1, ddof=1).tolist(), names)
        if base is not None and kind != BRIEF:
            figures["minus_brief"] = mean_ci95((own.mean(axis=1) - base).tolist(), names)
        found[kind] = figures
    return found


def document(scored: Scored) -> dict[str, Any]:
    """All scenes, and by category, kind, simple or not, and failure type."""
    groups: dict[str, dict[str, list[int]]] = {}

    def put(group: str, name: str, place: int) -> None:
        groups.setdefault(group, {}).setdefault(name, []).append(place)

    for place, reference in enumerate(scored.references):
        put("by_category", reference.scene.category, place)
        put("by_kind", reference.scene.kind.name, place)
        if reference.labels is not None:
            put("by_simple", "simple" if reference.labels.simple else "not simple", place)
            for failure in reference.labels.failures:
                put("by_failure", failure, place)
    everything = statistics(scored, range(len(scored.references)))
    return everything | {
        group: {name: statistics(scored, places) for name, places in sorted(entries.items())}
        for group, entries in groups.items()
    }


def tuning_scenes(world: str, count: int) -> list[Scene]:
    """The first `count` tuning scenes. ConfigError for more than there are: others are held out."""
    if not 0 < count <= TUNING.count:
        raise ConfigError(
            f"--count {count} is not 1 to {TUNING.count}, the tuning scenes",
            fix=f"give {TUNING.count} or fewer; held-out scenes (from seed {HELD_OUT.first}) are for the end",
        )
    kinds = choose_kinds([], world)
    return [make_scene(seed, kinds) for seed in TUNING.seeds[:count]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.take_statistics", description=__doc__)
    parser.add_argument("--generator", default=BUNDLED, help='"demo" or a folder that training wrote')
    parser.add_argument("--world", choices=tuple(WORLDS), default=WIDE)
    parser.add_argument("--count", type=int, default=TUNING.count, help="number of tuning scenes")
    parser.add_argument("--takes", type=int, default=8, help="takes of each prompt")
    parser.add_argument("--prompts", nargs="+", choices=PROMPT_KINDS, default=[BRIEF, PLAN])
    parser.add_argument("--steps", type=int, default=NUM_INFERENCE_STEPS)
    parser.add_argument("--batch", type=int, default=60, help="takes denoised together")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, help="processes that render and score; default: every core")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = page_console()
    offline()
    try:
        scenes = tuning_scenes(options.world, options.count)
        folder, device = find_generator(options.generator).path, resolve_device(options.device)
        workers = options.workers or usable_cores()
        with ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
        ) as pool:
            references = list(pool.map(make_reference, scenes))
            generate = generator_of(folder, device, batch=options.batch, steps=options.steps)
            scored = score_all(
                references, generate, options.prompts, takes=options.takes,
                score=lambda tasks: pool.map(score_take, tasks, chunksize=4),
            )  # fmt: skip
    except RetakeError as error:
        return user_error(error)
    settings = {name: getattr(options, name) for name in ("world", "count", "takes", "steps")}
    measured_on = manifest_of({"generator": folder}) | {"device": device}
    found = document(scored) | {"settings": settings, "measured_on": measured_on, "notes": NOTES}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, found)
    for name, entry in found.items():
        if name in PROMPT_KINDS:
            told = "  ".join(f"{key} {value['mean']:.1f}" for key, value in entry.items())
            console.print(f"{name:12s} {told}", markup=False, highlight=False)
        elif name in BASELINES:
            console.print(f"{name:12s} {entry['mean']:.1f}", markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
