"""What the tensors of a file are to each other: weights, the scales that belong to them, marks of a format.

Knows ComfyUI's layouts of FP8 (`scaled_fp8` with `scale_weight`, and its successor `comfy_quant` with
`weight_scale`) and GGUF; no model. Imports no torch. Invariant: every tensor of the file is a weight, belongs
to one, or is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from engine.errors import ModelError
from engine.weights import ggml_types
from engine.weights.header import GGUF, Header, Stored
from engine.words import counted
from kernels.files import parse_json

PREFIXES: Final = ("model.diffusion_model.", "diffusion_model.")
"""What ComfyUI and trainers put before the names of a diffusion transformer."""
PLAIN: Final = frozenset({"F32", "F16", "BF16", "F64"})
EIGHT_BIT: Final = frozenset({"F8_E4M3", "F8_E5M2"})
SCALES: Final = (".scale_weight", ".weight_scale")
INPUT_SCALES: Final = (".scale_input", ".input_scale")
MARK: Final = "scaled_fp8"
LAYER_MARK: Final = ".comfy_quant"
LAYER_FORMATS: Final = ("float8_e4m3fn", "float8_e5m2")
WORDS: Final = "spiece_model"
"""A tokenizer within the file, as ComfyUI stores it beside umt5."""
_OTHER_SCALES = (".weight_scale_2", ".pre_quant_scale", ".weight_scale_inv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """`weights` by name without the prefix; `scales`: name of a weight -> that of its factor in the file."""

    header: Header
    prefix: str
    weights: Mapping[str, Stored]
    scales: Mapping[str, str]
    num_input_scales: int
    """Of layers whose input the writer would round to 8 bits. None is used: what is read here are the
    weights, and how a layer multiplies is the run's setting."""
    has_words: bool

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: stored.shape for name, stored in self.weights.items()}

    @property
    def quantization(self) -> str:
        """ "none", or the formats of what is quantized: "fp8_scaled", "fp8", "Q4_K, Q6_K"."""
        found = {stored.type for stored in self.weights.values()} - PLAIN
        if self.header.format == GGUF:
            return ", ".join(sorted(found)) or "none"
        return ("fp8_scaled" if self.scales else "fp8") if found else "none"


def contents(header: Header) -> Contents:
    """ModelError for what is no weight of one model in a format that is read here."""
    prefix = _prefix(header)
    rest = {name.removeprefix(prefix): stored for name, stored in header.tensors.items()}
    marks = [name for name in rest if name == MARK or name.endswith(LAYER_MARK)]
    _check_formats(header, prefix, marks)
    has_words = rest.pop(WORDS, None) is not None
    input_scales = [name for name in rest if name.endswith(INPUT_SCALES)]
    scales = {
        f"{layer}.weight": name
        for name in rest
        if name.endswith(SCALES) and (layer := name.rpartition(".")[0]) and f"{layer}.weight" in rest
    }
    weights = {
        name: stored for name, stored in rest.items() if name not in {*marks, *input_scales, *scales.values()}
    }
    _check_types(header, weights)
    _check_scales(header, rest, weights, scales, marked=bool(marks))
    return Contents(
        header=header,
        prefix=prefix,
        weights=weights,
        scales={name: prefix + scale for name, scale in scales.items()},
        num_input_scales=len(input_scales),
        has_words=has_words,
    )


def _prefix(header: Header) -> str:
    for prefix in PREFIXES:
        inside = [name for name in header.tensors if name.startswith(prefix)]
        if inside and len(inside) == len(header.tensors):
            return prefix
        if inside and prefix == PREFIXES[0]:
            others = sorted({name.partition(".")[0] for name in header.tensors if name not in set(inside)})
            raise ModelError(
                f"{header.path} holds other parts beside the diffusion model: {listed(others)}",
                fix="give the diffusion model, the autoencoder and the text encoder as files of their own",
            )
    return ""


def _check_formats(header: Header, prefix: str, marks: Sequence[str]) -> None:
    """Of every layer that says which one it has, in a tensor of its own or in the metadata."""
    stated: dict[str, str] = {}
    with header.path.open("rb") as file:
        for name in marks:
            if name.endswith(LAYER_MARK):
                stored = header.tensors[prefix + name]
                file.seek(stored.start)
                stated[name.removesuffix(LAYER_MARK)] = _format(header, file.read(stored.num_bytes))
    if (text := header.metadata.get("_quantization_metadata")) is not None:
        try:
            layers = parse_json(text)["layers"]
            stated |= {name: str(layer["format"]) for name, layer in layers.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(header, f"its metadata on quantization cannot be read: {error}") from error
    if other := sorted({f"{fmt} ({name})" for name, fmt in stated.items() if fmt not in LAYER_FORMATS}):
        raise ModelError(
            f"{header.path} has layers in formats that are not read: {listed(other)}",
            fix=f"take the model in bf16, fp16, {' or '.join(LAYER_FORMATS)}, or as GGUF",
        )


def _format(header: Header, text: bytes) -> str:
    try:
        return str(parse_json(text)["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(header, f"a mark of its quantization cannot be read: {error}") from error


def _check_types(header: Header, weights: Mapping[str, Stored]) -> None:
    known = PLAIN | (ggml_types.READ if header.format == GGUF else EIGHT_BIT)
    found = sorted({stored.type for stored in weights.values()} - known)
    if found:
        names = [name for name, stored in weights.items() if stored.type in found]
        raise ModelError(
            f"{header.path} has {counted(len(names), 'tensor')} of types that are not read "
            f"({listed(found)}), the first {names[0]}",
            fix=f"take the model in one of: {', '.join(sorted(known))}",
        )


def _check_scales(
    header: Header,
    rest: Mapping[str, Stored],
    weights: Mapping[str, Stored],
    scales: Mapping[str, str],
    *,
    marked: bool,
) -> None:
    """Each of one number, or of one for each row of its weight; where any, every 8-bit weight has one."""
    inputs = [name for name in rest if name.endswith(INPUT_SCALES)]
    of_none = [name for name in inputs if f"{name.rpartition('.')[0]}.weight" not in weights]
    others = [name for name in weights if name.endswith((*SCALES, *_OTHER_SCALES))]
    if other := sorted([*of_none, *others]):
        raise ModelError(
            f"{header.path} has scales of no weight, or of another format: {listed(other)}",
            fix="take the model in bf16, fp16, or ComfyUI's fp8_scaled",
        )
    for name, scale in scales.items():
        allowed = {(), (1,), (1, 1), weights[name].shape[:1], (*weights[name].shape[:1], 1)}
        if rest[scale].shape not in allowed or rest[scale].type not in PLAIN:
            raise ModelError(
                f"{header.path}: {scale} is {rest[scale].type} {list(rest[scale].shape)} for a weight "
                f"{list(weights[name].shape)}",
                fix="take a file with one scale a weight, or one for each of its rows",
            )
    bare = [name for name, stored in weights.items() if stored.type in EIGHT_BIT and name not in scales]
    if bare and (scales or inputs or marked):
        raise ModelError(
            f"{header.path} lacks the scales of {len(bare)} of its 8-bit weights: {listed(bare)}",
            fix="copy or download the file again",
        )


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _damaged(header: Header, problem: str) -> ModelError:
    return ModelError(f"{header.path}: {problem}", fix="copy or download the file again")
