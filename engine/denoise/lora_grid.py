"""The steps that a LoRA was distilled for, which stand beside its file: `NAME.retake.json`.

Knows no model and no scheduler. Invariant: a list of steps says whether the flow shift is in it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.errors import ConfigError, ModelError
from engine.settings.fields import setting, validate
from engine.settings.toml import from_table
from kernels.files import read_json

if TYPE_CHECKING:
    from engine.denoise.lora import Lora

NOISE: Final = 1000.0
"""The timestep of noise alone."""
BEFORE_SHIFT, AFTER_SHIFT = "before shift", "after shift"
_DISTILLED = re.compile(
    r"(?<![0-9])([1-9]|1[0-6])[-_ ]?steps?(?![a-z0-9])|lightning|lightx2v|distill|causvid|accvid|fastwan|"
    r"self[-_ ]?forcing|(?<![a-z])(dmd2?|rcm|lcm|turbo)(?![a-z])",
    re.IGNORECASE,
)
"""What publishers call LoRA files of step distillation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """`timesteps` falling from 1000; without them the file is run with the steps of its model."""

    timesteps: tuple[float, ...] | None = setting(None, unset="none", help="Of the distillation.")
    timesteps_are: str | None = setting(
        None,
        unset="not said",
        choices=(BEFORE_SHIFT, AFTER_SHIFT),
        help="Whether the scheduler's flow shift is still to be applied to them.",
    )
    guidance_scale: float = setting(1.0, low=1.0, high=50.0, help="Guidance scale; 1: none.")

    def __post_init__(self) -> None:
        """ConfigError for a list that does not fall from 1000, or not say whether the shift is in it."""
        validate(self, "")
        if self.timesteps is None:
            return
        if not falls_from_noise(self.timesteps):
            raise ConfigError(
                f"timesteps = {list(self.timesteps)} is not a falling list from {NOISE:g} to above 0",
                fix="give such as [1000, 750, 500, 250]",
            )
        if self.timesteps_are is None:
            raise ConfigError(
                "timesteps do not say whether the flow shift is in them",
                fix=f'give timesteps_are: "{BEFORE_SHIFT}" (LightX2V, Self-Forcing) or "{AFTER_SHIFT}"',
            )


def falls_from_noise(timesteps: Sequence[float]) -> bool:
    """From noise alone, with which a job starts, to above 0."""
    falling = all(before > after for before, after in itertools.pairwise([*timesteps, 0.0]))
    return falling and bool(timesteps) and timesteps[0] == NOISE


def sidecar_of(path: Path) -> Path:
    return path.with_suffix(".retake.json")


def read_grid(path: Path) -> Grid | None:
    """Of a LoRA file; None where nothing stands beside it.

    ModelError for a sidecar that cannot be used, and for a file that goes by the name of a step distillation
    and has none: with the steps of its model it makes other pictures than it was made for.
    """
    sidecar = sidecar_of(path)
    if not sidecar.is_file():
        if (match := _DISTILLED.search(path.stem)) is None:
            return None
        raise ModelError(
            f"{path.name} is by its name ({match[0]!r}) a LoRA of step distillation, and says no steps",
            fix=f'put {sidecar.name} beside it, with its own steps: {{"timesteps": [1000, 750, 500, 250], '
            f'"timesteps_are": "{BEFORE_SHIFT}", "guidance_scale": 1}}; or {{}} if it is none',
        )
    try:
        table = read_json(sidecar)
        if not isinstance(table, dict):
            raise ValueError("it holds no JSON object")
        made: Grid = from_table(Grid, table)
    except ValueError as error:
        raise ModelError(f"{sidecar} is not JSON: {error}", fix="repair or delete it") from error
    except ConfigError as error:
        raise ModelError(f"{sidecar}: {error.problem}", fix=error.fix) from error
    return made


def grid_of(loras: Sequence[Lora]) -> Grid | None:
    """The one that the files of a run bring; None where none does. ModelError where two differ."""
    given = {
        lora.name: lora.grid for lora in loras if lora.grid is not None and lora.grid.timesteps is not None
    }
    if len(set(given.values())) > 1:
        raise ModelError(
            f"{' and '.join(given)} bring different steps", fix="give one LoRA of step distillation"
        )
    return next(iter(given.values()), None)
