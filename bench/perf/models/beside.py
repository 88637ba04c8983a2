"""The library's pipeline over the modules of a loaded generator: told to make the same take, and timed.

Invariant: the modules are those of preset exact, untouched by any part of ours. Where a pipeline keeps one
clean frame, it is given all of the prefix.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from torch import Tensor

from bench.perf.models.folders import KINDS
from bench.perf.models.sizes import ANYFLOW, TI2V, VACE
from bench.perf.takes_alone import Timed
from engine.autoencoder.memory import total_frames
from engine.autoencoder.vae import latent_frames_of
from engine.denoise.take import DENOISE, pad_first
from engine.generators.wan.far.chunks import partition_of
from engine.types import Frames, Prompt, Scenario
from engine.video.prefix import read_prefix


class LongPrefixPipeline(WanImageToVideoPipeline):  # type: ignore[misc]
    """Wan2.2-TI2V as the library has it, which keeps the latents of one frame clean: here of `prefix`."""

    prefix: Tensor
    """[1, 3, P, H, W] from -1 to 1."""

    def prepare_latents(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Noise, clean latents, and the mask that is 0 where they count."""
        noise, _, mask = super().prepare_latents(*arguments)
        clean = self.vae.encode(self.prefix.to(self.vae.device, self.vae.dtype)).latent_dist.mode()
        stated = self.vae.config.latents_mean, self.vae.config.latents_std
        mean, deviation = (torch.tensor(values).view(1, -1, 1, 1, 1).to(noise) for values in stated)
        condition = torch.zeros_like(noise)
        condition[:, :, : clean.shape[2]] = (clean.to(noise) - mean) / deviation
        mask[:, :, : clean.shape[2]] = 0
        return noise, condition, mask


class Library:
    """A pipeline over the parts of a generator that was loaded with preset exact."""

    def __init__(self, name: str, generator: Any, scenario: Scenario) -> None:
        """`name`: of bench.perf.models.sizes."""
        self._name, self._generator, self._scenario = name, generator, scenario
        parts = generator.parts
        pipeline_class = LongPrefixPipeline if name == TI2V else KINDS[name][0]
        _without_ftfy(KINDS[name][0])
        self._pipeline = pipeline_class(
            tokenizer=parts.tokenizer,
            text_encoder=parts.text_encoder,
            vae=parts.vae,
            transformer=parts.transformer,
            scheduler=type(parts.scheduler).from_config(parts.scheduler.config),
            **({"expand_timesteps": True} if name == TI2V else {}),
        )
        self._pipeline.set_progress_bar_config(disable=True)
        self.is_warm = False

    def latents(self, prompt: Prompt, steps: int) -> Tensor:
        """Normalised, [1, Z, F, h, w]."""
        found: Tensor = self._made(prompt, steps, "latent", lambda: None)
        self.is_warm = True
        return found

    def take(self, prompt: Prompt, steps: int) -> Timed:
        """With the prefix read and all frames decoded. A step is timed from the end of the one before it, the
        first from where the transformer is first asked."""
        ends: list[float] = []

        def ended() -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

        def asked(*_: Any) -> None:
            if not ends:
                ended()

        began_s = time.perf_counter()
        handle = self._generator.parts.transformer.register_forward_pre_hook(asked)
        try:
            self._made(prompt, steps, "np", ended)
        finally:
            handle.remove()
        seconds = time.perf_counter() - began_s
        steps_s = tuple(b - a for a, b in itertools.pairwise(ends))
        return Timed(seconds=seconds, stages={DENOISE: sum(steps_s)}, steps_s=steps_s)

    @torch.no_grad()
    def _made(self, prompt: Prompt, steps: int, output: str, ended: Callable[[], None]) -> Any:
        generator = self._generator
        spec, parts = generator.spec, generator.parts

        def each(pipeline: Any, index: int, timestep: Any, values: Mapping[str, Any]) -> dict[str, Any]:
            ended()
            return {}

        prefix = pad_first(read_prefix(self._scenario.prefix, spec))
        return self._pipeline(
            prompt=prompt.text,
            height=spec.height,
            width=spec.width,
            num_frames=total_frames(spec),
            num_inference_steps=steps,
            guidance_scale=generator.guidance_scales[0],
            max_sequence_length=parts.max_text_tokens,
            generator=torch.Generator().manual_seed(prompt.seed),
            output_type=output,
            callback_on_step_end=each,
            **self._own(prefix, prompt),
        ).frames

    def _own(self, prefix: Frames, prompt: Prompt) -> dict[str, Any]:
        """What only this pipeline is told: the prefix, uint8 [P, H, W, 3], and what there is beside it."""
        spec = self._generator.spec
        pixels = torch.from_numpy(prefix).permute(0, 3, 1, 2).float() / 255  # [P, 3, H, W]
        if self._name == TI2V:
            self._pipeline.prefix = 2 * pixels.permute(1, 0, 2, 3)[None] - 1
            return {"image": Image.fromarray(prefix[0]), "negative_prompt": prompt.negative}
        if self._name == ANYFLOW:
            total = latent_frames_of(total_frames(spec))
            config = self._generator.parts.transformer.config
            found = partition_of(config.chunk_partition, latent_frames_of(len(prefix)), total)
            assert found is not None, "the folder was checked"
            return {"video": pixels[None], "chunk_partition": list(found[0])}
        assert self._name == VACE, self._name
        video = torch.full((total_frames(spec), *pixels.shape[1:]), 0.5)
        video[: len(pixels)] = pixels
        mask = torch.ones_like(video)
        mask[: len(pixels)] = 0
        return {"video": video[None], "mask": mask[None], "negative_prompt": prompt.negative}


def _without_ftfy(pipeline_class: Any) -> None:
    """Pipelines clean texts with it, and call it where it is not installed; plain ASCII stays as it is."""
    module: Any = sys.modules[pipeline_class.__module__]
    if not hasattr(module, "ftfy"):
        module.ftfy = SimpleNamespace(fix_text=str)
