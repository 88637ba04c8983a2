"""Settings of the selectors: networks and probes through which takes are looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.settings.fields import setting, validate

if TYPE_CHECKING:
    from engine.types import SelectorSettings

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorsConfig:
    """What selectors look through that are no rules alone, and what is kept for them."""

    vjepa: str = setting("", unset="the bundled one", metavar="DIR", help="Folder of a V-JEPA 2 model.")
    image_encoder: str = setting(
        "", unset="the bundled one", metavar="DIR", help="Folder of an image encoder."
    )
    keep_states: bool = setting(
        False,
        help="Keep pooled hidden states of each take, of which a probe is fitted; no pixel depends on it. A "
        "run whose selectors name states keeps them anyway.",
    )
    states_probe: str = setting(
        "",
        unset="states.probe of the generator's folder",
        metavar="FILE",
        help="By what the selector states chooses, fitted by bench.quality.fit_states.",
    )
    device: str = setting(
        "auto",
        choices=DEVICES,
        option="--selectors-device",
        help="Where these networks run; auto: where the run is.",
    )

    def __post_init__(self) -> None:
        validate(self, "selectors")

    def on(self, device: str) -> SelectorSettings:
        """What selectors are built from in a run on `device`."""
        from engine.types import SelectorSettings  # brings numpy, which the command line can start without

        return SelectorSettings(
            vjepa=Path(self.vjepa) if self.vjepa else None,
            image_encoder=Path(self.image_encoder) if self.image_encoder else None,
            states_probe=Path(self.states_probe) if self.states_probe else None,
            device=device if self.device == "auto" else self.device,
        )
