"""An exported denoiser in place of the generator's own module: finds it, opens it, notes which one it is.

Reaches the package `export` by name, so that the engine runs without it. Invariant: another denoiser than was
asked for is used only where the user allowed it, and then with a warning; a resumed run keeps its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import plugins
from engine.errors import ConfigError, RetakeError, StoreError
from engine.runs.manifest import read_manifest
from engine.settings.config import DenoiseConfig, RunConfig
from engine.settings.environment import exports_folder
from engine.settings.presets import WITH_ANY_FORWARD, parts_of_forward

if TYPE_CHECKING:
    from engine.denoise.assemble import Assembled

PACKAGE, ENTRY = "export", "denoiser"
DIGEST, FALLBACK = "artifact_digest", "fallback"
"""Keys of notes: by the first a resumed run knows its artifact, the second says why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The artifact of a run; without one, the reason is in the notes."""

    artifact: Any
    """export.artifacts.store.Artifact, or None"""
    notes: Mapping[str, str]

    @property
    def num_bytes(self) -> int | None:
        return None if self.artifact is None else self.artifact.num_bytes

    @property
    def scratch_bytes(self) -> int | None:
        """What an engine of TensorRT holds for its steps; None: the form allocates as it works."""
        sizes = () if self.artifact is None else self.artifact.details.get("activation_bytes", ())
        return max(map(int, sizes), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a generator is given: a denoiser, or none and the note that the run fell back."""

    assembled: Assembled | None
    notes: Mapping[str, str] = field(default_factory=dict)


def find(denoise: DenoiseConfig, checkpoint: Path, outline: Any, device: str) -> Exported | None:
    """What `denoise.engine` names, for the generator whose outline is given; None: nothing is named.

    Raises ConfigError for settings that it does not combine with, ExportError when no artifact fits.
    """
    if not denoise.engine:
        return None
    _refuse_parts(denoise)
    entry: Any = plugins.load(PACKAGE, ENTRY)
    needs = entry.Needs(
        checkpoint=checkpoint,
        sizes=outline.forward_sizes,
        single_rows=outline.has_single_rows,
        device=device,
        prefix_frames=_prefix_frames(outline),
    )
    try:
        artifact = entry.find(denoise.engine, exports_folder(), needs)
    except RetakeError as error:
        return Exported(artifact=None, notes=_fall_back(denoise, error))
    return Exported(artifact=artifact, notes={"forward": "exported", **entry.describe(artifact)})


def _prefix_frames(outline: Any) -> int:
    """Latent frames of the clean prefix: its share of the tokens of a forward, which are as many in each."""
    shape = outline.shape
    return int(shape.prefix_tokens * outline.forward_sizes["F"] // shape.tokens)


def load(found: Exported | None, denoise: DenoiseConfig, device: str) -> Loaded | None:
    """The denoiser over what was found; errors and fallback as in `find`."""
    if found is None:
        return None
    if found.artifact is None:
        return Loaded(assembled=None, notes=found.notes)
    from engine.denoise.assemble import Assembled

    entry: Any = plugins.load(PACKAGE, ENTRY)
    try:
        denoiser = entry.load(found.artifact, device)
    except RetakeError as error:
        return Loaded(assembled=None, notes=_fall_back(denoise, error))
    assembled = Assembled(
        denoiser=denoiser,
        notes=dict(found.notes),
        num_bytes=found.num_bytes,
        scratch_bytes=found.scratch_bytes,
    )
    return Loaded(assembled=assembled)


def pinned(denoise: DenoiseConfig, found: Exported | None, notes: Mapping[str, str]) -> DenoiseConfig:
    """The settings that a resumed run must read: the folder of the artifact itself, or none after a fallback.

    notes: of the loaded generator.
    """
    if found is None:
        return denoise
    folder = "" if FALLBACK in notes else str(found.artifact.folder)
    return dataclasses.replace(denoise, engine=folder)


def moved(config: RunConfig, denoiser: str | None) -> RunConfig:
    """The settings of a resumed run, with the artifact at its present place; it never falls back anew."""
    engine = config.denoise.engine if denoiser is None else denoiser
    denoise = dataclasses.replace(config.denoise, engine=engine, allow_fallback=False)
    return dataclasses.replace(config, denoise=denoise)


def notes_of(found: Exported | None) -> Mapping[str, str]:
    return {} if found is None else found.notes


def require_same(notes: Mapping[str, str], manifest: Path) -> None:
    """StoreError unless a resumed run gets the denoiser that it was started with, as its manifest notes.

    notes: of what was found, or of the generator that was loaded with it.
    """
    then = read_manifest(manifest).get("denoiser", {}).get(DIGEST)  # older versions had none
    now = notes.get(DIGEST)
    if then != now:
        raise StoreError(
            f"{manifest.parent} was started with {_told(then)}, which {_told(now)} would now replace",
            fix="give --denoiser the folder of that artifact, wherever it is now"
            if then
            else "resume without --denoiser, or start a new run",
        )


def _told(digest: str | None) -> str:
    return "the generator's own denoiser" if digest is None else f"artifact {digest[:16]}"


def _refuse_parts(denoise: DenoiseConfig) -> None:
    parts = parts_of_forward(denoise.settings())
    if parts:
        raise ConfigError(
            f"denoise.engine {denoise.engine!r} brings a forward of its own, so {', '.join(parts)} cannot be "
            "had with it",
            fix=f"use --preset exact; only {', '.join(WITH_ANY_FORWARD)} combine with an exported denoiser",
        )


def _fall_back(denoise: DenoiseConfig, error: RetakeError) -> dict[str, str]:
    if not denoise.allow_fallback:
        raise error
    return {FALLBACK: f"{denoise.engine} was asked for and is not used: {error.problem}"}
