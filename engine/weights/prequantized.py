"""Folders of transformers whose layers are quantized already: AWQ, GPTQ, compressed-tensors, FP8.

Which tensors make a layer is told by their names, how they are packed by `quantization_config`; what is not
read here is refused by name. Imports no torch. Invariant: every tensor is a weight, or belongs to a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine.errors import ModelError
from engine.weights.contents import EIGHT_BIT, listed
from engine.weights.header import Stored, read_header
from engine.weights.variants import library_files
from engine.words import counted

Shape = tuple[int, ...]
AWQ, GPTQ, PACKED, SCALED = "awq", "gptq", "packed", "scaled"
_WORD = 32

FORMATS: Final = {
    "pack-quantized": PACKED,
    "float-quantized": SCALED,
    "int-quantized": SCALED,
    "naive-quantized": SCALED,
}
"""Of compressed-tensors, those that are read."""
PARTS: Final[dict[str, tuple[frozenset[str], frozenset[str]]]] = {
    AWQ: (frozenset({"qweight", "qzeros", "scales"}), frozenset()),
    GPTQ: (frozenset({"qweight", "qzeros", "scales"}), frozenset({"g_idx"})),
    PACKED: (
        frozenset({"weight_packed", "weight_scale", "weight_shape"}),
        frozenset({"weight_zero_point", "weight_g_idx"}),
    ),
    SCALED: (frozenset({"weight"}), frozenset({"weight_scale", "weight_scale_inv", "input_scale"})),
}
"""Of a layer by the way it is packed: the tensors that it has, and those that it may have."""
READ: Final = "AWQ (gemm), GPTQ, compressed-tensors (pack-, float-, int-quantized), FP8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How the layers of one folder are packed. `group`: inputs of one scale, 0 for a whole row.

    zero_offset: what GPTQ's first format stores its zero points less by. block: rows and columns of a scale.
    """

    method: str
    packing: str
    bits: int = 8
    group: int = 0
    symmetric: bool = False
    reorders: bool = False
    zero_offset: int = 0
    block: tuple[int, int] | None = None

    def is_for_kernels(self, group: int) -> bool:
        """Whether kernels of 4 bits with a scale for each `group` inputs and no zero point can have it."""
        in_order = self.packing != SCALED and not self.reorders and self.group % group == 0
        return self.bits == 4 and self.symmetric and in_order


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """`shapes`: of every weight by name, also of the quantized `layers`; `places`: the file of a tensor."""

    folder: Path
    scheme: Scheme
    layers: frozenset[str]
    shapes: Mapping[str, Shape]
    places: Mapping[str, Path]

    def part(self, layer: str, name: str) -> str | None:
        """The tensor of that layer, or None where it has none."""
        full = f"{layer}.{name}"
        return full if full in self.places else None


def read_scheme(folder: Path, stated: Mapping[str, Any]) -> Scheme | None:
    """Of `quantization_config`; None for a method of which transformers' own reader is used."""
    method = str(stated.get("quant_method", "unknown"))
    if method == "awq":
        return _awq(folder, stated)
    if method == "gptq":
        return _gptq(folder, stated)
    if method == "compressed-tensors":
        return _compressed(folder, stated)
    if method == "fp8":
        if str(stated.get("fmt", "e4m3")) != "e4m3":
            raise _unread(folder, method, f"format {stated['fmt']!r}")
        return Scheme(method=method, packing=SCALED, block=_block(stated.get("weight_block_size")))
    return None


def _awq(folder: Path, stated: Mapping[str, Any]) -> Scheme:
    version = str(stated.get("version", "gemm")).lower()
    bits = stated.get("bits", stated.get("w_bit", 4))
    if version != "gemm" or bits != 4:
        raise _unread(folder, "awq", f"version {version!r} of {bits} bits")
    group = int(stated.get("group_size", stated.get("q_group_size", 128)))
    has_zeros = bool(stated.get("zero_point", True))
    return Scheme(method="awq", packing=AWQ, bits=4, group=max(group, 0), symmetric=not has_zeros)


def _gptq(folder: Path, stated: Mapping[str, Any]) -> Scheme:
    layout = str(stated.get("checkpoint_format", "gptq"))
    bits = stated.get("bits", 4)
    if layout not in ("gptq", "gptq_v2") or bits not in (4, 8):
        raise _unread(folder, "gptq", f"checkpoint_format {layout!r} of {bits} bits")
    return Scheme(
        method="gptq",
        packing=GPTQ,
        bits=int(bits),
        group=max(int(stated.get("group_size", 128)), 0),
        symmetric=bool(stated.get("sym", True)),
        reorders=bool(stated.get("desc_act", False)),
        zero_offset=int(layout == "gptq"),
    )


