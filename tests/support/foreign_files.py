"""Weight files as other tools write them, of tiny models: ComfyUI's safetensors, plain and FP8, and GGUF.

The names are those of the published files. GGUF is written by hand, to know nothing of our reader.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

Tensors = Mapping[str, Tensor]
GGUF_TYPES = {"F32": 0, "F16": 1, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "BF16": 30}
_STRING, _UINT32, _INT32, _LIST = 8, 4, 5, 9


def scaled_fp8(tensors: Tensors, layers: Callable[[str], bool], *, new: bool = False) -> dict[str, Tensor]:
    """Weights of which `layers` holds in E4M3 with a scale: `scaled_fp8` of ComfyUI, or its successor."""
    scale_name, input_name = ("weight_scale", "input_scale") if new else ("scale_weight", "scale_input")
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not layers(name):
            found[name] = tensor
            continue
        layer = name.removesuffix(".weight")
        scale = tensor.abs().max().float() / 448
        found[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
        found[f"{layer}.{scale_name}"] = scale
        found[f"{layer}.{input_name}"] = torch.tensor(1.0)
        if new:
            text = json.dumps({"format": "float8_e4m3fn"}).encode()
            found[f"{layer}.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    if not new:
        found["scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn)
    return found


def save(path: Path, tensors: Tensors, *, prefix: str = "") -> Path:
    save_file({prefix + name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def q8_0(values: np.ndarray) -> bytes:
    """As ggml's quantize_row_q8_0_ref: 32 weights a block, their largest becomes 127."""
    blocks = values.astype(np.float32).reshape(-1, 32)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / 127
    codes = np.round(blocks / np.where(scales == 0, 1, scales)).astype(np.int8)
    return np.concatenate((scales.astype("<f2").view(np.uint8), codes.view(np.uint8)), axis=1).tobytes()


def k_blocks(values: np.ndarray, *, fifth: bool) -> bytes:
    """Q4_K or Q5_K with one scale for each 32 weights, not the best one: 256 weights a block."""
    largest = 31 if fifth else 15
    rows = values.astype(np.float32).reshape(-1, 8, 32)
    low = np.minimum(rows.min(axis=2), 0)
    step = (rows.max(axis=2) - low) / largest
    d, dmin = step.max(axis=1) / 63, -low.min(axis=1) / 63
    d16, dmin16 = (part.astype("<f2") for part in (d, dmin))
    scales, minima = (
        np.clip(np.round(part / np.maximum(unit.astype(np.float32)[:, None], 1e-8)), 0, 63).astype(np.uint8)
        for part, unit in ((step, d16), (-low, dmin16))
    )
    real_step = d16.astype(np.float32)[:, None] * scales
    real_low = dmin16.astype(np.float32)[:, None] * minima
    codes = (rows + real_low[..., None]) / np.where(real_step == 0, 1, real_step)[..., None]
    codes = np.clip(np.round(codes), 0, largest).astype(np.uint8)
    packed = (codes[:, 0::2] & 15) | ((codes[:, 1::2] & 15) << 4)
    first, last = slice(0, 4), slice(4, 8)
    head = np.concatenate(
        (
            np.stack((d16, dmin16), axis=1).view(np.uint8),
            scales[:, first] | ((scales[:, last] >> 4) << 6),
            minima[:, first] | ((minima[:, last] >> 4) << 6),
            (scales[:, last] & 15) | ((minima[:, last] & 15) << 4),
        ),
        axis=1,
    )
    bits = (((codes >> 4) << np.arange(8, dtype=np.uint8)[:, None]).sum(axis=1)).astype(np.uint8)
    middle = [bits] if fifth else []
    return np.concatenate((head, *middle, packed.reshape(len(rows), -1)), axis=1).tobytes()


ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "F32": lambda values: values.astype("<f4").tobytes(),
    "F16": lambda values: values.astype("<f2").tobytes(),
    "BF16": lambda values: torch.from_numpy(values).bfloat16().view(torch.int16).numpy().tobytes(),
    "Q8_0": q8_0,
    "Q4_K": functools.partial(k_blocks, fifth=False),
    "Q5_K": functools.partial(k_blocks, fifth=True),
}


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", _LIST, _STRING, len(value)) + b"".join(_text(one) for one in value)
    return struct.pack(f"<IIQ{len(value)}i", _LIST, _INT32, len(value), *value)


def write_gguf(
    path: Path,
    tensors: Tensors,
    kind: Callable[[str, Tensor], str],
    *,
    metadata: Mapping[str, Any] | None = None,
    alignment: int = 32,
) -> Path:
    """`kind`: the type of each tensor, of GGUF_TYPES. Sides in reverse, data aligned: ggml's docs/gguf.md."""
    pairs = {"general.architecture": "wan", "general.alignment": alignment, **(metadata or {})}
    head, body = bytearray(), bytearray()
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        head += _text(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += struct.pack("<IQ", GGUF_TYPES[kind(name, tensor)], len(body))
        body += ENCODERS[kind(name, tensor)](tensor.detach().float().numpy())
        body += bytes(-len(body) % alignment)
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    start += b"".join(_text(key) + _value(value) for key, value in pairs.items()) + bytes(head)
    path.write_bytes(start + bytes(-len(start) % alignment) + bytes(body))
    return path
