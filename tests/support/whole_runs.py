"""Tiny models and clips for measuring whole runs, made once a process; made-up parts of a measurement."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.perf.end_to_end.models import make
from bench.perf.end_to_end.sizes import TINY
from bench.perf.end_to_end.variants import VARIANTS

MACHINE = {"gpus": [{"name": "NVIDIA X"}], "cpu": "some"}


@functools.cache
def tiny_models() -> Path:
    """A folder as `make --size tiny --clips 2` fills it; removed with the process."""
    _KEPT.append(tempfile.TemporaryDirectory(prefix="whole-runs-"))
    folder = Path(_KEPT[-1].name)
    make(folder, TINY, 2, torch.device("cpu"))
    return folder


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def take(pixels: str = "p", prompt: str = "t") -> dict[str, Any]:
    return {
        "video_sha256": pixels,
        "prompt_sha256": prompt,
        "seed": 1,
        "tokens": 400,
        "score": 50.0,
        "verdict": "revise",
        "plan_sha256": "r",
    }


def part(name: str, seconds: float, *, done: int = 2, asked: int = 2, **more: Any) -> dict[str, Any]:
    """A part of `done` scenarios that take `seconds` each."""
    names = [f"clip{i}" for i in range(done)]
    facts = {"tokens": 1200, "takes": [take()], "chosen": 0, "stopped": "loops", "failure": None}
    made: dict[str, Any] = {
        "schema": 1,
        "kind": "end_to_end_part",
        "command": "python -m x",
        "manifest": {"machine": MACHINE, "packages": {"torch": "2.11"}, "code": {"commit": "abc"}},
        "variant": name,
        "says": VARIANTS[name].says,
        "settings": {
            "size": "full",
            "reply_tokens": 400,
            "patch_tokens": 340,
            "steps": 16,
            "loops": 1,
            "quantization": "nf4",
        },
        "warm_up": True,
        "kernel_cache_filled": True,
        "num_asked": asked,
        "num_done": done,
        "complete": done == asked,
        "makespan_s": seconds * done,
        "seconds_per_scenario": seconds,
        "scenarios_per_hour": 3600 / seconds,
        "tokens_per_scenario": dict.fromkeys(names, 1200),
        "overlap_share": 0.5,
        "gpu_samples": {"gpu_percent": {"mean": 91.0}},
        "scenarios": {name: dict(facts) for name in names},
    }
    return made | more
