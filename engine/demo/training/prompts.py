"""Prompt variants for training the bundled models: complete, partial, brief, and four kinds of poor prompt.

The generator learns from complete, partial, brief and empty prompts only; the poor ones make takes for the
critic. Deterministic given the random generator.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeVar

import numpy as np

from engine.loop.prompting import CAMERA_SENTENCE, compile_prompt, strip_camera
from engine.types import Fault, PhysicsPlan

Rng = np.random.Generator
T = TypeVar("T")

ABSTRACT_SENTENCES: Final = (
    "Momentum and energy are conserved in every interaction.",
    "The system evolves according to the laws of physics.",
    "Gravity, friction and inertia act on every body.",
    "Kinetic energy turns into heat as the system approaches equilibrium.",
    "Forces propagate through the system as a wave of momentum.",
)
CLUTTER_SENTENCES: Final = (
    "The light is warm and the shadows are soft and realistic.",
    "Every surface shows fine texture and the materials look natural.",
    "The scene is filmed in a clean laboratory with high detail.",
    "Small reflections appear on the polished parts and nothing else is in the picture.",
    "The colours are vivid and the picture is sharp from the front to the back.",
)


def complete(brief: str, plan: PhysicsPlan) -> str:
    return compile_prompt(brief, plan)


def partial(brief: str, plan: PhysicsPlan, rng: Rng) -> str:
    """The complete prompt with each fact left out with probability one half."""

    def some(entries: tuple[T, ...]) -> tuple[T, ...]:
        return tuple(entry for entry in entries if rng.random() < 0.5)

    thinner = replace(
        plan, objects=some(plan.objects), motion=some(plan.motion), events=some(plan.events),
        rest=some(plan.rest), still=some(plan.still),
    )  # fmt: skip
    return compile_prompt(brief, thinner)


def abstract(brief: str, rng: Rng) -> str:
    picked = rng.choice(len(ABSTRACT_SENTENCES), size=3, replace=False)
    return " ".join([strip_camera(brief), *(ABSTRACT_SENTENCES[i] for i in picked), CAMERA_SENTENCE])


def cluttered(brief: str, plan: PhysicsPlan, rng: Rng) -> str:
    """The complete prompt drowned in three irrelevant sentences."""
    picked = rng.choice(len(CLUTTER_SENTENCES), size=3, replace=False)
    sentences = [compile_prompt(brief, plan), *(CLUTTER_SENTENCES[i] for i in picked)]
    order = rng.permutation(len(sentences))
    return " ".join(sentences[i] for i in order)


def poor_prompt(brief: str, plan: PhysicsPlan, wrong: PhysicsPlan, rng: Rng) -> tuple[str, Fault]:
    """A prompt as the loop meets it, with the fault to name if its take goes wrong.

    `wrong` is the truth of another scene of the same kind. Half of the prompts are brief, since every loop
    starts there, or complete, where only the model can be at fault.
    """
    kind = rng.random()
    if kind < 0.25:
        return brief, Fault.MISSING_CLUES
    if kind < 0.50:
        return complete(brief, plan), Fault.MODEL
    if kind < 0.62:
        return partial(brief, plan, rng), Fault.MISSING_CLUES
    if kind < 0.82:
        return complete(brief, wrong), Fault.WRONG_FACT
    if kind < 0.91:
        return abstract(brief, rng), Fault.TOO_ABSTRACT
    return cluttered(brief, plan, rng), Fault.TOO_COMPLEX
