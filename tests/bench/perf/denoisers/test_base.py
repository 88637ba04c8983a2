"""The library's attention backends by name: of the module that is asked, and of no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn

from bench.perf.denoisers.base import Subject, attention_operators, module_tree, use_library_backend
from bench.perf.denoisers.by_name import SUBJECTS

DEVICE = torch.device("cpu")
TINY = pytest.mark.parametrize("name", ["tiny", "tiny-cosmos3"])


def chosen(module: nn.Module) -> set[Any]:
    processors = (getattr(part, "processor", None) for part in module.modules())
    return {part._attention_backend for part in processors if part is not None}


@TINY
def test_the_module_has_it_and_no_other_one(name: str) -> None:
    transformer = SUBJECTS[name].build(DEVICE)
    module = module_tree(transformer)
    use_library_backend(module, "_native_cudnn")
    assert chosen(module) == {"_native_cudnn"} and chosen(transformer) == {None}
    x = torch.randn(1, 5, 2, 16)
    assert dispatch_attention_fn(x, x, x).shape == x.shape  # cuDNN's would fail without a GPU


@TINY
def test_a_stock_forward_uses_it(name: str) -> None:
    subject: Subject = SUBJECTS[name]
    transformer = subject.build(DEVICE)
    torch.testing.assert_close(
        subject.stock(transformer, "native", False)(), subject.stock(transformer, "", False)()
    )
    with pytest.raises(RuntimeError):
        subject.stock(transformer, "_native_cudnn", False)()


@TINY
def test_what_ran_is_told_by_operator(name: str) -> None:
    subject: Subject = SUBJECTS[name]
    forward = subject.stock(subject.build(DEVICE), "native", False)
    assert attention_operators(forward) == {"aten::_scaled_dot_product_flash_attention_for_cpu": 8}
    assert attention_operators(lambda: torch.ones(1)) == {}
