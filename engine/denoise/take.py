"""A take as a job of steps: encode, denoise, decode. How the latents come to be is its rollout's.

What families with a video autoencoder share; texts and models are theirs. Invariant: pixels depend on prefix,
texts and seed alone: not on the order of jobs or what ran before. What a job remembers between its steps
dies with it.
P prefix frames . Z channels . F latent frames in all . h, w latent pixels
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d

from engine.autoencoder.memory import latent_shape, padded, to_uint8, total_frames
from engine.autoencoder.vae import (
    TEMPORAL_STRIDE,
    decode_in_chunks,
    decode_preview,
    denormalise,
    latent_frames_of,
    num_chunks,
)
from engine.denoise.after_scout import AfterScout
from engine.denoise.beginnings import ALL, Part, steps_kept
from engine.denoise.finite import FiniteWatch
from engine.denoise.recent import Recent
from engine.denoise.restarts import Restarted, num_left, region
from engine.denoise.rollout import FlowRollout, Rollout
from engine.denoise.states import StateTap
from engine.errors import ConfigError, ModelError
from engine.machine.device import to_device
from engine.machine.streams import fence
from engine.protocols import Fence
from engine.types import Frames, Restarts, ScoutForm, StateSites, Video, VideoSpec

ENCODE, DENOISE, VAE_PASS = "encode", "denoise step", "VAE pass"
"""Stages of a job."""


def refuse_numbers(num_inference_steps: int | None, guidance_scale: float | None) -> None:
    """ConfigError for what no family can do; None is the default of a folder."""
    if num_inference_steps is not None and num_inference_steps < 1:
        raise ConfigError(f"num_inference_steps {num_inference_steps} is below 1", fix="take at least 1 step")
    if guidance_scale is not None and guidance_scale < 1.0:
        problem = f"guidance_scale {guidance_scale} is below 1 (1 switches guidance off)"
        raise ConfigError(problem, fix="give 1 or more")


class Sizes(Protocol):
    """What a folder's defaults say of its videos."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def fps(self) -> float: ...
    @property
    def prefix_frames(self) -> int: ...
    @property
    def num_frames(self) -> int: ...


def video_spec(sizes: Sizes, *, multiple: int, unfit: Callable[[str, str], ModelError]) -> VideoSpec:
    """Raises what `unfit` makes of the value found and what is allowed: sides are multiples of `multiple`
    pixels, and the autoencoder takes whole latent frames."""
    for side, pixels in (("width", sizes.width), ("height", sizes.height)):
        if pixels < multiple or pixels % multiple:
            raise unfit(f"{side} {pixels}", f"a multiple of {multiple}")
    if sizes.num_frames % TEMPORAL_STRIDE:
        raise unfit(f"num_frames {sizes.num_frames}", f"a multiple of {TEMPORAL_STRIDE}")
    return VideoSpec(
        width=sizes.width,
        height=sizes.height,
        fps=sizes.fps,
        prefix_frames=sizes.prefix_frames,
        num_frames=sizes.num_frames,
    )


