"""The components of a pipeline folder of diffusers, each read whole or refused. Knows no family.

Invariant: a component that was read has exactly the tensors of its configuration, in the asked dtype except
for the library's fp32 islands.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from engine.errors import ModelError
from engine.machine.outline import without_values
from engine.weights.variants import variant_of as weight_variant
from kernels.files import read_json

COMPLETE = "copy or download the whole folder again"
_LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError)


def read_component(
    folder: Path, component: str, model_class: Any, dtype: torch.dtype, *, device: torch.device | None = None
) -> Any:
    """The module of `folder / component` with its weights. ModelError: a tensor is missing, surplus or of
    another shape, or a file cannot be read. device: where a class of transformers reads to at once; None for
    one of diffusers, which maps the file into memory and is as quick without."""
    # The dtype at load time, not .to() afterwards: only this way the library keeps its fp32 islands.
    # transformers reads straight to the device on several threads.
    options: dict[str, Any] = {"variant": weight_variant(folder / component)}
    if device is None:
        options["torch_dtype"] = dtype
    else:
        options |= {"dtype": dtype, "device_map": {"": device}}
    model, info = refusing(
        folder,
        component,
        lambda: model_class.from_pretrained(
            folder / component, local_files_only=True, output_loading_info=True, **options
        ),
    )
    faults = [
        f"{len(info[kind])} {kind} {sorted(map(str, info[kind]))[:3]}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info[kind]
    ]
    if faults:
        raise ModelError(
            f"{folder}: {component} has {'; '.join(faults)}, not exactly the tensors of its config",
            fix=COMPLETE,
        )
    return model


def outline_component(folder: Path, component: str, model_class: Any, dtype: torch.dtype) -> Any:
    """The same of a class of diffusers with shapes and without values, on the device meta."""
    path = folder / component
    return refusing(
        folder,
        component,
        lambda: without_values(model_class, model_class.load_config(path, local_files_only=True), dtype),
    )


def refusing(folder: Path, component: str, load: Callable[[], Any]) -> Any:
    """What `load` makes; what the libraries raise for a damaged folder is a ModelError."""
    try:
        return load()
    except (*_LOADING_ERRORS, SafetensorError, StrictDataclassError) as error:
        problem = f"{folder}: the component {component} cannot be loaded: {error}"
        raise ModelError(problem, fix=COMPLETE) from error


def read_object(path: Path, *, kind: str) -> dict[str, Any]:
    """A JSON object. ModelError: no such file, or something else in it. kind: of folder that is wanted."""
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist", fix=f"give {kind}") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", fix=COMPLETE) from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no JSON object", fix=COMPLETE)
    return values
