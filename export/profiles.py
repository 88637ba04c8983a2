"""Which of the built shapes a call has. Reads shapes, never values, so nothing waits for a device."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from export.spec import ExportError, ExportSpec


def profile_of(spec: ExportSpec, inputs: Mapping[str, Tensor]) -> int:
    """Index of the profile with exactly these inputs; ExportError lists what was built."""
    shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
    built = [{t.name: t.shape(profile.sizes) for t in spec.inputs} for profile in spec.profiles]
    if shapes in built:
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
