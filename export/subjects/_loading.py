"""A library module from a local folder, with or without its weights; knows no subject.

Invariant: a module with weights has every tensor of its config, in the asked dtype except the library's own
fp32 islands (which a later `.to` would lose).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from export.dtypes import MODULE_DTYPES, TORCH_DTYPES
from export.spec import ExportError


def component_folder(source: Path, component: str) -> Path:
    """`source` itself when it holds a config, else its subfolder of that name (of a whole pipeline)."""
    for folder in (source, source / component):
        if (folder / "config.json").is_file():
            return folder
    raise ExportError(
        f"{source} holds neither config.json nor {component}/config.json",
        fix=f"give a diffusers folder, or the {component} folder of one",
    )


def load_module(folder: Path, module_class: Any, dtype: str, *, with_weights: bool = True) -> Any:
    """from_pretrained without network; on `meta` without weights. dtype: fp32, fp16 or bf16."""
    if dtype not in MODULE_DTYPES:
        raise ExportError(f"dtype {dtype!r} of a module", fix=f"use one of: {', '.join(MODULE_DTYPES)}")
    transformers_model = hasattr(module_class, "config_class") and module_class.config_class is not None
    keyword = "dtype" if transformers_model else "torch_dtype"
    try:
        if with_weights:
            module, info = module_class.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, **{keyword: TORCH_DTYPES[dtype]}
            )
            faults = [
                f"{kind} {sorted(map(str, info[kind]))[:3]}"
                for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
                if info[kind]
            ]
        else:
            module, faults = _outline(folder, module_class, dtype, transformers_model), []
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ExportError(f"{folder} cannot be loaded: {error}", fix="copy the whole folder again") from error
    if faults:
        raise ExportError(f"{folder}: {'; '.join(faults)}", fix="copy the whole folder again")
    return module.eval()


def _outline(folder: Path, module_class: Any, dtype: str, transformers_model: bool) -> Any:
    with torch.device("meta"):
        if transformers_model:
            module = module_class(module_class.config_class.from_pretrained(folder, local_files_only=True))
        else:
            module = module_class.from_config(module_class.load_config(folder, local_files_only=True))
    islands = () if transformers_model else module._keep_in_fp32_modules or ()
    for name, parameter in module.named_parameters():
        if set(name.split(".")).isdisjoint(islands):
            parameter.data = parameter.data.to(TORCH_DTYPES[dtype])
    return module
