"""Published weights on the present machine: ten scenes end to end, memory against plan, speed; one document.

`make weights-acceptance GENERATOR=DIR CRITIC=DIR` runs it. This project was written without published
weights, so this is what a user who has them has to show. Scores nothing: the scenes are simulated, and the
models never saw such. Whatever is missing is said at once, all of it.
"""

from __future__ import annotations

import argparse
import datetime
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.console import user_error
from bench.files import write_json
from engine.build.libraries import without_unused
from engine.build.model_folders import find_critic, find_generator
from engine.commands._progress import PlainDisplay
from engine.demo.scenes import choose_kinds, make_scene
from engine.demo.scenes.base import FPS, HELD_OUT_SEED0, NUM_PREFIX_FRAMES
from engine.errors import ConfigError, RetakeError
from engine.machine.device import resolve_device
from engine.runs.manifest import MANIFEST, collect, read_manifest
from engine.runs.timeline import totals
from engine.runs.trace_file import read_trace
from engine.settings.config import RunConfig, load_config
from engine.types import Attempt
from engine.video.files import write_mp4
from engine.words import counted

KIND, SCHEMA = "weights_acceptance", 1
SIZE_PX = 512
"""Of the prefixes; the generator reads them at its own size."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if found := missing(options):
        for line in found:
            print(f"missing: {line}", file=sys.stderr)
        return 2
    with without_unused():
        document = run(options)
    write_json(options.json, document)
    print(f"{'passed' if document['passed'] else 'NOT passed'}; send us {options.json}")
    return 0 if document["passed"] else 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.perf.weights_acceptance", description=__doc__)
    parser.add_argument("--generator", default="", help="a diffusers folder of Wan2.2-TI2V")
    parser.add_argument("--critic", default="", help="a transformers folder of Qwen3-VL or Qwen2.5-VL")
    parser.add_argument("--scenes", type=int, default=10, help="how many")
    parser.add_argument("--loops", type=int, default=1, help="refinement rounds of each")
    parser.add_argument("--steps", type=int, help="denoise steps; default: as the model folder says")
    parser.add_argument("--preset", default="fast", help="exact, fast or fastest")
    parser.add_argument("--device", default="cuda", help="cpu: to try the command itself with small models")
    parser.add_argument("--out", type=Path, help="run folder; default: a new one in runs")
    parser.add_argument("--json", type=Path, default=Path("weights_acceptance.json"))
    return parser.parse_args(arguments)


def missing(options: argparse.Namespace) -> list[str]:
    """A line for each thing without which nothing can be run, with its fix; bundled models are not meant."""
    found = []
    for what, wanted, find in (
        ("generator", "a diffusers folder of Wan2.2-TI2V", find_generator),
        ("critic", "a transformers folder of Qwen3-VL or Qwen2.5-VL", find_critic),
    ):
        name = str(getattr(options, what))
        if not name or name == "demo":
            found.append(f"the {what}: give {what.upper()}=DIR, {wanted}")
        else:
            found += _refusal(f"the {what}", partial(find, name))
    return found + _refusal("the device", partial(resolve_device, options.device))


def _refusal(what: str, ask: Callable[[], object]) -> list[str]:
    try:
        ask()
    except RetakeError as error:
        return [f"{what}: {error}"]
    return []


class Watch(PlainDisplay):
    """A line for what is stored; when each scenario ended, in seconds on the clock of perf_counter."""

    def __init__(self, num_scenarios: int) -> None:
        super().__init__(Console(), num_scenarios)
        self.ended_s: list[float] = []

    def finished(self, scenario_ids: Iterable[str]) -> None:
        super().finished(scenario_ids)
        self.ended_s += [time.perf_counter() for _ in scenario_ids]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The whole document. RetakeError for what does not fit before the first take; later it is a failure."""
    from bench.perf.end_to_end.measured import Window, timed  # imports the models' libraries
    from engine.build.needs import plan_run
    from engine.build.run import build_run

    out = options.out or Path("runs") / f"weights-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    write_clips(out / "clips", options.scenes)
    config = settings(options, out)
    needs = plan_run(config, timed=False)
    print(
        f"planned: {needs.memory.required_bytes / 2**30:.1f} of {needs.memory.budget_bytes / 2**30:.1f} GiB"
    )
    seconds: dict[str, float] = {}
    began_s = time.perf_counter()
    with Window() as window, build_run(config) as made:
        timed(seconds, "load", began_s)
        watch, began_s = Watch(made.num_pending), time.perf_counter()
        outcomes = made.execute(watch)
        timed(seconds, "run", began_s)
    manifest = read_manifest(made.folder / MANIFEST)
    peak = window.memory.get("peak_reserved_bytes")
    fits = peak is None or peak <= needs.memory.required_bytes
    failures = {name: one.failure for name, one in outcomes.items() if one.failure is not None}
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "manifest": collect({}, {}, seeds={}, argv=[]),
        "settings": {key: getattr(options, key) for key in ("scenes", "loops", "steps", "preset", "device")},
        "weights_sha256": {role: found["sha256"] for role, found in manifest["models"].items()},
        "resolved": manifest["resolved"],
        "denoiser": manifest["denoiser"],
        "critic": manifest["critic"],
        "plan": needs.document(),
        "peak": {**window.memory, "host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024},
        "within_plan": fits,
        "gpu_samples": window.sampler.summary(),
        "seconds": {**seconds, **per_scenario([end_s - began_s for end_s in watch.ended_s])},
        "lanes": asdict(totals(read_trace(made.folder))),
        "failures": failures,
        "takes": [take_facts(name, take) for name, one in outcomes.items() for take in one.attempts],
        "passed": fits and not failures and len(outcomes) == options.scenes,
    }


