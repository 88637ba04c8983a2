"""One take from end to end, ours and the library's, each timed alone; and ours with a critique beside it.

Both read the prefix clip, the same sentences and the same noise, and write the frames behind the prefix.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import Cosmos3OmniPipeline, UniPCMultistepScheduler

from bench.perf.overlap.sharing import STREAMS, shared
from bench.perf.overlap.work import Amount, Subject
from bench.perf.takes_alone import in_so_many_steps, latents_of, relative_error, timed_take
from engine.autoencoder.memory import padded
from engine.build.prepare import load, prepare
from engine.denoise.recent import Recent
from engine.denoise.take import pad_first
from engine.generators.cosmos3.generator import REMEMBERED
from engine.generators.cosmos3.texts import KeptTexts
from engine.machine.memory import MemoryPlan, check
from engine.machine.streams import LaneStreams
from engine.settings.config import load_config
from engine.types import Frames, Prompt
from engine.video.files import write_mp4
from engine.video.prefix import read_prefix

CHECK_STEPS = 2
"""Of takes that only compile, or are there for their memory or latents, with levels of both attentions."""
GUIDANCE = 6.0


@dataclass(slots=True, kw_only=True)
class Pair:
    """Ours, and where it was loaded the library's pipeline over the same files."""

    subject: Subject
    plan: MemoryPlan
    loaded: Mapping[str, int]
    folder: Path
    scratch: Path  # where takes are written
    pipeline: Any = None

    @property
    def generator(self) -> Any:
        return self.subject.generator

    def prompt(self, index: int) -> Prompt:
        """Another text for each take, so that each reads its own; the negative one is that of all."""
        one = self.subject.prompt(index)
        return replace(one, text=f"{one.text} Take {index}.")

    def load_pipeline(self) -> None:
        dtype = torch.bfloat16 if self.subject.device.type == "cuda" else torch.float32
        made = Cosmos3OmniPipeline.from_pretrained(
            self.folder,
            torch_dtype=dtype,
            local_files_only=True,
            enable_safety_checker=False,
            use_native_flow_schedule=True,
        )
        shift = self.generator.defaults.flow_shift
        made.scheduler = UniPCMultistepScheduler.from_config(made.scheduler.config, flow_shift=shift)
        made.set_progress_bar_config(disable=True)
        self.pipeline = made.to(self.subject.device)

    def warm_up(self) -> None:
        """A take, and the take that is critiqued."""
        with in_so_many_steps(self.generator, CHECK_STEPS):
            self.ours(901)
            self.subject.show()

    def warm_up_critic(self) -> None:
        with shared(STREAMS, self.subject.lanes) as on_lane:
            self.subject.run(Amount(takes=0, replies=1), on_lane)

    def ours(self, index: int) -> tuple[float, dict[str, float]]:
        """Seconds of a take, in all and by stage."""
        self.generator.prefixes = Recent(REMEMBERED)  # as of a scenario that is new
        video, timed = timed_take(lambda: self.generator.start(self.subject.scenario, self.prompt(index)))
        step_s = time.perf_counter()
        write_mp4(self.scratch / f"ours{index}.mp4", video.frames, self.generator.spec.fps)
        stages = {**timed.stages, "mp4": time.perf_counter() - step_s}
        return timed.seconds + stages["mp4"], stages

    def library(self, index: int) -> tuple[float, dict[str, float]]:
        began_s = time.perf_counter()
        frames = self._pipeline(index, self.generator.schedule.num_steps, "np")
        whole = (frames[self._prefix_frames :] * 255).round().astype(np.uint8)
        step_s = time.perf_counter()
        write_mp4(self.scratch / f"library{index}.mp4", whole, self.generator.spec.fps)
        ended_s = time.perf_counter()
        return ended_s - began_s, {"mp4": ended_s - step_s}

    def with_critique(self) -> tuple[float, dict[str, float]]:
        """A take and a critique of another one, begun at once on the lanes of a run; without mp4."""
        self.generator.prefixes = Recent(REMEMBERED)  # as of a scenario that is new, like those alone
        with shared(STREAMS, self.subject.lanes) as on_lane:
            ran = self.subject.run(Amount(takes=1, replies=1), on_lane)
        return ran.makespan_s, {"critique tokens": float(ran.tokens)}

    def error(self) -> float:
        """Relative difference of the latents after a few steps from the library's (L2)."""
        with in_so_many_steps(self.generator, CHECK_STEPS):
            job = self.generator.start(self.subject.scenario, self.prompt(0))
            ours = latents_of(job, self.generator.parts.vae)
        theirs = self._pipeline(0, CHECK_STEPS, "latent")  # normalised; the statistics are 0 and 1
        return relative_error(ours, theirs)

    def memory(self) -> list[dict[str, Any]]:
        """Plan against what was allocated, part by part; nothing on a CPU, whose memory is not measured."""
        if self.subject.device.type != "cuda":
            return []
        measured = {f"{name} loaded": size for name, size in self.loaded.items()}
        self.generator.denoiser = KeptTexts(self.generator.denoiser.inner)  # no text is read yet
        with _peak(self.subject.device) as taken, in_so_many_steps(self.generator, CHECK_STEPS):
            self.ours(900)
        measured["generator lane"] = taken[0]
        return [usage.document() for usage in check(self.plan, measured)]

    @property
    def _prefix_frames(self) -> int:
        return padded(int(self.generator.spec.prefix_frames))

    def _pipeline(self, index: int, steps: int, output: str) -> Any:
        spec, prompt = self.generator.spec, self.prompt(index)
        frames: Frames = pad_first(read_prefix(self.subject.scenario.prefix, spec))
        prefix = self._prefix_frames
        return self.pipeline(
            prompt=prompt.text,
            negative_prompt=prompt.negative,
            video=frames.astype(np.float32) / 255.0,
            condition_frame_indexes_vision=list(range((prefix - 1) // 4 + 1)),
            num_frames=prefix + spec.num_frames,
            height=spec.height,
            width=spec.width,
            fps=spec.fps,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(prompt.seed),
            output_type=output,
        ).video


def pair_of(folder: Path, clips: Path, *, preset: str) -> Pair:
    """Ours, loaded as a run loads it, with one folder named once."""
    config = load_config(
        None,
        {
            "dataset": str(clips),
            "out": str(folder / "runs"),  # nothing is written there
            "model": str(folder),
            "denoise.preset": preset,
            "generator.guidance_scale": GUIDANCE,
        },
    )
    prepared, sizes = prepare(config), dict[str, int]()
    loaded: tuple[Any, Any] = load(prepared, sizes)
    generator, critic = loaded
    device = torch.device(prepared.device, 0) if prepared.device == "cuda" else torch.device("cpu")
    subject = Subject(
        generator=generator,
        loaded_critic=critic,
        scenario=prepared.usable[0],
        device=device,
        lanes=LaneStreams(device),
    )
    return Pair(subject=subject, plan=prepared.memory, loaded=sizes, folder=folder, scratch=clips.parent)


@contextmanager
def _peak(device: torch.device) -> Iterator[list[int]]:
    """Of what is allocated inside, beyond what there is before."""
    taken: list[int] = []
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield taken
    torch.cuda.synchronize(device)
    taken.append(torch.cuda.max_memory_allocated(device) - before)
