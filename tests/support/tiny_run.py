"""A dataset of two simulated scenes, model folders of random weights, and a critic that follows a script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from scripted_critic import ScriptedCritic
from sliding import SlidingSquare
from tiny_vlm import save_tiny_vlm
from tiny_wan import SIDECAR, build_folder

from engine.build import prepare as preparing
from engine.demo.layout import write_dataset
from engine.protocols import Critic
from engine.settings.config import RunConfig, load_config
from engine.types import (
    Attempt,
    Outcome,
    PlanReply,
    Scout,
)

CRITIC_SIDECAR = {"num_prefix_frames": 2, "num_take_frames": 2, "frame_px": 32, "max_new_tokens": 4}


@dataclass(frozen=True)
class Folders:
    dataset: Path
    generator: Path
    critic: Path

    def config(self, out: Path, *, settings: dict[str, object] | None = None) -> RunConfig:
        base: dict[str, object] = {
            "dataset": str(self.dataset),
            "out": str(out),
            "generator.name": str(self.generator),
            "critic.name": str(self.critic),
            "device": "cpu",
            "dtype": "fp32",
            "loop.loops": 2,
        }
        return load_config(None, base | (settings or {}))


def make_folders(root: Path) -> Folders:
    """Clips and models with the benchmark's real durations: 3 s and 5 s at 8 fps."""
    torch.set_num_threads(1)
    write_dataset(root / "dataset", [SlidingSquare(0), SlidingSquare(1)], views=("perspective-center",))
    generator = build_folder(root / "generator")
    durations = {"prefix_frames": 24, "num_frames": 40, "num_inference_steps": 1, "guidance_scale": 1.0}
    (generator / "retake.json").write_text(json.dumps(SIDECAR | durations))
    path = generator / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 128}))
    critic = save_tiny_vlm(root / "critic", sidecar=json.dumps(CRITIC_SIDECAR))
    return Folders(dataset=root / "dataset", generator=generator, critic=critic)


def script_the_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **options: object) -> Critic:
        return ScriptedCritic()

    monkeypatch.setattr(preparing, "load_critic", load)


@dataclass
class Silent:
    """A display that keeps what it was told; raises KeyboardInterrupt at attempt number `interrupt`."""

    interrupt: int | None = None
    attempts: list[tuple[str, int]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None: ...

    def finished(self, scenario_ids: Iterable[str]) -> None: ...

    def plan(self, scenario_id: str, reply: PlanReply) -> None: ...

    def scout(self, scenario_id: str, scout: Scout) -> None: ...

    def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None: ...

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        self.attempts.append((scenario_id, attempt.index))
        if len(self.attempts) == self.interrupt:
            raise KeyboardInterrupt

    def judged(self, scenario_id: str, attempt: Attempt) -> None: ...

    def outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
