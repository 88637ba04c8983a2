"""What is recorded is what an exported form would have got as its inputs."""

from __future__ import annotations

from typing import Any

import torch
from tiny_export import subject
from torch import Tensor

from export.model_inputs import named_inputs
from export.quantization.trajectories import RecordingDenoiser, record

LATENTS, TEXT = torch.randn(1, 4, 3, 4, 6), torch.randn(1, 9, 16)


class Inner:
    def prepare(self, text: Tensor) -> list[Tensor]:
        return [text]  # what a denoiser makes of its text need not be a tensor

    def __call__(self, latents: Tensor, timestep: Tensor, text: Any, *, branch: str) -> Tensor:
        return latents + float(text[0].sum())


class Fence:
    def wait(self) -> None: ...


class Job:
    def __init__(self, generator: Any, steps: int) -> None:
        self.generator, self.steps_left = generator, steps + 1

    @property
    def stage(self) -> str:
        return "step"

    def launch(self) -> Fence:
        self.steps_left -= 1
        if self.steps_left:  # the last step decodes
            denoiser = self.generator.denoiser
            denoiser(LATENTS, torch.tensor([[0.0, 5.0, 5.0]]), denoiser.prepare(TEXT), branch="cond")
        return Fence()


class Generator:
    def __init__(self) -> None:
        self.denoiser: Any = Inner()

    def start(self, scenario: Any, prompt: Any) -> Job:
        return Job(self, prompt)


def test_recording_passes_on_and_keeps() -> None:
    spec = subject(num_layers=1).spec
    recorder = RecordingDenoiser(Inner(), spec)
    times, pair = torch.tensor([[0.0, 5.0, 5.0]]), torch.cat([TEXT, -TEXT])
    one, two = recorder.prepare(TEXT), recorder.prepare(pair)
    assert torch.equal(recorder(LATENTS, times, one, branch="cond"), LATENTS + float(TEXT.sum()))
    recorder(LATENTS, times, two, branch="both")
    assert len(recorder.forwards) == 3  # the pair is two rows of a profile for one
    for forward, text in zip(recorder.forwards, (TEXT, TEXT, -TEXT), strict=True):
        wanted = named_inputs(spec, spec.profiles[0], LATENTS, times, text)
        assert all(torch.equal(a, wanted[t.name]) for a, t in zip(forward, spec.inputs, strict=True))


def test_record_runs_jobs_and_restores_the_denoiser() -> None:
    generator = Generator()
    inner = generator.denoiser
    requests: list[Any] = [("a", 2), ("b", 3)]
    assert len(list(record(generator, requests, subject(num_layers=1).spec))) == 5
    assert generator.denoiser is inner