def smaller(spec: VideoSpec, shrink: int) -> VideoSpec:
    """With sides over `shrink`, which `refuse_size` has allowed."""
    return replace(spec, width=spec.width // shrink, height=spec.height // shrink)


def refuse_size(spec: VideoSpec, shrink: int, *, multiple: int) -> None:
    """ConfigError where sides over `shrink` are no multiples of `multiple` pixels."""
    for side, pixels in (("width", spec.width), ("height", spec.height)):
        if pixels % (multiple * shrink):
            raise ConfigError(
                f"loop.scout_shrink is {shrink}, and the {side} of a take is {pixels} pixels, of which this "
                f"model needs a multiple of {multiple} also in a scout",
                fix="lower loop.scout_shrink, or give the model another size in retake.json",
            )


def pad_first(frames: Frames) -> Frames:
    """Repeat the *first* frame until the count is 4k + 1: the autoencoder drops what exceeds it at the end,
    which would be the frames just before the switch."""
    missing = padded(len(frames)) - len(frames)
    return np.concatenate([np.repeat(frames[:1], missing, axis=0), frames])


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeRequest:
    """What every family needs of scenario and prompt, already checked, on the host."""

    prefix_key: Hashable
    prefix: Frames | None  # [4k + 1, H, W, 3]; None when what is made of it is known
    encoded_prefix: Tensor | None  # held here because the cache may drop it meanwhile
    seeds: tuple[int, ...]  # of each take: several are rows of every forward
    beginning: Hashable | None  # what decides the denoise steps; None: they are not kept
    part: Part  # which of them are taken
    stills: bool  # decode a picture of each latent frame alone
    shown_as: Hashable | None = None  # under which the latents are kept, for a take that begins there
    after: ScoutForm | None = None  # the whole scout whose motion is kept
    shown: tuple[Tensor, ...] = ()  # its latents, where they are known
    rows: tuple[int, ...] = (0,)  # that are decoded
    restarts: Restarts | None = None  # of its first steps
    shrink: int = 1  # the take whose noise it has has sides that are so many times as long


class TakeJob(ABC):
    """Job[Video]: the steps of `_run`, one per `launch`. Of several takes at once each is a row [1, ...]."""

    def __init__(
        self,
        request: TakeRequest,
        *,
        vae: Any,
        spec: VideoSpec,
        device: torch.device,
        num_steps: int,
        chunk_latents: int,
        modules: Mapping[str, nn.Module],
        keep: Callable[[Hashable, Sequence[Tensor]], None],
        sites: StateSites | None = None,
    ) -> None:
        """`num_steps` of denoising a take, `chunk_latents` latent frames a pass of `vae`. `modules` by name:
        where a value that is no number may have begun. `keep`: what a take can go on from. `sites`: where
        hidden states are to be kept."""
        self._given, self._vae, self._spec, self._device = request, vae, spec, device
        self._modules, self._chunk_latents, self._keep_steps = modules, chunk_latents, keep
        self._decoded: list[list[Tensor]] = []  # of each row, uint8 [t, H, W, 3], on the host
        self._watch = FiniteWatch()
        self._tap = None if sites is None else StateTap(sites)
        if request.stills:
            self._passes = len(self._stills_of_pass())
        else:
            self._passes = num_chunks(vae, latent_frames_of(total_frames(spec)), chunk_latents)
        self._passes *= len(request.rows)
        self._num_kept = 0 if request.after is None else steps_kept(request.after, num_steps)
        num_first = 0 if request.after is None or request.shown else request.after.steps
        self._num_steps, self._num_behind = num_steps, request.part.num_left(num_steps) - self._num_kept
        if request.restarts is not None:
            self._num_behind = num_left(request.part, request.restarts, num_steps)
        self._steps_left = 1 + num_first + self._num_behind + self._passes
        self._stage = ENCODE
        self.num_denoised = 0  # steps that the denoiser has taken
        self._steps = self._run()

    @abstractmethod
    def _rollouts(self, watch: FiniteWatch) -> Callable[[Part, int | None, Tensor], Rollout]:
        """Encodes prefix and texts; what it returns makes the rollout of a part of the take, or of a take in
        so few steps, from noise [N, Z, F, h, w]. `watch` is told what was made."""

    @property
    def steps_left(self) -> int:
        return self._steps_left

    @property
    def stage(self) -> str:
        return self._stage

    def launch(self) -> Fence:
        """Enqueue the next step on the current stream of the device; never waits for it."""
        assert self._steps_left > 0, "the job is finished"
        with torch.inference_mode():
            next(self._steps)
        self._steps_left -= 1
        if self._steps_left == 0:
            self._steps.close()  # the next job need not have what the autoencoder looks back on, a gigabyte
        return fence(self._device)

    def result(self) -> Video:
        """The continuation without its prefix, once the last fence is over: frames are on the host before it.

        Raises NotFinite where a step made values that are no numbers.
        """
        (video,) = self.results()
        return video

    def results(self) -> tuple[Video, ...]:
        """Of every row that was decoded, as `result`."""
        assert self._steps_left == 0, f"{self._steps_left} steps left"
        self._watch.require(dict(self._modules), self._vae.dtype)
        fps = self._spec.fps / TEMPORAL_STRIDE if self._given.stills else self._spec.fps
        states = None if self._tap is None else self._tap.states()
        return tuple(
            Video(frames=torch.cat(frames).numpy(), fps=fps, states=states) for frames in self._decoded
        )

    def _run(self) -> Generator[None, None, None]:
        rollout = self._begun()
        self._stage = DENOISE
        yield
        for left in rollout.steps():
            self.num_denoised += 1
            self._steps_left = 1 + left + self._passes
            if left == 0:
                self._stage = VAE_PASS
            yield
        if self._given.part.until is not None and isinstance(rollout, FlowRollout):
            self._keep_steps(self._given.beginning, rollout.velocities)
        if self._given.shown_as is not None:
            self._keep_steps(self._given.shown_as, (rollout.latents,))
        if self._tap is not None:
            self._tap.to_host()
        latents = denormalise(self._vae, rollout.latents.to(self._vae.dtype))
        del rollout  # its history is as large as num_steps latents
        for row in self._given.rows:
            self._decoded.append([])
            for pixels in self._pixels(latents[row : row + 1]):
                if pixels.shape[2]:  # a chunk of the prefix alone has no frame of the take
                    self._watch.note("decoding the latents", pixels)
                    self._decoded[-1].append(to_uint8(pixels).to("cpu", non_blocking=True))  # pinned by torch
                yield

    def _begun(self) -> Rollout:
        given, noise = self._given, self._noise()
        make = self._rollouts(self._watch)
        if given.restarts is not None:
            return Restarted(
                lambda part, noise: make(part, None, noise),
                noise,
                self._region(given.restarts, tuple(noise.shape)),
                restarts=given.restarts,
                part=given.part,
                num_steps=self._num_steps,
                seed=given.seeds[0],
            )
        if given.after is None:
            return make(given.part, None, noise)
        shown = [to_device(latents, noise.device) for latents in given.shown]
        return AfterScout(
            shown[0] if shown else make(ALL, given.after.steps, noise),
            noise,
            lambda part: make(part, None, noise),
            num_kept=self._num_kept,
            num_left=self._num_behind,
        )

    def _region(self, restarts: Restarts, shape: tuple[int, ...]) -> Tensor:
        found = region(restarts, shape, latent_frames_of(padded(self._spec.prefix_frames)))
        return to_device(torch.from_numpy(found), self._device)

    def _pixels(self, latents: Tensor) -> Iterator[Tensor]:
        """[1, 3, t, H, W] a pass, without the frames of the prefix."""
        if not self._given.stills:
            first = padded(self._spec.prefix_frames)
            yield from decode_in_chunks(self._vae, latents, self._chunk_latents, first_frame=first)
            return
        for frames in self._stills_of_pass():
            yield decode_preview(self._vae, latents, frames).transpose(0, 1)[None]

    def _stills_of_pass(self) -> list[range]:
        """The latent frames behind the prefix, as many at a time as are decoded in one pass."""
        first, past = (
            latent_frames_of(count) for count in (padded(self._spec.prefix_frames), total_frames(self._spec))
        )
        size = self._chunk_latents or past - first
        return [range(start, min(start + size, past)) for start in range(first, past, size)]

    def _encode_prefix(self, known: Recent[Tensor], encode: Callable[[Tensor], Tensor]) -> Tensor:
        """What `encode` makes of the prefix's pixels, [1, 3, P, H, W] from -1 to 1 in the type of the
        autoencoder; once for all takes of a scenario as long as it is `known`."""
        if self._given.encoded_prefix is not None:
            return self._given.encoded_prefix
        assert self._given.prefix is not None
        host = torch.from_numpy(self._given.prefix)  # uint8 [P, H, W, 3]
        pixels = to_device(host, self._device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0
        encoded = encode(pixels.to(self._vae.dtype))  # those in float32 are not kept
        self._watch.note("encoding the prefix", encoded)
        known.put(self._given.prefix_key, encoded)
        return encoded

    def _noise(self) -> Tensor:
        """float32 [N, Z, F, h, w] of N seeds, each by a host generator of its own: alike on every device and
        in any company."""
        side = self._given.shrink
        *others, height, width = latent_shape(self._vae, self._spec)
        shape = (*others, side * height, side * width)
        rows = [
            torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
            for seed in self._given.seeds
        ]
        noise = torch.cat(rows)
        if side > 1:  # of independent values, so that the mean has 1 / side of their deviation
            noise = side * avg_pool3d(noise, (1, side, side))
        return to_device(noise, self._device)
