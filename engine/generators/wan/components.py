"""One component of a diffusers folder: with its weights, or as an outline of shapes; and where it is placed.

Knows no family rule. Invariant: the weights of what is read are complete (a missing tensor is an error, never
a random one) and in the asked dtype except for the library's fp32 islands.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ModelMixin
from safetensors import SafetensorError

from engine.errors import ModelError
from engine.generators.wan.single_file import read_single_file, require_names
from engine.machine.offload import look_up_on_host, stream
from engine.weights.linked import linked_file
from engine.weights.variants import variant_of
from kernels.files import read_json

CONFIG_FILES = {
    "transformer": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
COMPLETE = "copy or download the whole folder again"


def read_weights(
    folder: Path, component: str, model_class: Any, dtype: torch.dtype, *, device: torch.device
) -> Any:
    if (path := linked_file(folder / component)) is not None:
        with init_empty_weights():  # parameters alone: buffers have values
            model = refusing(folder, component, lambda: _by_config(folder, component, model_class))
        # as the library's classes: transformers' on the device, diffusers' on the host until they are placed
        home = device if component == "text_encoder" else torch.device("cpu")
        return read_single_file(path, _in_dtype(model, dtype), component, device, home)
    # The dtype at load time, not .to() afterwards: only this way the library keeps its fp32 islands.
    # transformers reads straight to the device on several threads; diffusers maps the file into memory, on
    # the CPU as on a GPU, and is as quick without.
    options: dict[str, Any] = {"variant": variant_of(folder / component)}
    if component == "text_encoder":
        options |= {"dtype": dtype, "device_map": {"": device}}
    else:
        options["torch_dtype"] = dtype
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
        raise unfit(folder, component, "; ".join(faults), "exactly the tensors of its config")
    return model


def read_on_host(folder: Path, component: str, model_class: Any, dtype: torch.dtype) -> Any:
    return read_weights(folder, component, model_class, dtype, device=torch.device("cpu"))


def place_text(text_encoder: Any, device: torch.device, *, streamed: bool) -> None:
    encoder = text_encoder.encoder
    place(text_encoder, encoder.block, device, streamed=streamed, table=encoder.embed_tokens)


def place(model: Any, blocks: Any, device: torch.device, *, streamed: bool, table: Any = None) -> None:
    """All of a model on the device; or all but its blocks, which visit it, and its table of tokens."""
    if not streamed:
        model.to(device)
        return
    at_home = [*blocks]
    if table is not None:
        look_up_on_host(table, device)
        at_home.append(table)
    ours = {id(tensor) for part in at_home for tensor in (*part.parameters(), *part.buffers())}
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in ours:
            tensor.data = tensor.data.to(device)
    stream(blocks, device)


def outline(folder: Path, component: str, model_class: Any, dtype: torch.dtype) -> Any:
    """The module of a component's config, with shapes and without values; ModelError where the headers of its
    weights state other tensors."""

    def build() -> Any:
        with torch.device("meta"):
            return _in_dtype(_by_config(folder, component, model_class), dtype)

    model = refusing(folder, component, build)
    require_names(folder / component, model, component)
    return model


def without_values(model_class: Any, config: Any, dtype: torch.dtype) -> Any:
    """A module of diffusers by its configuration, on the device meta; its fp32 islands stay."""
    with torch.device("meta"):
        return _in_dtype(model_class.from_config(config), dtype)


def _by_config(folder: Path, component: str, model_class: Any) -> Any:
    path = folder / component
    if component == "text_encoder":
        return model_class(model_class.config_class.from_pretrained(path, local_files_only=True))
    return model_class.from_config(model_class.load_config(path, local_files_only=True))


def _in_dtype(model: Any, dtype: torch.dtype) -> Any:
    """All but the fp32 islands: transformers has its own in fp16 alone."""
    has_islands = isinstance(model, ModelMixin) or dtype == torch.float16
    islands = set((has_islands and model._keep_in_fp32_modules) or ())
    for name, parameter in model.named_parameters():
        if islands.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    return model


def refusing(folder: Path, component: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        problem = f"{folder}: the component {component} cannot be loaded: {error}"
        raise ModelError(problem, fix=COMPLETE) from error


def read_json_object(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist", fix="give a diffusers folder of the Wan family") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", fix=COMPLETE) from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no JSON object", fix=COMPLETE)
    return values


def unfit(folder: Path, component: str, found: str, allowed: str) -> ModelError:
    return ModelError(
        f"{folder}: {component} has {found}; the wan family needs {allowed}",
        fix="use a folder as it is published for this pipeline, or correct this one",
    )
