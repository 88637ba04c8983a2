"""What is compared: the user's script, and Retake by preset, with and without overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.settings.config import PATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """`preset` is None for the script. Without `critic` a stand-in gives the critic's reply at once.

    `settings` are laid over those of the run. `equal_tokens`: the critic writes what the script's writes.
    """

    name: str
    says: str
    preset: str | None = None
    overlap: bool = True
    critic: bool = True
    best_stock: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
    equal_tokens: bool = True

    @property
    def is_script(self) -> bool:
        return self.preset is None

    @property
    def one_after_the_other(self) -> bool:
        """Whether a scenario begins when the one before it has ended."""
        return self.is_script or not self.overlap


SCRIPT = Variant(name="script", says="diffusers' modules and transformers' generate, eager")
SCRIPT_BEST = Variant(
    name="script-best",
    says="the same with compiled blocks, cuDNN's attention and a static cache",
    best_stock=True,
)
EXACT = Variant(name="exact", says="Retake's default", preset="exact")
EXACT_SEQUENTIAL = Variant(
    name="exact-sequential", says="exact, one job at a time", preset="exact", overlap=False
)
FAST = Variant(name="fast", says="preset fast", preset="fast")
FAST_SEQUENTIAL = Variant(
    name="fast-sequential", says="fast, one job at a time", preset="fast", overlap=False
)
FAST_PATCHES = Variant(
    name="fast-patches",
    says="fast, critiques that write only what changes of the plan",
    preset="fast",
    settings={"critic.critique_form": PATCH},
    equal_tokens=False,
)
FASTEST = Variant(name="fastest", says="preset fastest", preset="fastest")
GENERATION_ONLY = Variant(
    name="fast-generation-only",
    says="the takes of fast alone: its critic answers at once",
    preset="fast",
    critic=False,
)
VARIANTS = {
    variant.name: variant
    for variant in (
        SCRIPT,
        SCRIPT_BEST,
        EXACT,
        EXACT_SEQUENTIAL,
        FAST,
        FAST_SEQUENTIAL,
        FAST_PATCHES,
        FASTEST,
        GENERATION_ONLY,
    )
}
