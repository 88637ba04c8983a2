"""A module without values gets those of a file, tensor by tensor; what does not match is told before that.

Knows no model and no format. Invariant: afterwards every parameter has a value of the file, in its own type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ModelError
from engine.weights.contents import listed

Shapes = Mapping[str, tuple[int, ...]]
Renaming = Callable[[str], str]
"""Name of a parameter -> the one that a file has for it."""


def naming_of(own: Iterable[str], found: Iterable[str], namings: Mapping[str, Renaming]) -> str:
    """Of `namings` the one by which most of `own` are among `found`."""
    names, there = list(own), set(found)
    return max(namings, key=lambda naming: sum(namings[naming](name) in there for name in names))


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of each parameter, once: one that is tied to another goes by the first of its names."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def left_out(model: Any, found: Iterable[str]) -> list[str]:
    """Names in a file that transformers and diffusers leave out of such a model on purpose."""
    patterns = [re.compile(text) for text in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    return [name for name in found if any(one.search(name) for one in patterns)]


def require_match(
    path: Path, wanted: Shapes, found: Shapes, *, what: str, allowed: Collection[str] = ()
) -> None:
    """ModelError with what is missing, surplus and of another shape; names are those of the file.

    `allowed`: names that may be there as well, such as a second name of a tied weight.
    """
    missing = sorted(wanted.keys() - found.keys())
    surplus = sorted(found.keys() - wanted.keys() - set(allowed))
    other = [
        f"{name} {list(found[name])} for {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    faults = [
        f"{len(names)} {kind}: {listed(names)}"
        for kind, names in (("missing", missing), ("surplus", surplus), ("of another shape", other))
        if names
    ]
    if faults:
        raise ModelError(
            f"{path} does not hold the tensors of {what}; {'; '.join(faults)}",
            fix="give a file of this part of this model, whole",
        )


@torch.no_grad()
def fill(model: Any, read: Callable[[str, torch.dtype], Tensor]) -> None:
    """`read` gives a parameter by its name, in the type that it is to have. Ties are those of the model."""
    for name, parameter in list(model.named_parameters()):
        place, _, leaf = name.rpartition(".")
        value = read(name, parameter.dtype)
        setattr(model.get_submodule(place), leaf, nn.Parameter(value, requires_grad=False))
    tie(model)


def tie(model: Any) -> None:
    """Of transformers: weights that are one become one; each value that a module is given unties it."""
    if hasattr(model, "tie_weights"):
        model.tie_weights()
