"""The scheduler of a Wan folder, and the timesteps of a model that was distilled for just these.

Knows no prompt and runs no model. Invariant: what is read is linear in the velocities, and its grid is that
of plain flow sigmas with a shift.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import (
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from engine.denoise.lora_grid import AFTER_SHIFT, BEFORE_SHIFT, falls_from_noise
from engine.denoise.sampler import NUM_TRAIN_TIMESTEPS
from engine.errors import ModelError
from engine.generators.wan.components import CONFIG_FILES, read_json, unfit
from engine.generators.wan.settings import WanDefaults
from engine.settings.sidecars import SIDECAR

SCHEDULERS = {
    "UniPCMultistepScheduler": UniPCMultistepScheduler,
    "FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler,
    "FlowMapEulerDiscreteScheduler": FlowMapEulerDiscreteScheduler,
}
REFUSED_SETTINGS = (
    "use_dynamic_shifting",
    "use_karras_sigmas",
    "use_beta_sigmas",
    "use_exponential_sigmas",
    "thresholding",
    "stochastic_sampling",
    "invert_sigmas",
)
"""Scheduler settings that silently override the flow shift, or are not linear in the velocities."""

SHIFTS = {
    "UniPCMultistepScheduler": "flow_shift",
    "FlowMatchEulerDiscreteScheduler": "shift",
    "FlowMapEulerDiscreteScheduler": "shift",
}
"""The flow shift s' = shift s / (1 + (shift - 1) s) by the name that each class reads; the library
ignores the other one's name."""
GRID_WORDS = ("shift", "sigma", "timestep")


def read_scheduler(folder: Path, allowed: Sequence[str]) -> Any:
    """One of the classes `allowed`. ModelError for another, or for what they do not make a plain grid of."""
    config = read_json(folder / "scheduler" / CONFIG_FILES["scheduler"])
    name = str(config.get("_class_name"))
    if name not in allowed:
        raise unfit(folder, "scheduler", name, " or ".join(allowed))
    read = inspect.signature(SCHEDULERS[name].__init__).parameters
    unread = [key for key in config if key not in read and any(word in key for word in GRID_WORDS)]
    if unread:
        raise unfit(
            folder,
            "scheduler",
            f"{', '.join(unread)}, which {name} does not read",
            f"{SHIFTS[name]} for the flow shift",
        )
    shift = config.get(SHIFTS[name], 1.0)
    if not isinstance(shift, int | float) or not 0.0 < shift < math.inf:
        raise unfit(folder, "scheduler", f"{SHIFTS[name]} {shift!r}", "a number above 0")
    scheduler = SCHEDULERS[name].from_config(config)
    refused = [setting for setting in REFUSED_SETTINGS if scheduler.config.get(setting)]
    if name == "UniPCMultistepScheduler" and not (
        scheduler.config.use_flow_sigmas and scheduler.config.prediction_type == "flow_prediction"
    ):
        refused.append("no flow sigmas or no flow prediction")
    if refused:
        raise unfit(
            folder, "scheduler", f"{name} with {', '.join(refused)}", "plain flow sigmas with a shift"
        )
    return scheduler


def on_the_grid(folder: Path, defaults: WanDefaults, scheduler: Any) -> WanDefaults:
    """The timesteps as the model sees them. ModelError where it is not said whether the shift is in them."""
    if defaults.timesteps is None:
        return defaults
    _check_falling(folder, defaults.timesteps)
    shift = float(scheduler.config[SHIFTS[type(scheduler).__name__]] or 1.0)
    if defaults.timesteps_are is None and shift != 1.0:
        raise unfit(
            folder,
            SIDECAR,
            f"timesteps beside a flow shift of {shift:g}, and does not say what timesteps_are",
            f"timesteps_are {BEFORE_SHIFT!r} or {AFTER_SHIFT!r} (LightX2V, Self-Forcing: before shift)",
        )
    if defaults.timesteps_are != BEFORE_SHIFT:
        return defaults
    shares = [timestep / NUM_TRAIN_TIMESTEPS for timestep in defaults.timesteps]
    shifted = tuple(NUM_TRAIN_TIMESTEPS * shift * s / (1 + (shift - 1) * s) for s in shares)
    return dataclasses.replace(defaults, timesteps=shifted, timesteps_are=AFTER_SHIFT)


def _check_falling(folder: Path, timesteps: Sequence[float]) -> None:
    """From 1000, since a job starts from noise alone, to above 0."""
    if not falls_from_noise(timesteps):
        raise ModelError(
            f"{folder / SIDECAR}: timesteps = {list(timesteps)} is not a falling list from "
            f"{NUM_TRAIN_TIMESTEPS} to above 0",
            fix="give such as [1000, 750, 500, 250], or leave it out for a model that was not distilled",
        )
