"""The replaced norms give the libraries' numbers in every mix of dtypes, and a wrong count is an error."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.normalization import RMSNorm
from torch import nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

from export.subjects._norms import replace_norms


@pytest.mark.parametrize("weight", [torch.float32, torch.float16])
@pytest.mark.parametrize("read", [torch.float32, torch.float16])
def test_equals_the_libraries(weight: torch.dtype, read: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = T5LayerNorm(16, eps=1e-6)
    norm.weight.data = torch.randn(16).to(weight)
    x = torch.randn(3, 16).to(read)
    wanted = norm(x)
    holder = nn.Sequential(norm)
    replace_norms(holder, (T5LayerNorm,), "variance_epsilon", expect=1)
    found = holder(x)
    torch.testing.assert_close(found.float(), wanted.float(), rtol=2e-3, atol=1e-3)
    assert weight == torch.float32 or found.dtype == wanted.dtype == weight


def test_a_wrong_count_is_an_error() -> None:
    with pytest.raises(AssertionError, match="found 1 norms, expected 2"):
        replace_norms(nn.Sequential(RMSNorm(4, eps=1e-6)), (RMSNorm,), "eps", expect=2)
