"""How much a denoise trajectory changes from step to step, by the rules of the field's step caches, measured.

All of it is of noisy tokens alone: the prefix is the same in every step, and a measure that saw it too would
find little change everywhere. For calibration: it waits for the device.
B batch . Z channels . F latent frames, the first K of them prefix . h, w latent pixels . S tokens . C width
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from engine.denoise.sampler import NUM_TRAIN_TIMESTEPS
from engine.quant.precision_policy import Curve
from engine.settings.presets import EXTRAPOLATION, FIRST_BLOCK, MAGNITUDE, SPECTRUM

VIDEO_SLOPE = 3.0
"""Of the power spectrum of video over frequency, as SeaCache assumes it."""
SMALLEST = 1e-12


class StepChanges:
    """Sums over trajectories; tell it `begin` before each, then every step in order."""

    def __init__(self) -> None:
        self._changes: dict[str, dict[float, list[float]]] = {}
        self.begin()

    def begin(self) -> None:
        self._filtered: Tensor | None = None
        self._block: Tensor | None = None
        self._velocities: list[tuple[float, Tensor]] = []

    def note(self, timestep: float, latents: Tensor, block: Tensor, velocity: Tensor) -> None:
        """`latents` and `velocity` [1, Z, F - K, h, w] behind the prefix, and what the first block adds to
        its noisy tokens, [1, S, C]: all of the branch with the text."""
        share = timestep / NUM_TRAIN_TIMESTEPS
        filtered, block, velocity = denoised(latents.float(), share), block.float(), velocity.float()
        if self._filtered is not None and self._block is not None:
            self._add(SPECTRUM, timestep, _relative(filtered, self._filtered))
            self._add(FIRST_BLOCK, timestep, _relative(block, self._block))
            ratio = float(velocity.norm()) / max(float(self._velocities[-1][1].norm()), SMALLEST)
            self._add(MAGNITUDE, timestep, abs(math.log(max(ratio, SMALLEST))))
        if len(self._velocities) == 2:
            (older, before), (newer, last) = self._velocities
            expected = last + (last - before) * ((timestep - newer) / (newer - older))
            self._add(EXTRAPOLATION, timestep, _relative(expected, velocity))
        self._filtered, self._block = filtered, block
        self._velocities = [*self._velocities[-1:], (timestep, velocity)]

    def curves(self) -> Mapping[str, Curve]:
        """For each rule (timestep, all change from noise to it), the noisiest first; means of all takes."""
        found = {}
        for rule, changes in self._changes.items():
            total, curve = 0.0, [(float(NUM_TRAIN_TIMESTEPS), 0.0)]
            for timestep in sorted(changes, reverse=True):
                total += sum(changes[timestep]) / len(changes[timestep])
                curve.append((timestep, total))
            found[rule] = tuple(curve)
        return found

    def _add(self, rule: str, timestep: float, change: float) -> None:
        self._changes.setdefault(rule, {}).setdefault(timestep, []).append(change)


def denoised(latents: Tensor, noise_share: float) -> Tensor:
    """What the best linear denoiser keeps of x = (1 - s) video + s noise, [1, Z, F, h, w] fp32.

    Its gain at frequency f is a S / (a^2 S + b^2) with a = 1 - s, b = s and the spectrum S = f^-3, divided by
    its mean (SeaCache, arXiv 2602.18993): early steps are compared by what is coarse, late ones by all.
    """
    a, b = max(1.0 - noise_share, SMALLEST), noise_share
    sizes = latents.shape[2:]
    frequencies = torch.meshgrid(
        *(torch.fft.fftfreq(size, device=latents.device) for size in sizes), indexing="ij"
    )
    radius = torch.stack([axis.square() for axis in frequencies]).sum(0).sqrt()
    lowest = min(1.0 / size for size in sizes)  # the mean has no frequency: as the lowest that there is
    spectrum = radius.clamp_min(lowest).pow(-VIDEO_SLOPE)
    gain = a * spectrum / (a * a * spectrum + b * b)
    kept = torch.fft.fftn(latents, dim=(2, 3, 4)) * (gain / gain.mean())
    back: Tensor = torch.fft.ifftn(kept, dim=(2, 3, 4)).real
    return back


def _relative(value: Tensor, reference: Tensor) -> float:
    """|value - reference| over |reference|, sums of magnitudes."""
    return float((value - reference).abs().sum() / reference.abs().sum().clamp_min(SMALLEST))
