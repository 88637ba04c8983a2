"""The tiny Qwen3-VL as quantizers publish models: AWQ, GPTQ, compressed-tensors, FP8, by their real names.

Packing is done the plain way, number by number, to know nothing of the reader.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
"""AutoAWQ, GEMM: the feature of eight that the n-th nibble of a word holds."""


def words(codes: Tensor, bits: int = 4) -> Tensor:
    """[R, C] -> int32 [R, C bits / 32], the first lowest."""
    rows, columns = codes.shape
    per_word = 32 // bits
    found = torch.zeros(rows, columns // per_word, dtype=torch.int64)
    for place in range(per_word):
        found |= codes[:, place::per_word].long() << (bits * place)
    return torch.where(found >= 2**31, found - 2**32, found).to(torch.int32)


def rounded(weight: Tensor, group: int, *, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """codes [N, K], scales fp16 [N, G], zeros [N, G] of four bits."""
    parts = weight.float().view(weight.shape[0], -1, group)
    if symmetric:
        scales = (parts.abs().amax(dim=2) / 7).half()
        zeros = torch.full(scales.shape, 8)
    else:
        scales = ((parts.amax(dim=2) - parts.amin(dim=2)) / 15).half()
        zeros = (-parts.amin(dim=2) / scales.float()).round().clamp(0, 15).long()
    codes = (parts / scales.float()[..., None]).round() + zeros[..., None]
    return codes.clamp(0, 15).long().view(weight.shape), scales, zeros


def awq(weight: Tensor, group: int, *, symmetric: bool) -> dict[str, Tensor]:
    codes, scales, zeros = rounded(weight, group, symmetric=symmetric)

    def packed(values: Tensor) -> Tensor:
        columns = values.t().reshape(values.shape[1], -1, 8)
        return words(columns[..., AWQ_COLUMNS].reshape(values.shape[1], -1))

    return {"qweight": packed(codes), "qzeros": packed(zeros), "scales": scales.t().contiguous()}


def gptq(weight: Tensor, group: int, *, symmetric: bool, order: Tensor | None = None) -> dict[str, Tensor]:
    """`order`: the inputs as desc_act sorts them; groups are of neighbours in that order."""
    order = torch.arange(weight.shape[1]) if order is None else order
    codes, scales, zeros = rounded(weight[:, order], group, symmetric=symmetric)
    g_idx = torch.empty(weight.shape[1], dtype=torch.int32)
    g_idx[order] = (torch.arange(weight.shape[1]) // group).to(torch.int32)
    own_order = torch.empty_like(codes)
    own_order[:, order] = codes
    return {
        "qweight": words(own_order).t().contiguous(),
        "qzeros": words(zeros.t() - 1),
        "scales": scales.t().contiguous(),
        "g_idx": g_idx,
    }


def compressed(weight: Tensor, group: int, *, symmetric: bool) -> dict[str, Tensor]:
    codes, scales, zeros = rounded(weight, group, symmetric=symmetric)
    found = {
        "weight_packed": words(codes),
        "weight_scale": scales.bfloat16(),
        "weight_shape": torch.tensor(weight.shape),
    }
    if not symmetric:
        found["weight_zero_point"] = words(zeros.t().contiguous()).t().contiguous()
    return found


def fp8_blocks(weight: Tensor, block: int) -> dict[str, Tensor]:
    """`weight_scale_inv` for each block, as Qwen publishes FP8."""
    n, k = weight.shape
    rows, columns = -(-n // block), -(-k // block)
    scales = torch.empty(rows, columns)
    found = torch.empty_like(weight)
    for row in range(rows):
        for column in range(columns):
            place = slice(row * block, (row + 1) * block), slice(column * block, (column + 1) * block)
            scales[row, column] = weight[place].abs().max() / 448
            found[place] = weight[place] / scales[row, column]
    return {"weight": found.to(torch.float8_e4m3fn), "weight_scale_inv": scales}


def fp8_rows(weight: Tensor) -> dict[str, Tensor]:
    """A scale for each row, as compressed-tensors' FP8_DYNAMIC."""
    scale = (weight.abs().amax(dim=1, keepdim=True) / 448).float()
    return {"weight": (weight / scale).to(torch.float8_e4m3fn), "weight_scale": scale}


def is_quantized(name: str) -> bool:
    """All but what decides how long a state lasts (`in_proj_a`, `in_proj_b`), as Qwen3.5 is published."""
    return ".language_model." in name and name.endswith(("_proj.weight", "_qkv.weight", "_z.weight"))


def quantize_folder(
    folder: Path,
    target: Path,
    layer: Callable[[Tensor], dict[str, Tensor]],
    stated: dict[str, Any],
    *,
    older_names: bool = False,
) -> Path:
    """`folder` with the linear layers of its language model as `layer` makes them."""
    target.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if is_quantized(name):
            stem = name.removesuffix("weight")
            tensors |= {f"{stem}{part}": value.contiguous() for part, value in layer(tensor).items()}
        else:
            tensors[name] = tensor
    if older_names:  # as Qwen2.5-VL was published, before transformers gave it parts
        tensors = {
            name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor
            for name, tensor in tensors.items()
        }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "quantization_config": stated}))
    return target
