"""What the engine passes to a Denoiser -> the named inputs of an exported Wan transformer, and back.

Shared by every target that runs one. Pads and masks the text, and turns per-token timesteps into per-frame
ones. Reads shapes only, never values, so nothing waits for a device. Invariant: a shape outside every profile
is refused by name before anything runs.
B batch . Z latent channels . F latent frames . h, w latent pixels . S tokens . L text tokens . D text width
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from engine.words import counted
from export.spec import ExportError, ExportSpec, Profile

KEYS = "prefix_keys"
"""Input of the steps and output of what is computed once, in a form with its own prefix."""

BRANCHES = {"cond": 1, "uncond": 1, "both": 2}
"""Rows of text per branch of the Denoiser protocol."""

MASKED = -30000.0
"""What the mask adds to the scores of padded text tokens: no probability is left, and fp16 can hold it."""

Run = Callable[[Profile, Mapping[str, Tensor]], Tensor]
"""Runs an exported transformer on the inputs of one profile; returns the velocity [B, Z, F, h, w], fp32."""


@runtime_checkable
class FrameTimestep(Protocol):
    """What the sampler hands over instead of a tensor; see engine.denoise.sampler."""

    @property
    def prefix_frames(self) -> int:
        """Latent frames of the clean prefix."""
        ...

    def per_frame(self, device: torch.device) -> Tensor:
        """float32 [1, F]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedDenoiser:
    """The Denoiser protocol over any exported Wan transformer."""

    spec: ExportSpec
    run: Run

    def prepare(self, text: Tensor) -> Tensor:
        """Text [B, L0, D] as `__call__` takes it."""
        return text.float()

    def __call__(
        self, latents: Tensor, timestep: Tensor | FrameTimestep, text: Tensor, *, branch: str
    ) -> Tensor:
        """Velocity fp32 [B, Z, F, h, w] of latents [1, Z, F, h, w] at timesteps [1, S], [1, F] or [1].

        B is 1 for branches "cond" and "uncond" and 2 for "both"; text is [B, L0, D] with L0 <= L. Without a
        profile for two rows, "both" runs one row after the other.
        """
        assert branch in BRANCHES and len(text) == BRANCHES[branch], f"{branch}: text {tuple(text.shape)}"
        _require_prefix(self.spec, timestep)
        profile = choose_profile(self.spec, latents, text)
        rows = profile.sizes["B"]
        outputs = [
            self.run(profile, named_inputs(self.spec, profile, latents, timestep, text[start : start + rows]))
            for start in range(0, len(text), rows)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPrefixExport:
    """A Denoiser of a prefix that looks at itself alone: `for_take` computes it in the first of many calls,
    a call of its own in each. `run` also takes the prefix keys, `once` makes them of latents [1, Z, K, h, w].
    """

    spec: ExportSpec
    run: Run
    once: Callable[[Tensor], Tensor]

    def for_take(self) -> ExportedDenoiser:
        """The denoiser of one take, which belongs to one job and dies with it."""
        kept: list[Tensor] = []

        def run(profile: Profile, inputs: Mapping[str, Tensor]) -> Tensor:
            if not kept:
                kept.append(self.once(inputs["latents"][:1, :, : self.spec.form.prefix_frames].contiguous()))
            return self.run(profile, {**inputs, KEYS: kept[0]})

        return ExportedDenoiser(spec=self.spec, run=run)

    def prepare(self, text: Tensor) -> Tensor:
        """As ExportedDenoiser."""
        return text.float()

    def __call__(
        self, latents: Tensor, timestep: Tensor | FrameTimestep, text: Tensor, *, branch: str
    ) -> Tensor:
        """As ExportedDenoiser."""
        return self.for_take()(latents, timestep, text, branch=branch)


def _require_prefix(spec: ExportSpec, timestep: Tensor | FrameTimestep) -> None:
    built = spec.form.prefix_frames
    if not built:
        return
    given = timestep.prefix_frames if isinstance(timestep, FrameTimestep) else None
    if given != built:
        told = (
            "timesteps that do not say their prefix"
            if given is None
            else f"{counted(given, 'latent frame')} of prefix"
        )
        raise ExportError(
            f"{spec.subject} was built as: {spec.form}; the take has {told}",
            fix="export again for this prefix, or use a dense form",
        )


def choose_profile(spec: ExportSpec, latents: Tensor, text: Tensor) -> Profile:
    """The profile for this video and number of text rows, else the one for a single row.

    ExportError names the shape and all profiles when none fits, or when the text is longer than they allow.
    """
    channels, frames, height, width = latents.shape[1:]
    wanted = {"F": frames, "h": height, "w": width}
    same = [p for p in spec.profiles if all(p.sizes[name] == size for name, size in wanted.items())]
    long = [p for p in same if p.sizes["L"] >= text.shape[1]]
    fixed = (spec.input("latents").dims[1], spec.input("text").dims[2])
    for rows in (len(text), 1):
        for profile in long:
            if profile.sizes["B"] == rows and (channels, text.shape[2]) == fixed:
                return profile
    allowed = "; ".join(f"{p.name}: {dict(p.sizes)}" for p in spec.profiles)
    raise ExportError(
        f"no profile of {spec.subject} takes latents {tuple(latents.shape)} with text {tuple(text.shape)}; "
        f"built for {allowed}; channels and text width {fixed}",
        fix="export again for this shape, or run with one of those",
    )


def named_inputs(
    spec: ExportSpec, profile: Profile, latents: Tensor, timestep: Tensor | FrameTimestep, text: Tensor
) -> dict[str, Tensor]:
    """Inputs of one run, fp32, with as many rows as the profile has. text [B, L0, D], L0 <= L."""
    rows, padding = profile.sizes["B"], profile.sizes["L"] - text.shape[1]
    mask = text.new_zeros((rows, profile.sizes["L"]), dtype=torch.float32)
    mask[:, text.shape[1] :] = MASKED
    per_frame = len(spec.input("timestep").dims) == 2
    times = _times(timestep, latents.device, profile.sizes["F"], per_frame=per_frame)
    return {
        "latents": latents.float().expand(rows, -1, -1, -1, -1),
        "timestep": times.expand(rows, *times.shape[1:]),
        "text": functional.pad(text.float(), (0, 0, 0, padding)),
        "text_mask": mask,
    }


def _times(timestep: Tensor | FrameTimestep, device: torch.device, frames: int, *, per_frame: bool) -> Tensor:
    """float32 [1, F], or [1] for a model with one timestep."""
    rows = timestep if isinstance(timestep, Tensor) else timestep.per_frame(device)
    flat = rows.float().reshape(1, -1)
    if not per_frame:
        if flat.shape[1] != 1:
            problem = f"{flat.shape[1]} timesteps, one for each token or frame; the model takes one"
            raise ExportError(problem, fix="use a model with per-frame timesteps (TI2V)")
        return flat[0]
    if flat.shape[1] == 1:
        return flat.expand(1, frames)
    # every token of a frame has its frame's timestep: the sampler makes them so
    assert flat.shape[1] % frames == 0, f"{flat.shape[1]} timesteps for {frames} frames"
    return flat[:, :: flat.shape[1] // frames]