def settings(options: argparse.Namespace, out: Path) -> RunConfig:
    given = {
        "dataset": str(out / "clips"),
        "out": str(out),
        "generator.name": options.generator,
        "generator.steps": options.steps,
        "critic.name": options.critic,
        "denoise.preset": options.preset,
        "device": options.device,
        "loop.loops": options.loops,
    }
    return load_config(None, given)


def write_clips(folder: Path, count: int) -> None:
    """Prefixes of simulated scenes as a folder of own clips; what is there already is written again."""
    if count < 1:
        raise ConfigError(f"{counted(count, 'scene')} are no scenes", fix="give --scenes 1 or more")
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(HELD_OUT_SEED0, HELD_OUT_SEED0 + count):
        scene = make_scene(seed, choose_kinds([]))
        frames = scene.render(1, "center", SIZE_PX)[:NUM_PREFIX_FRAMES]
        write_mp4(folder / f"{scene.name}.mp4", frames, FPS)
        (folder / f"{scene.name}.txt").write_text(scene.brief + "\n", encoding="utf-8")


def per_scenario(ended_s: Sequence[float]) -> dict[str, float]:
    """Of seconds since the run began, in the order of ending. The first compiles and tunes; what several
    scenarios take between the first end and the last is what a long run would see."""
    if not ended_s:
        return {}
    found = {"first_scenario": ended_s[0], "scenario": ended_s[-1] / len(ended_s)}
    if len(ended_s) > 1:
        found["warm_scenario"] = (ended_s[-1] - ended_s[0]) / (len(ended_s) - 1)
    return found


def take_facts(scenario_id: str, take: Attempt) -> dict[str, Any]:
    critique = take.critique
    return {
        "scenario": scenario_id,
        "take": take.index,
        "timings_s": take.timings,
        "verdict": None if critique is None else str(critique.verdict),
        "score": None if critique is None else critique.score,
        "tokens": None if critique is None else critique.num_tokens,
        "problem": None if critique is None else critique.problem,
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RetakeError as error:
        sys.exit(user_error(error))
