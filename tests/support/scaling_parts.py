"""Made-up parts of `bench.perf.scaling`."""

from __future__ import annotations

from typing import Any

from whole_runs import take

from bench.perf.scaling.document import join


def part(
    name: str, makespan_s: float, *, workers: int = 2, lost: int = 0, on: str = "gpu", scenarios: int = 16
) -> dict[str, Any]:
    names = [f"clip{number:02d}" for number in range(scenarios)]
    made = {"tokens": 1200, "takes": [take(), take()], "chosen": 0, "stopped": "loops", "failure": None}
    return {
        "name": name,
        "num_workers": workers,
        "num_scenarios": scenarios,
        "on": on,
        "settings": {"size": "full", "reply_tokens": 400, "steps": 16, "loops": 1, "preset": "fast"},
        "startup_s": 50.0,
        "makespan_s": makespan_s,
        "scenarios_per_hour": scenarios / makespan_s * 3600,
        "ended_s": dict.fromkeys(names, makespan_s),
        "num_takes_stored": 2 * scenarios,
        "num_takes_doubled": 0,
        "times_lost": lost,
        "workers": [],
        "manifest": {"machine": {"gpus": [{"name": "NVIDIA X"}], "cpu": "some"}, "code": {"commit": "abc"}},
        "scenarios": {name: dict(made) for name in names},
    }


def document() -> dict[str, Any]:
    one, several = part("one", 460.0, workers=1), part("all", 235.0)
    return join(one, several, part("killed", 300.0, lost=1), "python -m bench.perf.scaling --gpus 2")
