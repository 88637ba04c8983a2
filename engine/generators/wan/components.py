"""One component of a Wan folder: with its weights, or as an outline of shapes; and where it is placed.

Knows no variant. Invariant: the weights of what is read are complete (a missing tensor is an error, never a
random one) and in the asked dtype except for the library's fp32 islands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.errors import ModelError
from engine.machine.offload import look_up_on_host, stream
from engine.machine.outline import in_dtype
from engine.machine.pipeline_folder import outline_component, read_component, read_object, refusing

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
    at = device if component == "text_encoder" else None
    return read_component(folder, component, model_class, dtype, device=at)


def read_on_host(folder: Path, component: str, model_class: Any, dtype: torch.dtype) -> Any:
    return read_weights(folder, component, model_class, dtype, device=torch.device("cpu"))


def outline(folder: Path, component: str, model_class: Any, dtype: torch.dtype) -> Any:
    """The module of a component's config, with shapes and without values."""
    if component != "text_encoder":
        return outline_component(folder, component, model_class, dtype)

    def build() -> Any:
        config = model_class.config_class.from_pretrained(folder / component, local_files_only=True)
        with torch.device("meta"):
            return in_dtype(model_class(config), (), dtype)

    return refusing(folder, component, build)


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
