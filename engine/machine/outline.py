"""Modules of diffusers with shapes and without values, and the bytes of modules. Knows no model by name."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import torch
from diffusers.models.modeling_utils import no_init_weights


def without_values(model_class: Any, config: Any, dtype: torch.dtype) -> Any:
    """A module of diffusers by its configuration, on the device meta; its fp32 islands stay."""
    with torch.device("meta"), no_init_weights():
        model = model_class.from_config(config)
    return in_dtype(model, model._keep_in_fp32_modules or (), dtype)


def in_dtype(model: Any, islands: Collection[str], dtype: torch.dtype) -> Any:
    """The module with every parameter in `dtype` but those whose name has a part in `islands`."""
    for name, parameter in model.named_parameters():
        if set(name.split(".")).isdisjoint(islands):
            parameter.data = parameter.data.to(dtype)
    return model


def frozen(config: Mapping[str, Any]) -> str:
    """A configuration as a key of a cache, the same of an outline and of the loaded module, which also knows
    where it came from."""
    known = {name: value for name, value in config.items() if not name.startswith("_")}
    return json.dumps(known, sort_keys=True, default=str)


def bytes_of(module: Any) -> int:
    """Of parameters and buffers, each storage once."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
