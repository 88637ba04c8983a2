"""A part of a Wan model from one file of another tool: safetensors or GGUF, in any naming that is known.

Knows no folder's layout and no prompt. Weights are read once into the types that the part is to have: 8-bit
and GGUF weights are dequantized in fp32 before that, so that LoRA files are merged, and layers quantized, as
they are of any other file.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import UMT5Config, UMT5EncoderModel

from engine.errors import ModelError
from engine.generators.wan.files import TEXT_ENCODER, TRANSFORMER, identify
from engine.generators.wan.published_names import (
    published_name,
    published_vae_name,
    text_encoder_namings,
)
from engine.weights.contents import Contents, contents
from engine.weights.fill import Renaming, fill, left_out, naming_of, parameter_shapes, require_match, tie
from engine.weights.header import read_header
from engine.weights.linked import linked_file
from engine.weights.parts import Part
from engine.weights.tensors import Weights
from engine.weights.variants import library_shapes


def names_in(model: Any, found: Contents, component: str) -> dict[str, str]:
    """Name of each parameter of `model` -> its name in the file.

    ModelError where the file is of another part or model, or lacks tensors or has others; reads none.
    """
    path = found.header.path
    part = identify(found.shapes)
    if part is None or part.kind != component:
        other = "no part of a Wan model" if part is None else part.title
        raise ModelError(
            f"{path} is {other}, not the {component}", fix=f"give the file of this model's {component}"
        )
    shapes = parameter_shapes(model)
    namings = _namings(model, component)
    naming = namings[naming_of(shapes, found.weights, namings)]
    tied = [naming(name) for name in model.state_dict() if name not in shapes]
    require_match(
        path,
        {naming(name): shape for name, shape in shapes.items()},
        found.shapes,
        what=part.title,
        allowed=tied,
    )
    return {name: naming(name) for name in shapes}


def require_names(folder: Path, model: Any, component: str) -> None:
    """ModelError where the headers of the weights in `folder` state other tensors than `model` has.

    `model` may have shapes only. Nothing is said where there are no weights at all.
    """
    tie(model)
    if (path := linked_file(folder)) is not None:
        names_in(model, contents(read_header(path)), component)
        return
    if not (found := library_shapes(folder)):
        return
    shapes = parameter_shapes(model)
    allowed = {*model.state_dict(), *left_out(model, found)}
    require_match(folder, shapes, found, what=f"the {component} of its config.json", allowed=allowed)


def read_single_file(path: Path, model: Any, component: str, device: torch.device, home: torch.device) -> Any:
    """`model`, which has shapes only, with the weights of the file at `home`; dequantized on `device`."""
    found = contents(read_header(path))
    tie(model)
    names = names_in(model, found, component)
    with Weights(found, device) as weights:
        fill(model, lambda name, dtype: weights.read(names[name], dtype).to(home))
    return model


def _namings(model: Any, component: str) -> dict[str, Renaming]:
    if component == TRANSFORMER:
        return {"diffusers": str, "publisher": published_name}
    if component == TEXT_ENCODER:
        return text_encoder_namings()
    published = functools.partial(
        published_vae_name,
        residual=bool(model.config.is_residual),
        num_res_blocks=int(model.config.num_res_blocks),
    )
    return {"diffusers": str, "publisher": published}


def require_whole(found: Contents, part: Part) -> None:
    """ModelError with both lists where the file lacks tensors of the part that it is, or has others."""
    with torch.device("meta"):
        if part.kind == TEXT_ENCODER:
            model: Any = UMT5EncoderModel(UMT5Config(**part.config))
        else:
            model = getattr(diffusers, part.config["_class_name"]).from_config(dict(part.config))
    tie(model)
    names_in(model, found, part.kind)
