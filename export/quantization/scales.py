"""The scales file: the largest magnitudes that calibration saw, bound to the checkpoint they were seen with.

Holds magnitudes, not scales, so that one file serves every recipe. Knows no module. Invariant: magnitudes are
finite and not negative, and a file of another checkpoint or subject is refused, never adapted.
I input features of a group
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from export.spec import ExportError, Subject, recipe_of
from kernels.files import whole_file

SCHEMA = 1
_INPUT, _ATTENTION = "input_amax/", "attention_amax/"
_AGAIN = "calibrate this checkpoint again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """What calibration knows of one subject and checkpoint."""

    subject: str
    weights_digest: str
    producer: str
    num_forwards: int
    input_amax: Mapping[str, Tensor]
    """By group name, float32 [I]."""
    attention_amax: Mapping[str, Tensor]
    """By attention core, float32 [3]: of q, k and v."""


def write_scales(path: Path, scales: Scales) -> None:
    """Write atomically: a reader sees the whole file or none."""
    tensors = {
        prefix + name: tensor.float().contiguous()
        for prefix, group in ((_INPUT, scales.input_amax), (_ATTENTION, scales.attention_amax))
        for name, tensor in group.items()
    }
    header = {
        "schema": SCHEMA,
        "subject": scales.subject,
        "weights_digest": scales.weights_digest,
        "producer": scales.producer,
        "num_forwards": scales.num_forwards,
    }
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata={"retake": json.dumps(header)})


def read_scales(path: Path) -> Scales:
    """ExportError when the file is missing, damaged, or of another schema."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["retake"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["schema"] != SCHEMA:
            problem = f"{path} has schema {header['schema']}; this version reads {SCHEMA}"
            raise ExportError(problem, fix=_AGAIN)
        scales = Scales(
            subject=header["subject"],
            weights_digest=header["weights_digest"],
            producer=header["producer"],
            num_forwards=header["num_forwards"],
            input_amax=_under(_INPUT, tensors),
            attention_amax=_under(_ATTENTION, tensors),
        )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ExportError(f"{path} is not a scales file: {error!r}", fix=_AGAIN) from error
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise ExportError(f"{path}: {bad[0]} is not finite", fix=_AGAIN)
    return scales


def require_scales(scales: Scales | None, subject: Subject, recipe: str) -> Scales:
    """The scales if they are of this very subject and checkpoint, and complete; else ExportError."""
    spec = subject.spec
    if scales is None:
        problem = f"recipe {recipe} of {spec.subject} needs the magnitudes of its activations"
        raise ExportError(problem, fix="calibrate first and give the scales file")
    if scales.subject != spec.subject:
        problem = f"the scales are of subject {scales.subject}, not {spec.subject}"
        raise ExportError(problem, fix="give the scales file of this subject")
    if scales.weights_digest != spec.weights_digest:
        problem = (
            f"the scales were made with checkpoint {scales.weights_digest[:23]}..., "
            f"not {spec.weights_digest[:23]}..."
        )
        raise ExportError(problem, fix=_AGAIN)
    for group in subject.groups:
        amax = scales.input_amax.get(group.name)
        if amax is None or tuple(amax.shape) != (group.in_features,):
            found = "nothing" if amax is None else f"shape {tuple(amax.shape)}"
            problem = f"the scales hold {found} for {group.name}, which has {group.in_features} inputs"
            raise ExportError(problem, fix=_AGAIN)
    cores = subject.attentions if recipe_of(recipe).fp8_attention else ()
    missing = [name for name in cores if name not in scales.attention_amax]
    if missing:
        raise ExportError(f"the scales hold nothing for {missing[0]}", fix=_AGAIN)
    return scales


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
