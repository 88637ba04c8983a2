"""A critic from a folder that is quantized already: AWQ, GPTQ, compressed-tensors or FP8, read by us.

Layers of the language model whose layout our 4-bit kernels have are multiplied in it, on a GPU; every other
one is dequantized once, when it is loaded, and takes the memory of an unquantized one. No package is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from engine.critics.qwen_vl.text_step import groups
from engine.errors import ModelError
from engine.quant.four_bit import BYTES_PER_WEIGHT, install
from engine.weights import packed_ints
from engine.weights.fill import Shapes, fill, left_out, naming_of, parameter_shapes, require_match, tie
from engine.weights.packed_ints import Codes
from engine.weights.prequantized import AWQ, GPTQ, PACKED, SCALED, Layers, unused
from kernels.linear import four_bit

LEVELS = tuple(range(-8, 8))
"""Of four bits with their middle at zero."""


def load_prequantized(layers: Layers, config: Any, dtype: torch.dtype, device: str) -> Any:
    """The model with its weights on the device, those that the kernels can have in 4 bits."""
    from accelerate import init_empty_weights
    from transformers import GenerationConfig

    with init_empty_weights():  # parameters alone: buffers have values
        model = _by_config(config, dtype)
    if (layers.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(  # nosec B615 # a local folder
            layers.folder, local_files_only=True
        )
    names = _names_in(model, layers)
    with _Files(layers, torch.device(device)) as files:
        for group in _packed_groups(model, layers, names, device, dtype):
            _install(group, files, layers)
        fill(model, lambda name, given: files.weight(names[name], given))
    return model


def outline_prequantized(layers: Layers, config: Any, dtype: torch.dtype, device: str) -> Any:
    """The same with shapes and without values; a weight of 4 bits stands as so many bytes."""
    with torch.device("meta"):
        model = _by_config(config, dtype)
    names = _names_in(model, layers)
    for group in _packed_groups(model, layers, names, device, dtype):
        for _, owner, attribute in group:
            layer = getattr(owner, attribute)
            size = round(layer.weight.numel() * BYTES_PER_WEIGHT)
            stand_in = torch.empty(size, dtype=torch.uint8, device="meta")
            layer.weight = nn.Parameter(stand_in, requires_grad=False)
    return model


def described(layers: Layers, device: str, dtype: torch.dtype) -> str:
    """How the weights are used, for the manifest."""
    kernels = _uses_kernels(layers, device, dtype)
    used = "multiplied in 4 bits where a layer's size allows" if kernels else "dequantized when loaded"
    return "; ".join(part for part in (f"{layers.scheme.method}: {used}", unused(layers)) if part)


def _by_config(config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")


def _names_in(model: Any, layers: Layers) -> dict[str, str]:
    what = f"{type(model).__name__}, quantized by {layers.scheme.method}"
    return names_in(model, layers.folder, layers.shapes, what)


def names_in(model: Any, folder: Path, found: Shapes, what: str) -> dict[str, str]:
    """Name of each parameter -> that in the folder: that of the library, or of before it had parts.

    ModelError where the folder, which holds what is `found`, lacks tensors of the model or has others.
    """

    def older(name: str) -> str:
        return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")

    tie(model)
    shapes = parameter_shapes(model)
    namings: dict[str, Callable[[str], str]] = {"library": str, "older": older}
    naming = namings[naming_of(shapes, found, namings)]
    require_match(
        folder,
        {naming(name): shape for name, shape in shapes.items()},
        found,
        what=what,
        allowed=[
            *(naming(name) for name in model.state_dict() if name not in shapes),
            *left_out(model, found),
        ],
    )
    return {name: naming(name) for name in shapes}


_Group = list[tuple[str, nn.Module, str]]
"""(name in the folder, owner, attribute) of layers that read the same input."""


def _packed_groups(
    model: Any, layers: Layers, names: dict[str, str], device: str, dtype: torch.dtype
) -> list[_Group]:
    """Those of the language model that the kernels can have."""
    if not _uses_kernels(layers, device, dtype):
        return []
    own = {id(module): name for name, module in model.named_modules()}
    found = []
    for group in groups(model):
        named = [
            (names[f"{own[id(owner)]}.{attribute}.weight"].removesuffix(".weight"), owner, attribute)
            for owner, attribute in group
        ]
        modules = [getattr(owner, attribute) for _, owner, attribute in named]
        fits = all(four_bit.packs(one.in_features, one.out_features) is None for one in modules)
        if fits and all(name in layers.layers for name, _, _ in named):
            found.append(named)
    return found


def _uses_kernels(layers: Layers, device: str, dtype: torch.dtype) -> bool:
    on_gpu = torch.device(device).type == "cuda"
    return on_gpu and dtype == torch.bfloat16 and layers.scheme.is_for_kernels(four_bit.GROUP)


def _install(group: _Group, files: _Files, layers: Layers) -> None:
    parts = []
    for name, _, _ in group:
        found = files.codes(name).in_groups_of(four_bit.GROUP)
        if found is None:
            raise ModelError(
                f"{layers.folder}: {name} has zero points or an order of inputs that its config.json denies",
                fix="take weights and config.json from the same model",
            )
        parts.append(found)
    biases = [
        files.weight(f"{name}.bias", torch.bfloat16) if f"{name}.bias" in layers.shapes else None
        for name, _, _ in group
    ]
    install([(owner, attribute) for _, owner, attribute in group], parts, LEVELS, biases)


class _Files:
    """The tensors of a folder, on a device; a context, in which each file is opened once."""

    def __init__(self, layers: Layers, device: torch.device) -> None:
        self._layers, self._device = layers, device
        self._stack, self._open = ExitStack(), dict[Path, Any]()

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def weight(self, name: str, dtype: torch.dtype) -> Tensor:
        layer = name.removesuffix(".weight")
        if layer == name or layer not in self._layers.layers:
            value = self._tensor(name)
        elif self._layers.scheme.packing == SCALED:
            scale = self._maybe(layer, "weight_scale", "weight_scale_inv")
            assert scale is not None, f"{layer} without scale passed the check of the headers"
            value = packed_ints.scaled(self._tensor(name), scale, self._layers.scheme.block)
        else:
            value = self.codes(layer).dequantize()
        given = value.to(dtype).contiguous()
        if not torch.isfinite(given).all():
            raise ModelError(
                f"{self._layers.folder}: {name} has values that are no numbers in {dtype}",
                fix="use dtype bf16 or fp32",
            )
        return given

    def codes(self, layer: str) -> Codes:
        """ModelError for scales that are no numbers, and inputs of groups that are not there: kernels check
        neither."""
        found = self._codes(layer)
        low, high = (int(end) for end in found.groups.aminmax())
        problem = None
        if low < 0 or high >= found.scales.shape[1]:
            problem = f"inputs of the groups {low} to {high}, of {found.scales.shape[1]}"
        elif not torch.isfinite(found.scales).all():
            problem = "scales that are no numbers"
        if problem is not None:
            raise ModelError(
                f"{self._layers.folder}: {layer} has {problem}", fix="copy or download the folder again"
            )
        return found

    def _codes(self, layer: str) -> Codes:
        scheme, read = self._layers.scheme, self._tensor
        if scheme.packing == PACKED:
            return packed_ints.compressed(
                read(f"{layer}.weight_packed"),
                read(f"{layer}.weight_scale"),
                self._maybe(layer, "weight_zero_point"),
                self._maybe(layer, "weight_g_idx"),
                bits=scheme.bits,
            )
        qweight, qzeros, scales = (read(f"{layer}.{part}") for part in ("qweight", "qzeros", "scales"))
        if scheme.packing == AWQ:
            return packed_ints.awq(qweight, qzeros, scales, bits=scheme.bits)
        assert scheme.packing == GPTQ
        g_idx, offset = self._maybe(layer, "g_idx"), scheme.zero_offset
        return packed_ints.gptq(qweight, qzeros, scales, g_idx, bits=scheme.bits, zero_offset=offset)

    def _maybe(self, layer: str, *parts: str) -> Tensor | None:
        names = [name for part in parts if (name := self._layers.part(layer, part)) is not None]
        return self._tensor(names[0]) if names else None

    def _tensor(self, name: str) -> Tensor:
        path = self._layers.places[name]
        if path not in self._open:
            self._open[path] = self._stack.enter_context(safe_open(path, framework="pt"))
        found: Tensor = self._open[path].get_tensor(name)
        return found.to(self._device)
