"""One component of a Wan folder: with its weights, or as an outline of shapes; and where it is placed.

Knows no variant. Invariant: the weights of what is read are complete (a missing tensor is an error, never a
random one) and in the asked dtype except for the library's fp32 islands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ModelMixin

from engine.errors import ModelError
from engine.generators.wan.single_file import read_single_file, require_names
from engine.machine.offload import look_up_on_host, stream
from engine.machine.outline import in_dtype
from engine.machine.pipeline_folder import outline_component, read_component, read_object, refusing
from engine.weights.linked import linked_file

TEXT_ENCODER = "text_encoder"
CONFIG_FILES = {
    "transformer": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}


def read_weights(
    folder: Path, component: str, model_class: Any, dtype: torch.dtype, *, device: torch.device
) -> Any:
    _require_class(folder, component, model_class)
    at = device if component == TEXT_ENCODER else None
    if (path := linked_file(folder / component)) is not None:
        with init_empty_weights():  # parameters alone: buffers have values
            model = refusing(folder, component, lambda: _by_config(folder, component, model_class))
        # as the library's classes: transformers' on the device, diffusers' on the host until they are placed
        home = torch.device("cpu") if at is None else at
        return read_single_file(path, _in_dtype(model, dtype), _kind(component), device, home)
    return read_component(folder, component, model_class, dtype, device=at)


def read_on_host(folder: Path, component: str, model_class: Any, dtype: torch.dtype) -> Any:
    return read_weights(folder, component, model_class, dtype, device=torch.device("cpu"))


def outline(folder: Path, component: str, model_class: Any, dtype: torch.dtype) -> Any:
    """The module of a component's config, with shapes and without values; ModelError where the headers of its
    weights state other tensors."""

    _require_class(folder, component, model_class)

    def build() -> Any:
        with torch.device("meta"):
            return _in_dtype(_by_config(folder, component, model_class), dtype)

    is_text = component == TEXT_ENCODER
    model = (
        refusing(folder, component, build)
        if is_text
        else outline_component(folder, component, model_class, dtype)
    )
    require_names(folder / component, model, _kind(component))
    return model


def _require_class(folder: Path, component: str, model_class: Any) -> None:
    """Others have the same tensors, such as the autoencoder of Qwen-Image. Of transformers' classes the model
    type is asked."""
    stated = read_json(folder / component / CONFIG_FILES[_kind(component)]).get("_class_name")
    if stated not in (None, model_class.__name__):
        raise unfit(folder, component, f"_class_name {stated!r}", model_class.__name__)


def _kind(component: str) -> str:
    """What the weights of a component are: the second transformer is one too."""
    return component.removesuffix("_2")


def _by_config(folder: Path, component: str, model_class: Any) -> Any:
    path = folder / component
    if component == TEXT_ENCODER:
        return model_class(model_class.config_class.from_pretrained(path, local_files_only=True))
    return model_class.from_config(model_class.load_config(path, local_files_only=True))


def _in_dtype(model: Any, dtype: torch.dtype) -> Any:
    """All but the fp32 islands: transformers has its own in fp16 alone."""
    has_islands = isinstance(model, ModelMixin) or dtype == torch.float16
    return in_dtype(model, (has_islands and model._keep_in_fp32_modules) or (), dtype)


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


def read_json(path: Path) -> dict[str, Any]:
    return read_object(path, kind="a diffusers folder of the Wan family")


def unfit(folder: Path, component: str, found: str, allowed: str) -> ModelError:
    return ModelError(
        f"{folder}: {component} has {found}; the wan family needs {allowed}",
        fix="use a folder as it is published for this pipeline, or correct this one",
    )
