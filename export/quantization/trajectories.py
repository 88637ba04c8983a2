"""Real denoise trajectories as the inputs of an exported transformer: recorded.

Knows no model family: it puts itself between a generator and the denoiser the generator holds. Invariant:
what is recorded is what an exported transformer would have got as its inputs in that very step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from torch import Tensor

from engine.types import Prompt, Scenario
from export.model_inputs import BRANCHES, choose_profile, named_inputs
from export.quantization.calibrate import Forward
from export.spec import ExportSpec


class HasDenoiser(Protocol):
    """A generator whose denoiser can be exchanged, as all of ours."""

    denoiser: Any

    def start(self, scenario: Scenario, prompt: Prompt) -> Any: ...


class RecordingDenoiser:
    """Passes every call on and keeps what the exported form would have got; one forward per row of text."""

    def __init__(self, inner: Any, spec: ExportSpec) -> None:
        self._inner = inner
        self._spec = spec
        self._texts: list[tuple[Any, Tensor]] = []
        self.forwards: list[Forward] = []

    def prepare(self, text: Tensor) -> Any:
        prepared = self._inner.prepare(text)
        self._texts.append((prepared, text.detach()))
        return prepared

    def __call__(self, latents: Tensor, timestep: Any, text: Any, *, branch: str) -> Any:
        rows = next(rows for prepared, rows in self._texts if prepared is text)
        assert len(rows) == BRANCHES[branch], f"{branch}: text {tuple(rows.shape)}"
        profile = choose_profile(self._spec, latents, rows)
        size = profile.sizes["B"]
        for start in range(0, len(rows), size):
            inputs = named_inputs(self._spec, profile, latents, timestep, rows[start : start + size])
            self.forwards.append(tuple(inputs[t.name].detach().cpu().clone() for t in self._spec.inputs))
        return self._inner(latents, timestep, text, branch=branch)


def record(
    generator: HasDenoiser, requests: Iterable[tuple[Scenario, Prompt]], spec: ExportSpec
) -> Iterator[Forward]:
    """The forwards of one job after another, each run to its end; afterwards the generator is as before."""
    inner = generator.denoiser
    try:
        for scenario, prompt in requests:
            recorder = RecordingDenoiser(inner, spec)
            generator.denoiser = recorder
            job = generator.start(scenario, prompt)
            while job.steps_left:
                job.launch().wait()
            yield from recorder.forwards
    finally:
        generator.denoiser = inner
