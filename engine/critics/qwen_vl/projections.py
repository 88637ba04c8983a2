"""Linear layers of a language model for a step of few rows: those that read the same input are one GEMM.

Knows no layer of a model. Invariant: weights are stored once, and a row of a result does not depend on the
other rows. R rows . K, N features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.quant.four_bit import together
from kernels.linear import four_bit

Projection = Callable[[Tensor, Tensor | None], Tensor]
"""x [R, K], residual [R, N] or None -> [R, N]."""

ROWS = 16
"""A library's GEMM is chosen by the number of rows: with always as many, a row does not feel the others."""


def projection(*layers: Any) -> Projection:
    """The layers as one GEMM where their kind allows it, else one after the other."""
    packed = together(layers)
    if packed is not None:
        biases = [layer.bias for layer in layers]
        bias = None if biases[0] is None else torch.cat(biases)
        return lambda x, residual: four_bit.run(x, packed, bias=bias, residual=residual)
    if all(type(layer) is nn.Linear for layer in layers):
        weight, bias = _merged(layers)
        return lambda x, residual: _added(_few_rows(lambda rows: F.linear(rows, weight, bias), x), residual)

    def each(x: Tensor, residual: Tensor | None) -> Tensor:
        return _added(_few_rows(lambda rows: torch.cat([layer(rows) for layer in layers], -1), x), residual)

    return each


@torch.no_grad()
def _merged(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of all; the layers' own become parts of them, so that nothing is stored twice."""
    if len(layers) == 1:
        return layers[0].weight, layers[0].bias
    weight = torch.cat([layer.weight for layer in layers])
    for layer, part in zip(layers, weight.split([layer.out_features for layer in layers]), strict=True):
        layer.weight.data = part
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    return weight, torch.cat(biases) if biases else None


def _few_rows(multiply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """On a GPU always a multiple of ROWS rows; see there."""
    missing = -x.shape[0] % ROWS
    if not x.is_cuda or missing == 0:
        return multiply(x)
    return multiply(F.pad(x, (0, 0, 0, missing)))[: x.shape[0]]


def _added(out: Tensor, residual: Tensor | None) -> Tensor:
    return out if residual is None else out + residual
