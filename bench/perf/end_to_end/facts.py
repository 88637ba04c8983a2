"""What came out of each scenario, in the words in which variants are compared: no time is among them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.runs.store import RunStore
from engine.types import Critique, PhysicsPlan, Prompt
from kernels.files import file_digest

if TYPE_CHECKING:  # it brings all of diffusers, which a run of Retake does not
    from bench.baselines.script import ScriptScenario

Facts = dict[str, Any]
"""tokens of plan and critiques, without end tokens; takes; chosen, stopped, failure of a run of Retake."""


def of_run(folder: Path) -> dict[str, Facts]:
    """Of the finished scenarios of a run folder, by id."""
    found = {}
    with RunStore.open(folder, read_only=True) as store:
        for name, outcome in store.outcomes().items():
            plan = store.history(name).plan
            takes = [_take(a.prompt, folder / a.video_path, a.critique) for a in outcome.attempts]
            found[name] = {
                "tokens": (plan.num_tokens if plan else 0) + sum(take["tokens"] for take in takes),
                "takes": takes,
                "chosen": outcome.chosen,
                "stopped": outcome.stopped,
                "failure": outcome.failure,
            }
    return found


def of_script(made: ScriptScenario) -> Facts:
    takes = [_take(take.prompt, take.video_path, take.critique) for take in made.takes]
    return {"tokens": made.plan_tokens + sum(take["tokens"] for take in takes), "takes": takes}


def _digest(plan: PhysicsPlan | None) -> str | None:
    """Of the plan that a critique revised: of a patch the merged one."""
    return None if plan is None else hashlib.sha256(json.dumps(asdict(plan)).encode()).hexdigest()


def _take(prompt: Prompt, video: Path, critique: Critique | None) -> Facts:
    """Equal frames make equal files, so the file's digest stands for the pixels."""
    return {
        "video_sha256": file_digest(video),
        "prompt_sha256": hashlib.sha256(prompt.text.encode()).hexdigest(),
        "seed": prompt.seed,
        "tokens": critique.num_tokens if critique else 0,
        "score": critique.score if critique else None,
        "verdict": str(critique.verdict) if critique else None,
        "plan_sha256": _digest(critique.revised) if critique else None,
    }