def _compressed(folder: Path, stated: Mapping[str, Any]) -> Scheme:
    name = str(stated.get("format"))
    if name not in FORMATS or (
        stated.get("sparsity_config") and stated["sparsity_config"].get("format") != "dense"
    ):
        raise _unread(folder, "compressed-tensors", f"format {name!r}")
    groups = list((stated.get("config_groups") or {}).values())
    weights = [group["weights"] for group in groups if isinstance(group, dict) and group.get("weights")]
    if FORMATS[name] == SCALED:
        blocks = {block for one in weights if (block := _block(one.get("block_structure")))}
        if len(blocks) > 1:
            raise _unread(folder, "compressed-tensors", f"{len(blocks)} kinds of layers")
        return Scheme(method="compressed-tensors", packing=SCALED, block=min(blocks, default=None))
    kinds = {
        (
            one.get("num_bits"),
            one.get("type"),
            one.get("strategy"),
            one.get("group_size"),
            one.get("symmetric"),
        )
        for one in weights
    }
    if len(kinds) != 1:
        raise _unread(folder, "compressed-tensors", f"{len(kinds)} kinds of layers")
    ((bits, kind, strategy, group, symmetric),) = kinds
    if bits not in (4, 8) or kind != "int" or strategy not in ("group", "channel"):
        raise _unread(folder, "compressed-tensors", f"{kind} of {bits} bits, scales by {strategy}")
    return Scheme(
        method="compressed-tensors",
        packing=PACKED,
        bits=int(bits),
        group=int(group or 0) if strategy == "group" else 0,
        symmetric=symmetric is not False,
        reorders=any(one.get("actorder") in ("group", True) for one in weights),
    )


def _block(stated: Any) -> tuple[int, int] | None:
    return (int(stated[0]), int(stated[1])) if isinstance(stated, list) and len(stated) == 2 else None


def _unread(folder: Path, method: str, what: str) -> ModelError:
    return ModelError(
        f"{folder} is quantized by {method}, {what}, which is not read",
        fix=f"take the model in one of: {READ}; or unquantized, with --quantization nf4",
    )


def read_layers(folder: Path, scheme: Scheme) -> Layers:
    """By the headers of all files. ModelError where a layer lacks a tensor, or one is of another shape."""
    stored: dict[str, Stored] = {}
    places: dict[str, Path] = {}
    for path in library_files(folder):
        tensors = read_header(path).tensors
        stored |= tensors
        places |= dict.fromkeys(tensors, path)
    needed, possible = PARTS[scheme.packing]
    mark = "weight" if scheme.packing == SCALED else min(needed & {"qweight", "weight_packed"})
    layers = {
        name.rpartition(".")[0]
        for name, one in stored.items()
        if name.endswith(f".{mark}") and (mark != "weight" or one.type in EIGHT_BIT | {"I8"})
    }
    if not layers:
        raise ModelError(
            f"config.json of {folder} says that it is quantized ({scheme.method}), but no layer is",
            fix="take weights and config.json from the same model",
        )
    belonging = {f"{layer}.{part}" for layer in layers for part in (*needed, *possible)}
    shapes = {name: one.shape for name, one in stored.items() if name not in belonging}
    for layer in sorted(layers):
        lacking = sorted(part for part in needed if f"{layer}.{part}" not in stored)
        if lacking:
            raise _odd(folder, layer, f"lacks {', '.join(lacking)}")
        shapes[f"{layer}.weight"] = _shape(folder, layer, scheme, stored)
    return Layers(folder=folder, scheme=scheme, layers=frozenset(layers), shapes=shapes, places=places)


def _shape(folder: Path, layer: str, scheme: Scheme, stored: Mapping[str, Stored]) -> Shape:
    """[N, K] of a layer. ModelError where its tensors do not fit together."""

    def shape(part: str) -> Shape | None:
        one = stored.get(f"{layer}.{part}")
        return None if one is None else one.shape

    per_word = _WORD // scheme.bits
    if scheme.packing == SCALED:
        n, k = _sides(folder, layer, shape("weight"))
        found = [scale for part in ("weight_scale", "weight_scale_inv") if (scale := shape(part)) is not None]
        if len(found) != 1:
            raise _odd(folder, layer, f"has {counted(len(found), 'scale')}")
        (scale,) = found
        rows, columns = scheme.block or (1, k)
        fits = scale in ((), (1,), (1, 1), (-(-n // rows), -(-k // columns)))
        if not fits:
            raise _odd(folder, layer, f"has scales {list(scale)} for a weight {[n, k]}")
        return n, k
    if scheme.packing == PACKED:
        n, words = _sides(folder, layer, shape("weight_packed"))
        k = words * per_word
        groups = (n, _num_groups(k, scheme.group))
        wanted = {
            "weight_scale": groups,
            "weight_zero_point": (-(-n // per_word), groups[1]),
            "weight_g_idx": (k,),
        }
    else:
        rows, columns = _sides(folder, layer, shape("qweight"))
        k, n = (rows, columns * per_word) if scheme.packing == AWQ else (rows * per_word, columns)
        groups = (_num_groups(k, scheme.group), n)
        wanted = {"scales": groups, "qzeros": (groups[0], n // per_word), "g_idx": (k,)}
    for part, need in wanted.items():
        if (found_shape := shape(part)) not in (None, need):
            raise _odd(folder, layer, f"has {part} {list(found_shape or ())}, and not {list(need)}")
    return n, k


def _num_groups(inputs: int, group: int) -> int:
    return 1 if not group else -(-inputs // group)


def _sides(folder: Path, layer: str, shape: Shape | None) -> tuple[int, int]:
    if shape is None or len(shape) != 2:
        raise _odd(folder, layer, f"is packed as {list(shape or ())}")
    return shape[0], shape[1]


def _odd(folder: Path, layer: str, what: str) -> ModelError:
    return ModelError(
        f"{folder}: the quantized layer {layer} {what}",
        fix="take weights and config.json from the same model, whole",
    )


def unused(layers: Layers) -> str:
    """What is stored and not used, in words; empty where there is nothing: activations stay as they are."""
    names = [layer for layer in sorted(layers.layers) if layers.part(layer, "input_scale")]
    return (
        f"scales of inputs of {counted(len(names), 'layer')} are not used ({listed(names, 1)})"
        if names
        else ""
    )
