"""How long `retake demo` takes, start to report, on this GPU and on two cores of this machine's CPU.

    python -m bench.quality.demo_seconds --out bench/results/demo_seconds_h200.json --budget 300

Every run is the command itself in a process and folder of its own. The first on each device is cold: it
makes the caches that the later ones find. Both devices run at once, on cores of
their own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess  # nosec B404 # this interpreter, the command
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.analysis.scored_run import read_run
from bench.files import write_json
from engine.errors import ConfigError
from engine.runs.manifest import surroundings

KIND = "demo_seconds"
CORES = 2
"""Of the CPU, as in the setting of continuous integration."""
DEVICES = ("gpu", "cpu")
AIMS = {"gpu_warm_s": 30.0, "cpu_over_gpu": 3.0}
NOTES = (
    "seconds is the wall time of the process: imports, models, six scenarios, scores and report.",
    f"cpu runs with CUDA_VISIBLE_DEVICES empty on {CORES} cores of the machine that holds the GPU.",
    "The devices do not make equal takes: kernels and precision differ. mean_score says what each one made.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--rounds", type=int, default=3, help="of both devices; the first is cold; 3")
    parser.add_argument("--budget", type=float, default=600.0, metavar="SECONDS", help="of all; 600")
    parser.add_argument("--only", choices=DEVICES, help="one of the devices, for a look: no ratio then")
    parser.add_argument("options", nargs="*", metavar="OPTION", help="for retake demo, after --")
    asked = parser.parse_args()
    devices = (asked.only,) if asked.only else DEVICES
    around = surroundings()
    if "gpu" in devices and not around["machine"]["gpus"]:
        raise ConfigError("this machine has no GPU", fix="--only cpu measures the CPU alone")
    runs = measure(devices, asked.rounds, asked.budget, asked.options)
    words = ["python -m bench.quality.demo_seconds", *["--", *asked.options] * bool(asked.options)]
    found = summary(runs)
    document = {
        "schema": 1,
        "kind": KIND,
        "command": " ".join(words),
        "cores": CORES,
        "notes": NOTES,
        "summary": found,
        "aims": AIMS,
        "runs": runs,
        "measured_on": around,
    }
    write_json(asked.out, document)
    for name, value in found.items():
        print(f"{name:16s} {value:8.2f}")


def measure(
    devices: Sequence[str], rounds: int, budget_s: float, options: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The runs of each device, oldest first. Raises ConfigError where one fails."""
    with ThreadPoolExecutor() as pool:
        waiting = {device: pool.submit(repeat, device, rounds, budget_s, options) for device in devices}
        return {device: future.result() for device, future in waiting.items()}


def repeat(device: str, rounds: int, budget_s: float, options: Sequence[str]) -> list[dict[str, Any]]:
    """No run is begun that would outlast the budget by the time of the one before."""
    began_s = time.perf_counter()
    runs: list[dict[str, Any]] = []
    for _ in range(rounds):
        left_s = budget_s - (time.perf_counter() - began_s)
        if runs and runs[-1]["seconds"] > left_s:
            break
        runs.append(once(device, left_s, options))
        print(f"{device}: {runs[-1]['seconds']:.1f} s", flush=True)
    return runs


def once(device: str, left_s: float, options: Sequence[str]) -> dict[str, Any]:
    """One run of the command. Raises ConfigError with what it printed where it fails or outlasts the time."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        run = Path(folder) / "run"
        words = [sys.executable, "-m", "engine.cli", "demo", "--out", str(run), *options]
        hidden = [] if device == "gpu" else ["env", "CUDA_VISIBLE_DEVICES="]
        began_s = time.perf_counter()
        try:
            done = subprocess.run(  # nosec B603 # our own command
                [*hidden, "taskset", "--cpu-list", cores_of(device, sorted(os.sched_getaffinity(0))), *words],
                capture_output=True,
                text=True,
                timeout=max(left_s, 1.0),
            )
        except subprocess.TimeoutExpired as late:
            raise ConfigError(
                f"the demo on {device} did not end in {left_s:.0f} s", fix="give a larger --budget"
            ) from late
        seconds = time.perf_counter() - began_s
        if done.returncode:
            raise ConfigError(f"the demo on {device} failed: {done.stderr[-2000:]}", fix="see its message")
        scored = read_run(run)
        chosen = [scored.records[name, scored.chosen(name)].score for name in scored.scenarios]
        return {
            "seconds": seconds,
            "scenarios": len(scored.scenarios),
            "takes": sum(len(outcome.attempts) for outcome in scored.outcomes.values()),
            "mean_score": statistics.fmean(chosen),
        }


def cores_of(device: str, cores: Sequence[int]) -> str:
    """The first CORES for the CPU, the others for the GPU's host. Raises ConfigError where none is left."""
    mine = cores[:CORES] if device == "cpu" else cores[CORES:]
    if not mine:
        raise ConfigError(
            f"{len(cores)} cores are too few for both devices at once",
            fix=f"at least {CORES + 1}, or --only cpu",
        )
    return ",".join(str(core) for core in mine)


def summary(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Cold and median warm seconds of each device, and the ratio of the warm ones; what was not run is left
    out."""
    found: dict[str, float] = {}
    for device, done in runs.items():
        if done:
            found[f"{device}_cold_s"] = done[0]["seconds"]
        if done[1:]:
            found[f"{device}_warm_s"] = statistics.median(run["seconds"] for run in done[1:])
    if {"gpu_warm_s", "cpu_warm_s"} <= found.keys():
        found["cpu_over_gpu"] = found["cpu_warm_s"] / found["gpu_warm_s"]
    return found


if __name__ == "__main__":
    main()
