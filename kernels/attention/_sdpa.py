"""torch's scaled_dot_product_attention with exactly one backend, for the `sdpa_*` files.

Knows nothing of speed. The mask is the caller's lengths as a bool mask; padded keys and values are zeroed
first, because torch adds the mask to a score that may be NaN. [B, A, N, D].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from kernels.attention._checks import check, valid_keys, without_padding

if TYPE_CHECKING:
    from torch import Tensor


def attend(
    backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, *, scale: float, kv_lengths: Tensor | None
) -> Tensor:
    check(q, k, v, scale, kv_lengths)
    mask = None
    if kv_lengths is not None:
        mask = valid_keys(kv_lengths, k.shape[2])
        k, v = without_padding(k, kv_lengths), without_padding(v, kv_lengths)
    with sdpa_kernel(backend):
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    if kv_lengths is None:
        return out
    # A row of length 0 has no softmax; every implementation answers with zeros.
    empty = (kv_lengths == 0)[:, None, None, None]
    return torch.where(empty, torch.zeros((), dtype=out.dtype, device=out.device), out)
