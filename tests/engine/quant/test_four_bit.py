"""Layers of bitsandbytes in the layout of our kernel: the same levels and scales, groups as one weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from engine.quant.four_bit import FourBitLinear, pack_linears, together
from kernels.linear import four_bit

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


def layer(n: int, k: int, *, bias: bool = False, kind: str = "nf4", double: bool = True, **more: Any) -> Any:
    torch.manual_seed(n + k)
    dtype = more.pop("compute_dtype", torch.bfloat16)
    made = bitsandbytes.nn.Linear4bit(
        k, n, bias=bias, compute_dtype=dtype, quant_type=kind, compress_statistics=double, **more
    )
    weight = bitsandbytes.nn.Params4bit(
        torch.randn(n, k) * 0.05, requires_grad=False, quant_type=kind, compress_statistics=double
    )
    made.weight = weight.to("cpu")
    return made


class Owner(nn.Module):
    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, module in layers.items():
            setattr(self, name, module)


def library(made: Any) -> torch.Tensor:
    return bitsandbytes.functional.dequantize_4bit(made.weight.data, made.weight.quant_state).float()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
def test_levels_and_scales_are_those_of_bitsandbytes(kind: str, double: bool) -> None:
    made = layer(48, 128, kind=kind, double=double)
    expected = library(made)
    owner = Owner(q=made)
    assert pack_linears([[(owner, "q")]]) == 1
    assert isinstance(owner.q, FourBitLinear)
    actual = four_bit.dequantize(owner.q.packed).float()
    assert torch.all(
        (actual - expected).abs() <= (2**-7 + 2**-11) * expected.abs()
    )  # two roundings to bf16, one to fp16


def test_layers_of_a_group_are_parts_of_one_weight() -> None:
    owner = Owner(q=layer(32, 64, bias=True), k=layer(16, 64, bias=True))
    expected = [library(owner.q), library(owner.k)]
    group = [(owner, "q"), (owner, "k")]
    assert pack_linears([group]) == 2
    whole = together([owner.q, owner.k])
    assert whole is not None and whole.out_features == 48
    torch.testing.assert_close(four_bit.dequantize(whole).float(), torch.cat(expected), rtol=2**-7, atol=0)
    assert together([owner.k, owner.q]) is None and together([owner.q]) is None
    for name, weight in zip(("q", "k"), expected, strict=True):
        module = getattr(owner, name)
        for rows in (1, 16, 17):
            x = torch.randn(2, rows, 64)[:1]
            torch.testing.assert_close(
                module(x.bfloat16()).float(), x @ weight.t() + module.bias.float(), rtol=0.05, atol=0.05
            )


def test_what_does_not_fit_stays() -> None:
    owner = Owner(
        plain=nn.Linear(64, 32),
        wide=layer(32, 64, compute_dtype=torch.float32),
        odd=layer(24, 64),
        q=layer(32, 64),
    )
    groups = [[(owner, "plain")], [(owner, "wide")], [(owner, "odd"), (owner, "q")]]
    assert pack_linears(groups) == 0
    assert not any(isinstance(module, FourBitLinear) for module in owner.modules())
