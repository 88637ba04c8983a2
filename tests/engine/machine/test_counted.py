"""Memory counted without computing: sums by hand, views, inputs, attention, and the published models' peaks
as they were measured on a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.machine.counted import peak_bytes
from kernels.fused import row_quant


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_what_is_dropped_is_not_counted_and_inputs_never_are() -> None:
    x = empty(1000)

    def work() -> Tensor:
        y = x + 1  # 4000 bytes
        z = y * 2  # 4000 more
        del y
        return z + z  # 4000 in the place of y

    assert peak_bytes(work) == 8000


def test_views_and_writes_in_place_are_no_memory() -> None:
    x = empty(10, 100)
    assert peak_bytes(lambda: x.view(1000)[10:].add_(1).t() if x.dim() == 1 else x.t().mul_(2)) == 0
    assert peak_bytes(lambda: (x + 1).view(-1)[5:]) == 4000, "a view keeps all that it is a part of"


def test_attention_holds_no_scores() -> None:
    q = empty(1, 2, 5000, 64, dtype=torch.bfloat16)
    assert peak_bytes(lambda: F.scaled_dot_product_attention(q, q, q)) == q.nbytes
    wide = empty(1, 2, 5000, 128, dtype=torch.bfloat16)
    assert peak_bytes(lambda: F.scaled_dot_product_attention(q, q, value=wide)) == wide.nbytes


def test_a_module_without_values() -> None:
    with torch.device("meta"):
        layers = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)).to(torch.bfloat16)
    x = empty(100, 64, dtype=torch.bfloat16)
    assert peak_bytes(lambda: layers(x)) == 2 * 100 * 256 * 2, "before and after the activation"


def test_a_fused_kernel_counts_what_it_allocates() -> None:
    """In plain torch it would be the float32 copies as well."""
    pytest.importorskip("triton")
    x = empty(100, 256, dtype=torch.bfloat16)
    assert peak_bytes(lambda: row_quant.run(x, quantize="int8")) == 100 * 256 + 100 * 4
