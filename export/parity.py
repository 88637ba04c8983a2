"""One artifact against its module: on inputs of real takes, here, and with its runtime's other settings.

Says what came out, where (runtime, device, options) and on what. Invariant: both sides see the same forwards,
none of them noise where a take has something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.denoise.lora import read_loras
from export import generator_inputs, pipeline
from export.artifacts.store import Artifact, require_checkpoint
from export.quantization.calibrate import Forward
from export.spec import ExportError, ExportSpec, spec_from_record
from export.subjects.wan_forms import as_called
from export.targets import onnx
from export.targets.onnx_session import others
from export.verify import Side, Verification, eager_side, verify

SEED = 1
"""Another than calibration's."""

OnProgress = Callable[[str, int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another way of running the same artifact, on its first forward. problem: "" where it may be used."""

    options: str
    relative: float | None
    """Of the output that is furthest off; None when it did not run."""
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """What `compare` found. place: runtime, device and, if there are any, options."""

    verification: Verification
    place: Mapping[str, str]
    inputs_are: str
    others: tuple[Other, ...]

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "place": dict(self.place),
            "inputs_are": self.inputs_are,
            **self.verification.record(),
            "others": [
                {"options": one.options, "relative": one.relative, "problem": one.problem}
                for one in self.others
            ],
        }


def compare(
    artifact: Artifact,
    generator: str,
    loras: Sequence[str],
    *,
    dataset: Path | None,
    num_scenes: int,
    device: str,
    on_progress: OnProgress,
) -> Parity:
    """The built form against the eager module in fp32, on takes of another seed than calibration's.

    ExportError when the artifact is of another checkpoint or shape, or cannot be run here.
    """
    spec = as_called(spec_from_record(artifact.key["spec"]))
    device = artifact.details.get("device", device)  # a package runs where it was compiled for
    source, _ = generator_inputs.outline(generator)
    request = pipeline.Request(
        source=source,
        subject=spec.subject,
        target=artifact.key["target"],
        recipe=artifact.key["recipe"],
        profiles=spec.profiles,
        out=artifact.folder.parent,
        loras=read_loras(loras),
        device=device,
        form=spec.form,
    )
    require_checkpoint(artifact, pipeline.digest_of(request))
    on_progress("loading the built form", None)
    built = pipeline.load_built(artifact, device)
    on_progress("loading the eager module", None)
    subject = pipeline.subject_of(request, dtype="fp32")
    subject.module.to(device)
    scenes = f"{num_scenes} scene{'s' * (num_scenes > 1)}"
    on_progress(f"comparing on {scenes}", None)
    recorded = generator_inputs.record(
        request, spec, dtype="fp32", dataset=dataset, num_scenes=num_scenes, seed=SEED
    )
    first: list[Forward] = []
    forwards = _keeping_first((tuple(tensor.to(device) for tensor in one) for one in recorded), first)
    eager = eager_side(subject)
    verification = verify(spec, request.recipe, eager, built, forwards)
    tried: tuple[Other, ...] = ()
    if request.target == pipeline.ONNX and first:
        tried = _try_others(artifact, spec, eager, first[0], on_progress)
    return Parity(
        verification=verification,
        place=pipeline.place_of(artifact, device),
        inputs_are=f"takes of {scenes} of {dataset.name if dataset else 'the bundled six'}, seed {SEED}",
        others=tried,
    )


def _try_others(
    artifact: Artifact, spec: ExportSpec, eager: Side, forward: Forward, on_progress: OnProgress
) -> tuple[Other, ...]:
    """Every other set of session options, on one forward: who runs the graph elsewhere may have any."""
    recipe = artifact.key["recipe"]
    inputs = dict(zip([tensor.name for tensor in spec.inputs], forward, strict=True))
    exact = eager(inputs)
    found = []
    for options in others(onnx.stated_options(artifact.folder)):
        on_progress(f"trying {options}", None)
        try:
            run = onnx.load_module(artifact.folder, session=options)
            result = verify(spec, recipe, lambda inputs: exact, run, [forward])
        except ExportError as error:
            found.append(Other(options=str(options), relative=None, problem=error.problem))
            continue
        found.append(
            Other(
                options=str(options),
                relative=max(output.relative for output in result.outputs),
                problem="; ".join(result.failures),
            )
        )
    return tuple(found)


def _keeping_first(forwards: Iterable[tuple[Tensor, ...]], first: list[Forward]) -> Iterable[Forward]:
    for forward in forwards:
        if not first:
            first.append(forward)
        yield forward
