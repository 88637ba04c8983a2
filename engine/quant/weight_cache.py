"""Quantized weights on disk: made once per checkpoint, then loaded instead of quantizing again.

One safetensors file per source weights and formats; its name and its metadata hold the digest of both, so
that the file of another checkpoint, or of another choice of layers, is refused. Knows no torch version: only
plain tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.errors import ModelError
from engine.quant.linears import QuantizedLinear
from engine.quant.recipes import QuantTable
from engine.quant.surgery import Report, check, install, linear_of, plan, quantize_linears
from kernels.descriptors import dtype_name, torch_dtype
from kernels.files import whole_file

SCHEMA = 1


def weights_digest(module: nn.Module, names: Iterable[str]) -> str:
    """sha256 over names, shapes, dtypes and bytes of these nn.Linear layers: what the 8-bit weights depend
    on."""
    total = hashlib.sha256()
    for name in sorted(names):
        linear = linear_of(module, name)
        for tensor in (linear.weight, linear.bias):
            if tensor is None:
                total.update(f"{name} none\n".encode())
                continue
            total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            flat = tensor.detach().contiguous().view(torch.uint8).cpu()
            total.update(flat.numpy().data)
    return total.hexdigest()


def path_of(folder: Path, digest: str, formats: Mapping[str, str]) -> Path:
    """Where the weights of this digest and these formats live below `folder`."""
    choice = hashlib.sha256(json.dumps(sorted(formats.items())).encode()).hexdigest()
    kinds = "-".join(sorted(set(formats.values())))
    return folder / f"{digest[:16]}-{kinds}-{choice[:8]}.safetensors"


def save(layers: Mapping[str, QuantizedLinear], path: Path, *, digest: str) -> None:
    """Writes the layers, all or nothing: a reader never sees half a file."""
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        parts = {"weight": layer.weight, "scale": layer.scale, "bias": layer.bias}
        tensors |= {f"{name}.{part}": t.contiguous() for part, t in parts.items() if t is not None}
    formats = {name: layer.format for name, layer in layers.items()}
    dtypes = {name: dtype_name(layer.out_dtype) for name, layer in layers.items()}
    metadata = {
        "schema": str(SCHEMA),
        "source": digest,
        "formats": json.dumps(formats),
        "dtypes": json.dumps(dtypes),
    }
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata=metadata)


def load(
    path: Path, *, digest: str, formats: Mapping[str, str], device: torch.device | str = "cpu"
) -> dict[str, QuantizedLinear]:
    """The layers of a file that `save` wrote; raises ModelError for any other file."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = dict(file.metadata() or {})
            _check(metadata, path, digest=digest, formats=formats)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a dict
    except (SafetensorError, OSError) as error:
        raise _refused(path, f"cannot be read: {error}") from error
    dtypes: dict[str, str] = json.loads(metadata["dtypes"])
    try:
        return {
            name: QuantizedLinear(
                tensors[f"{name}.weight"],
                tensors[f"{name}.scale"],
                tensors.get(f"{name}.bias"),
                format=fmt,
                out_dtype=torch_dtype(dtypes[name]),
            )
            for name, fmt in formats.items()
        }
    except KeyError as error:
        raise _refused(path, f"lacks {error}") from error


def quantize_or_load(
    module: nn.Module,
    table: QuantTable,
    format: str,
    *,
    expect: int,
    folder: Path,
    policy: Mapping[str, str] | None = None,
) -> tuple[Report, Path]:
    """`quantize_linears`, from the file in `folder` where there is one, else writing it."""
    formats = plan(module, table, format, policy=policy)
    check(module, formats, expect=expect)
    digest = weights_digest(module, formats)
    path = path_of(folder, digest, formats)
    if path.exists():
        device = linear_of(module, next(iter(formats))).weight.device
        layers = load(path, digest=digest, formats=formats, device=device)
        return install(module, table, layers), path
    report = quantize_linears(module, table, format, expect=expect, policy=policy)
    made = {name: module.get_submodule(name) for name in formats}
    save({n: layer for n, layer in made.items() if isinstance(layer, QuantizedLinear)}, path, digest=digest)
    return report, path


def _check(metadata: dict[str, str], path: Path, *, digest: str, formats: Mapping[str, str]) -> None:
    if metadata.get("schema") != str(SCHEMA):
        raise _refused(path, f"has schema {metadata.get('schema')}, this version reads {SCHEMA}")
    if metadata.get("source") != digest:
        source = metadata.get("source", "nothing known")
        raise _refused(path, f"was made from weights {source[:16]}, the model has {digest[:16]}")
    if json.loads(metadata.get("formats", "{}")) != dict(formats):
        raise _refused(path, "holds another choice of layers or formats")


def _refused(path: Path, why: str) -> ModelError:
    return ModelError(
        f"quantized weights {path} {why}", fix="delete the file; it is made again from the model"
    )
