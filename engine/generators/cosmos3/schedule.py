"""The noise levels of Cosmos3: UniPC over shifted flow sigmas, as NVIDIA samples.

The schedulers in published folders say something else: `use_karras_sigmas` beside a flow shift, and Karras'
levels win (docs/behaviour.md). So only the solver is taken from there; levels and shift are the family's own.
Knows no device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from diffusers import UniPCMultistepScheduler

from engine.denoise.sampler import NUM_TRAIN_TIMESTEPS, Schedule, read_schedule
from engine.errors import ModelError

SCHEDULERS = ("UniPCMultistepScheduler", "Cosmos3EdgeUniPCMultistepScheduler")
"""Both are UniPC over the same levels; the second is a class of newer versions of the library."""
SOLVER = ("solver_order", "solver_type", "predict_x0", "lower_order_final", "disable_corrector")


def scheduler_of(folder: Path, config: dict[str, Any], flow_shift: float) -> UniPCMultistepScheduler:
    """Raises ModelError for a scheduler of another kind, and for levels of another number."""
    name = str(config.get("_class_name"))
    if name not in SCHEDULERS:
        raise ModelError(
            f"{folder}: scheduler has {name}; the cosmos3 family needs {' or '.join(SCHEDULERS)}",
            fix="use a folder for many steps; one that was distilled for a few is not read",
        )
    levels = config.get("num_train_timesteps", NUM_TRAIN_TIMESTEPS)
    if levels != NUM_TRAIN_TIMESTEPS:
        raise ModelError(
            f"{folder}: scheduler has {levels} training levels, not {NUM_TRAIN_TIMESTEPS}",
            fix="take the scheduler of the published folder",
        )
    return UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=flow_shift,
        **{key: config[key] for key in SOLVER if key in config},
    )


def sigmas(num_steps: int) -> Any:
    """float64 [num_steps], before the shift: evenly from all noise, as diffusers' native flow schedule."""
    return np.linspace(1.0 - 1.0 / NUM_TRAIN_TIMESTEPS, 0.0, num_steps + 1)[:-1]


def schedule_of(scheduler: UniPCMultistepScheduler, num_steps: int) -> Schedule:
    return read_schedule(scheduler, num_steps, sigmas=sigmas(num_steps))
