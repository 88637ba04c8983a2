"""The critic on takes whose truth is known by construction: true continuations and planted wrong physics.

The loop shows the critic generated takes only; these controls show what it does where nothing is a matter of
degree: true takes, time that runs wrong, physics that is broken. A swapped control (the true take of another
scene of the kind) must be refused too: a critic that ignored the video would accept it. Free-running
generation, as in the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.quality.critic_figures import TruthLabel
from bench.scoring.references import references
from engine.api.takes import finish
from engine.datasets.physics_iq import open_dataset, read_descriptions, untrimmed
from engine.demo.scenes import named_scene
from engine.demo.scenes.base import SWITCH
from engine.demo.scenes.broken import break_scene
from engine.demo.training.critic_rows import PLANTS, planted_indices
from engine.loop.prompting import compile_prompt
from engine.protocols import Critic
from engine.types import Frames, PhysicsPlan, Prompt, Scenario, Verdict, Video
from engine.video.files import read_frames

Progress = Callable[[int, int], None]


def control_takes(prefix: Frames, answer: Frames, other: Frames, number: int) -> dict[str, Frames]:
    """A take per control, uint8 [T, H, W, 3]; plants take turns over scenes."""
    kind = PLANTS[number % len(PLANTS)]
    clip = np.concatenate([prefix, answer])
    planted = clip[planted_indices(kind, np.random.default_rng([number, 12]))]
    return {
        "true": answer,
        f"planted {kind}": np.ascontiguousarray(planted[:, :, ::-1] if kind == "mirror" else planted),
        "swapped": other,
    }


def broken_take(name: str, scenario_id: str, number: int) -> dict[str, Frames]:
    """The scene's answer with a violation drawn by `number`; nothing for what is no simulated scene."""
    scene = named_scene(name)
    if scene is None:
        return {}
    view = scenario_id.rpartition("-")[2]
    true = scene.render(1, view)
    made = break_scene(scene, true, view, np.random.default_rng([number, 16]))
    return {} if made is None else {f"broken {made[1].name}": made[0][SWITCH:]}


def judge_controls(
    critic: Critic,
    dataset: Path,
    truths: dict[str, PhysicsPlan],
    *,
    count: int,
    period: int,
    fps: float,
    label: TruthLabel,
    progress: Progress,
) -> dict[str, Any]:
    """Accuracy of the verdicts by control, over the first `count` scenarios that have a truth.

    `period` is after how many scenarios a kind of scene comes again. The label of a control is measured as
    that of any take: a mirrored pendulum in the middle of its swing is acceptable.
    """
    scenarios = [s for s in open_dataset(dataset).scenarios(fps) if s.id in truths][:count]
    answers = references(dataset, read_descriptions(dataset), fps)
    real = {s.id: read_frames(answers[s.id].takes[0]) for s in scenarios}
    names = {row.scenario_id: untrimmed(row.scene) for row in read_descriptions(dataset)}
    hits: dict[str, list[bool]] = {}
    for number, scenario in enumerate(scenarios):
        prefix = read_frames(scenario.prefix)
        other = real[scenarios[(number + period) % len(scenarios)].id]
        plan = truths[scenario.id]
        shown = control_takes(prefix, real[scenario.id], other, number)
        for control, take in {**shown, **broken_take(names[scenario.id], scenario.id, number)}.items():
            verdict = _verdict(critic, scenario, plan, take, fps)
            truth = label(prefix[-1:], take, real[scenario.id])
            hits.setdefault(control, []).append(verdict is truth)
        progress(number + 1, len(scenarios))
    planted, broken = (
        [hit for control, found in hits.items() if control.startswith(word) for hit in found]
        for word in ("planted", "broken")
    )
    return {
        "n": len(scenarios),
        "true_takes": _share(hits.get("true", [])),
        "planted_takes": _share(planted),
        "broken_takes": _share(broken),
        "swapped_takes": _share(hits.get("swapped", [])),
        "by_plant": {c.removeprefix("planted "): _share(h) for c, h in sorted(hits.items()) if " " in c},
    }


def _verdict(critic: Critic, scenario: Scenario, plan: PhysicsPlan, take: Frames, fps: float) -> Verdict:
    prompt = Prompt(text=compile_prompt(scenario.text, plan), negative="", seed=0, revision=1, plan=plan)
    return finish(critic.start(scenario, prompt, Video(frames=take, fps=fps), plan)).verdict


def _share(hits: Sequence[bool]) -> float | None:
    return float(np.mean(hits)) if hits else None
