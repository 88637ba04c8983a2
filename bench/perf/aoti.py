"""AOTInductor packages of a full-size Wan transformer against the same module, eager and by torch.compile.

Every way to a first forward runs in a process of its own, with a compile cache of its own; one last process
times all of them in turn, and none that is not close to the eager module. A step that was finished below
--work is not run again, so that an interrupted measurement goes on. Random weights: speed and memory only.

    python -m bench.perf.aoti --out bench/results/aoti_h100.json     # a GPU and a C++ compiler
    python -m bench.perf.aoti --tiny --out aoti.json                 # a dry run, on a CPU too
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.perf import aoti_steps
from bench.perf.aoti_steps import STEPS, Job
from bench.perf.document import this_machine
from engine.runs.manifest import write_manifest
from engine.words import command_line

RECIPES = ("bf16", "fp8")
STARTED_S = time.perf_counter()
NOTES = (
    "Random weights: speed and memory only. relative_error and cosine are against the eager module of the "
    "same recipe; the eager FP8 module is compared with the eager bf16 one, and that with the library's.",
    "The compiled module is the same one, whole, by torch.compile(fullgraph=True). The runtime compiles one "
    "block and reuses it: its cold first call is in the denoiser measurement.",
    "Packages are made and modules compiled cold by processes that run at the same time, each with an empty "
    "cache. Loading a package is measured alone, its file in the page cache; so is compiling with the filled "
    "cache, where first_call_s includes tracing the module again.",
    "A package brings its weights: load_s includes their way to the device. A compiled one has them before.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A process: `of` is a function of STEPS, `cache` the folder of its compile cache below --work."""

    of: str
    recipe: str
    cache: str

    @property
    def name(self) -> str:
        return f"{self.of}-{self.recipe}"


TOGETHER = tuple(
    Step(of=of, recipe=recipe, cache=f"cache-{of}-{recipe}")
    for of in ("package", "cold")
    for recipe in RECIPES
)
ALONE = (
    *(Step(of="load", recipe=recipe, cache="cache-unused") for recipe in RECIPES),
    Step(of="measure", recipe=",".join(RECIPES), cache="cache-warm"),
)


def run(options: argparse.Namespace, write: Any) -> None:
    """All steps; `write` is called after each."""
    with ThreadPoolExecutor(max_workers=options.jobs) as pool:
        for _ in pool.map(lambda step: run_step(step, options), TOGETHER):
            write()
    warm = options.work / ALONE[-1].cache
    for step in TOGETHER:  # entries are named by their content: those of several caches do not collide
        if step.of == "cold" and (options.work / step.cache).is_dir():
            shutil.copytree(options.work / step.cache, warm, dirs_exist_ok=True)
    for step in ALONE:
        run_step(step, options)
        write()


def run_step(step: Step, options: argparse.Namespace) -> None:
    """A process that writes WORK/NAME.json; one that dies is recorded with its exit code."""
    path = options.work / f"{step.name}.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("finished"):
        say(f"{step.name}: done before")
        return
    path.unlink(missing_ok=True)
    command = ["env", f"TORCHINDUCTOR_CACHE_DIR={options.work / step.cache}"]
    command += [sys.executable, "-m", "bench.perf.aoti", "--step", step.name, "--work", str(options.work)]
    command += ["--rounds", str(options.rounds), "--spawned", str(time.time())]
    command += ["--tiny"] * options.tiny
    started = time.perf_counter()
    code = subprocess.run(command, check=False).returncode  # nosec B603 # our own interpreter
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if code != 0 and "reason" not in told:
        write_manifest(path, told | {"reason": f"the process ended with code {code}"})
    say(f"{step.name}: {time.perf_counter() - started:.1f} s, code {code}")


def document(options: argparse.Namespace, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What is there so far, below --work."""
    found = {
        step.name: json.loads(path.read_text(encoding="utf-8"))
        for step in (*TOGETHER, *ALONE)
        if (path := options.work / f"{step.name}.json").is_file()
    }
    measured = found.get(ALONE[-1].name, {})
    rows = [
        row if "ms" in row or "reason" in row else row | {"reason": "interrupted before it was timed"}
        for row in measured.get("rows", [])
    ]
    packages = {recipe: found.get(f"package-{recipe}", {}) for recipe in RECIPES}
    return {
        "schema": 1,
        "kind": "aoti",
        "command": command_line(
            *("python", "-m", "bench.perf.aoti", "--rounds", options.rounds, "--jobs", options.jobs),
            *(["--tiny"] if options.tiny else []),
        ),
        "manifest": manifest,
        "notes": NOTES,
        "processes_at_once": options.jobs,
        "rows": rows,
        "packages": [{"name": name, **step} for name, step in packages.items() if "compile_s" in step],
        "starts": [start for recipe in RECIPES for start in _starts(recipe, found, rows)],
        "failed": {name: step["reason"] for name, step in found.items() if "reason" in step},
    }


def _starts(recipe: str, found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The ways to a first forward, as far as they were measured."""
    warm = {row["name"]: row for row in rows}.get(f"torch.compile {recipe}", {})
    ways = {
        f"AOTI {recipe}, package loaded": found.get(f"load-{recipe}", {}),
        f"torch.compile {recipe}, empty cache": found.get(f"cold-{recipe}", {}),
        f"torch.compile {recipe}, filled cache": warm,
    }
    keys = ("import_s", "load_s", "first_call_s", "cache_hits", "cache_misses")
    starts = [{"name": name, **{key: way[key] for key in keys if key in way}} for name, way in ways.items()]
    return [start for start in starts if "first_call_s" in start]


def say(text: str) -> None:
    print(f"[{time.perf_counter() - STARTED_S:6.1f} s] {text}", flush=True)


def child(options: argparse.Namespace) -> int:
    """One step; its record is written whatever happens."""
    of, _, recipe = options.step.partition("-")
    job = Job(
        name=options.step,
        recipe=recipe,
        work=options.work,
        spawned_s=options.spawned,
        tiny=options.tiny,
        rounds=options.rounds,
    )
    return 0 if aoti_steps.run(job, STEPS[of]) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.perf.aoti", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a few layers; on a CPU where there is no GPU")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=4, help="processes that compile at the same time")
    parser.add_argument("--work", type=Path, help="kept, to go on from; default: below .benchmarks")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--spawned", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    folder = "aoti" + "-tiny" * options.tiny
    options.work = (options.work or Path(".benchmarks") / folder).resolve()
    if options.step:
        return child(options)
    options.work.mkdir(parents=True, exist_ok=True)
    manifest = this_machine()

    def write() -> None:
        if options.out is not None:
            write_manifest(options.out, document(options, manifest))

    run(options, write)
    write()
    found = document(options, manifest)
    for row in (*found["packages"], *found["starts"], *found["rows"]):
        say(json.dumps({key: value for key, value in row.items() if key != "ms"}))
    for name, reason in found["failed"].items():
        say(f"FAILED {name}: {reason}")
    return 1 if found["failed"] or any("reason" in row for row in found["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
