"""One run with workers on so many GPUs, timed from the moment when all are warm."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.perf.end_to_end import facts
from bench.perf.end_to_end.made import CLIPS, CRITIC, GENERATOR, read_facts
from bench.perf.end_to_end.measured import LOOPS
from bench.perf.scaling.warm_worker import WarmWorker
from engine.cluster.pool import Pool, Workers
from engine.cluster.run import build_cluster_run
from engine.commands._progress import PlainDisplay
from engine.runs.manifest import MANIFEST, read_manifest
from engine.settings.config import RunConfig, load_config
from engine.types import Attempt

KILLED_AT = 3
"""Takes that are stored when a worker is killed, of few scenarios fewer: it must have work in hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    models: Path
    workers: Workers
    num_scenarios: int
    num_steps: int | None
    kills: bool
    name: str

    def config(self) -> RunConfig:
        on_gpu = self.workers.gpus is not None
        return load_config(
            None,
            {
                "dataset": str(self.models / CLIPS),
                "out": str(self.models / "runs" / "scaling" / self.name),
                "limit": self.num_scenarios,
                "device": "auto" if on_gpu else "cpu",
                "generator.name": str(self.models / GENERATOR),
                "generator.steps": self.num_steps,
                "critic.name": str(self.models / CRITIC),
                "critic.quantization": "nf4" if on_gpu else "none",
                "denoise.preset": "fast",
                "loop.loops": LOOPS,
            },
        )


class Watch(PlainDisplay):
    """When each take was stored; with `kills`, one worker is killed after the first few."""

    def __init__(self, num_scenarios: int, pool: Pool, *, kills: bool) -> None:
        super().__init__(Console(), num_scenarios)
        self.takes: list[tuple[str, int]] = []
        self.ended_s: dict[str, float] = {}
        self._pool, self._kills = pool, kills
        self._killed_at = max(1, min(KILLED_AT, num_scenarios // 2))

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        super().attempt(scenario_id, attempt)
        self.takes.append((scenario_id, attempt.index))
        if self._kills and len(self.takes) == self._killed_at:
            os.kill(self._pool.process(0), signal.SIGKILL)

    def finished(self, scenario_ids: Any) -> None:
        scenario_ids = list(scenario_ids)
        super().finished(scenario_ids)
        self.ended_s |= dict.fromkeys(scenario_ids, time.perf_counter())


def measure(asked: Asked) -> dict[str, Any]:
    """The part. ConfigError where the models were not made, or the GPUs are not there."""
    made = read_facts(asked.models)
    config = asked.config()
    shutil.rmtree(config.out, ignore_errors=True)
    number = asked.workers.gpus or asked.workers.cpus
    assert number is not None, "so many workers are asked for"
    began_s = time.perf_counter()
    with build_cluster_run(config, asked.workers, kind=WarmWorker, wait_for=number) as run:
        assert run.pool is not None, "a new run has scenarios"
        startup_s = time.perf_counter() - began_s
        watch = Watch(run.num_pending, run.pool, kills=asked.kills)
        began_s = time.perf_counter()
        run.execute(watch)
    manifest = read_manifest(config.out / MANIFEST)
    ended_s = {name: at_s - began_s for name, at_s in watch.ended_s.items()}
    makespan_s = max(ended_s.values())
    return {
        "name": asked.name,
        "num_workers": number,
        "num_scenarios": asked.num_scenarios,
        "on": "gpu" if asked.workers.gpus else "cpu",
        "settings": {
            **{key: made[key] for key in ("size", "reply_tokens")},
            "steps": asked.num_steps,
            "loops": LOOPS,
            "preset": "fast",
        },
        "startup_s": startup_s,
        "makespan_s": makespan_s,
        "scenarios_per_hour": len(ended_s) / makespan_s * 3600,
        "ended_s": ended_s,
        "num_takes_stored": len(watch.takes),
        "num_takes_doubled": len(watch.takes) - len(set(watch.takes)),
        "times_lost": (config.out / "run.log").read_text(encoding="utf-8").count(" was lost and is "),
        "workers": manifest["workers"],
        "manifest": {key: manifest[key] for key in ("code", "machine", "packages", "started", "models")},
        "scenarios": facts.of_run(config.out),
    }
