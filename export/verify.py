"""Built against eager: the same forwards through both, each output compared, the spec's tolerance applied.

Knows no target: both sides are callables on named tensors. Invariant: a verification says which forwards it
saw, and one that saw none, or met a value that is not finite, has failed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.quantization.calibrate import Difference, Forward
from export.spec import ExportError, ExportSpec, Subject, Tolerance

Side = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Named inputs -> named outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDifference:
    """One output over all forwards. relative: norm(difference) / norm(eager)."""

    name: str
    max_absolute: float
    mean_absolute: float
    relative: float
    cosine: float
    finite: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRange:
    """What one input was like over all forwards: kernels right near zero may be wrong far off."""

    name: str
    mean: float
    deviation: float
    max_absolute: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The comparison and its verdict."""

    subject: str
    recipe: str
    weights_digest: str
    num_forwards: int
    tolerance: Tolerance
    inputs: tuple[InputRange, ...]
    outputs: tuple[OutputDifference, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """What is out of tolerance, one sentence each; empty when the built form may be used."""
        found = [] if self.num_forwards else ["nothing was compared"]
        for output in self.outputs:
            if not output.finite:
                found.append(f"{output.name} is not finite")
            if not output.relative <= self.tolerance.relative:
                found.append(
                    f"{output.name} has relative error {output.relative:.2e}, "
                    f"allowed {self.tolerance.relative:.2e}"
                )
            if not output.cosine >= self.tolerance.cosine:
                found.append(
                    f"{output.name} has cosine {output.cosine:.6f}, allowed {self.tolerance.cosine:.6f}"
                )
        return tuple(found)

    def record(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "recipe": self.recipe,
            "weights_digest": self.weights_digest,
            "num_forwards": self.num_forwards,
            "tolerance": {"relative": self.tolerance.relative, "cosine": self.tolerance.cosine},
            "inputs": [asdict(one) for one in self.inputs],
            "outputs": [asdict(one) for one in self.outputs],
            "failures": list(self.failures),
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.record(), indent=1), encoding="utf-8")

    def require(self) -> None:
        """ExportError that lists every failure."""
        if self.failures:
            problem = f"{self.subject} as {self.recipe} differs from eager: {'; '.join(self.failures)}"
            raise ExportError(problem, fix="calibrate with more scenes, or use a recipe of higher precision")


def verify(
    spec: ExportSpec,
    recipe: str,
    eager: Side,
    built: Side,
    forwards: Iterable[Forward],
    *,
    tolerance: Tolerance | None = None,
) -> Verification:
    """Compare on every forward; the tolerance is the spec's for the recipe unless another is given."""
    allowed = spec.tolerance_of(recipe) if tolerance is None else tolerance
    seen = {tensor.name: _Range() for tensor in spec.inputs}
    sums = {tensor.name: _Sums() for tensor in spec.outputs}
    num_forwards = 0
    for forward in forwards:
        inputs = dict(zip(seen, forward, strict=True))
        for name, extent in seen.items():
            extent.add(inputs[name])
        exact, found = eager(inputs), built(inputs)
        for name, running in sums.items():
            running.add(exact[name], found[name])
        num_forwards += 1
    return Verification(
        subject=spec.subject,
        recipe=recipe,
        weights_digest=spec.weights_digest,
        num_forwards=num_forwards,
        tolerance=allowed,
        inputs=tuple(extent.result(name) for name, extent in seen.items()),
        outputs=tuple(running.result(name) for name, running in sums.items()),
    )


def whole(step: Side, once: Side | None, spec: ExportSpec) -> Side:
    """One side that makes what is computed once of the very latents it is given."""
    if once is None:
        return step
    frames = spec.form.prefix_frames

    def run(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        prefix = inputs["latents"][:1, :, :frames].contiguous()
        return step({**inputs, **once({"latents": prefix})})

    return run


def eager_side(subject: Subject) -> Side:
    """The subject's module as one side of a verification, with what it computes once."""
    once = None if subject.once is None else eager_side(subject.once)

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            outputs = subject.module(*(inputs[tensor.name] for tensor in subject.spec.inputs))
        values = outputs if isinstance(outputs, tuple) else (outputs,)
        return dict(zip([tensor.name for tensor in subject.spec.outputs], values, strict=True))

    return whole(run, once, subject.spec)


class _Range:
    def __init__(self) -> None:
        self._count, self._total, self._squares, self._max = 0, 0.0, 0.0, 0.0

    def add(self, value: Tensor) -> None:
        value = value.double()
        self._count += value.numel()
        self._total += float(value.sum())
        self._squares += float(value.square().sum())
        self._max = max(self._max, float(value.abs().max()))

    def result(self, name: str) -> InputRange:
        mean = self._total / max(self._count, 1)
        variance = max(self._squares / max(self._count, 1) - mean**2, 0.0)  # in double, to be read by people
        return InputRange(name=name, mean=mean, deviation=variance**0.5, max_absolute=self._max)


class _Sums:
    def __init__(self) -> None:
        self._difference = Difference()
        self._max, self._total, self._count, self._finite = 0.0, 0.0, 0, True

    def add(self, exact: Tensor, found: Tensor) -> None:
        if exact.shape != found.shape:
            problem = f"shapes differ: eager {tuple(exact.shape)}, built {tuple(found.shape)}"
            raise ExportError(problem, fix="export again for this shape")
        found = found.to(exact.device)
        self._finite &= bool(torch.isfinite(found).all())
        absolute = (exact.double() - found.double()).abs()
        self._max = max(self._max, float(absolute.max()))
        self._total += float(absolute.sum())
        self._count += absolute.numel()
        self._difference.add(exact, found)

    def result(self, name: str) -> OutputDifference:
        return OutputDifference(
            name=name,
            max_absolute=self._max,
            mean_absolute=self._total / max(self._count, 1),
            relative=self._difference.relative,
            cosine=self._difference.cosine,
            finite=self._finite,
        )
