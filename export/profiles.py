"""Which of the built shapes a call has, and whether its tensors are what was built for.

Compiled code trusts its caller: with another shape, dtype or device it reads memory that is not the input's.
Reads what a tensor says of itself, never values, so nothing waits for a device. Invariant: nothing runs with
a tensor that is missing, unknown, of another shape or dtype, or elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from export.dtypes import TORCH_DTYPES
from export.spec import ExportError, ExportSpec


def profile_of(spec: ExportSpec, inputs: Mapping[str, Tensor], device: torch.device | None = None) -> int:
    """Index of the profile with exactly these inputs; ExportError lists what was built.

    device: where every input has to be; None: anywhere, for a target that brings them where they belong.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
    built = [{t.name: t.shape(profile.sizes) for t in spec.inputs} for profile in spec.profiles]
    if shapes in built:
        _require_tensors(spec, inputs, device)
        return built.index(shapes)
    listed = "\n".join(
        f"  {profile.name}: " + ", ".join(f"{name} {list(shape)}" for name, shape in one.items())
        for profile, one in zip(spec.profiles, built, strict=True)
    )
    given = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    raise ExportError(
        f"{spec.subject} was not built for {given}; built profiles:\n{listed}",
        fix="export again with --shape of this video, or choose a video size that was built",
    )


def _require_tensors(spec: ExportSpec, inputs: Mapping[str, Tensor], device: torch.device | None) -> None:
    wrong = []
    for wanted in spec.inputs:
        given = inputs[wanted.name]
        if given.dtype != TORCH_DTYPES[wanted.dtype]:
            wrong.append(f"{wanted.name} is {given.dtype}, built for {TORCH_DTYPES[wanted.dtype]}")
        if device is not None and not _is_on(given, device):
            wrong.append(f"{wanted.name} is on {given.device}, built for {device}")
    if wrong:
        raise ExportError(
            f"{spec.subject} cannot take these inputs: {'; '.join(wrong)}",
            fix="give every input the dtype and device it was built for (Tensor.to)",
        )


def _is_on(tensor: Tensor, device: torch.device) -> bool:
    """A device without an index is its first one, as for the loaders of the targets."""
    return tensor.device.type == device.type and (tensor.device.index or 0) == (device.index or 0)
