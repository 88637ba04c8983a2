"""Real trajectories of a Cosmos3 take as the inputs of its exported generation tower: recorded.

Puts itself between a generator and its denoiser. Invariant: what is recorded is what an exported tower would
have got in that very step, its text padded and masked.
F latent frames . S video tokens . L text tokens . E layers . K heads of keys and values . D head size
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from engine.denoise.sampler import PrefixTimestep
from engine.generators.cosmos3.forward import patch_grid
from engine.generators.cosmos3.text import TextCache, video_rotary
from engine.types import Prompt, Scenario
from engine.words import counted
from export.model_inputs import MASKED
from export.quantization.calibrate import Forward
from export.spec import ExportError, ExportSpec, Profile


class RecordingTower:
    """Passes every call on and keeps what the exported form would have got."""

    def __init__(self, inner: Any, spec: ExportSpec, transformer: Any, fps: float) -> None:
        self._inner, self._spec = inner, spec
        self._transformer, self._fps = transformer, fps
        self.forwards: list[Forward] = []

    def prepare(self, text: Tensor) -> Any:
        return self._inner.prepare(text)

    def __call__(self, latents: Tensor, timestep: PrefixTimestep, text: TextCache, *, branch: str) -> Any:
        profile = _profile(self._spec, latents, text)
        grid = patch_grid(latents.shape, int(self._transformer.config.latent_patch_size))
        cos, sin = video_rotary(self._transformer, text.num_tokens, grid, self._fps)
        times = timestep.per_frame(latents.device)
        made = {
            "latents": latents.float(),
            "timestep": times,
            "noisy": (times > 0).float(),
            "cos": cos[None],
            "sin": sin[None],
            **_padded(text, profile.sizes["L"]),
        }
        self.forwards.append(tuple(made[tensor.name].detach().cpu().clone() for tensor in self._spec.inputs))
        return self._inner(latents, timestep, text, branch=branch)


def record(
    generator: Any, requests: Iterable[tuple[Scenario, Prompt]], spec: ExportSpec
) -> Iterator[Forward]:
    """The forwards of one job after another, each run to its end; afterwards the generator is as before."""
    inner, transformer = generator.denoiser, generator.parts.transformer
    try:
        for scenario, prompt in requests:
            recorder = RecordingTower(inner, spec, transformer, generator.spec.fps)
            generator.denoiser = recorder
            job = generator.start(scenario, prompt)
            while job.steps_left:
                job.launch().wait()
            yield from recorder.forwards
    finally:
        generator.denoiser = inner


def _padded(text: TextCache, length: int) -> dict[str, Tensor]:
    """Keys and values [E, 1, K, L, D] of all layers, and the additive mask [1, L] of the padding."""
    missing = length - text.num_tokens
    keys, values = (
        functional.pad(torch.stack(tensors).transpose(2, 3).float(), (0, 0, 0, missing))
        for tensors in (text.keys, text.values)
    )
    mask = torch.zeros(1, length)
    mask[:, text.num_tokens :] = MASKED
    return {"text_keys": keys, "text_values": values, "text_mask": mask}


def _profile(spec: ExportSpec, latents: Tensor, text: TextCache) -> Profile:
    _, _, frames, height, width = latents.shape
    wanted = {"F": frames, "h": height, "w": width}
    for profile in spec.profiles:
        same = all(profile.sizes[name] == size for name, size in wanted.items())
        if same and profile.sizes["B"] == 1 and profile.sizes["L"] >= text.num_tokens:
            return profile
    raise ExportError(
        f"no profile of {spec.subject} takes latents {tuple(latents.shape)} with "
        f"{counted(text.num_tokens, 'token')}",
        fix="verify with the generator whose video it was exported for, with one row",
    )
